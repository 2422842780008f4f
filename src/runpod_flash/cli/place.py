"""Which app and environment a command is about: options and defaults, alike in all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.client.control import ControlClient
    from runpod_flash.control.releases import AppEnv

F = TypeVar("F", bound="Callable[..., Any]")


def path_of(place: AppEnv) -> str:
    """Where the server has it."""
    return f"/v2/apps/{place.app}/environments/{place.environment}"


def place_options(command: F) -> F:
    """Adds `--app` and `--env`."""
    add_app = click.option(
        "-a",
        "--app",
        metavar="NAME",
        help="The app (default: FLASH_APP, else this directory's name).",
    )
    add_environment = click.option(
        "-e",
        "--env",
        "environment",
        metavar="NAME",
        help="The environment (default: FLASH_ENV, else the only one, or production).",
    )
    return add_app(add_environment(command))


def chosen_app(app: str | None) -> str:
    """The app that was named, or that this directory is."""
    from pathlib import Path

    from runpod_flash.client.session import app_name
    from runpod_flash.control.releases import check_name

    name = app or app_name(Path.cwd())
    check_name("app", name)
    return name


def chosen_place(client: ControlClient, app: str | None, environment: str | None) -> AppEnv:
    """The environment that was named, or that can only be meant."""
    from runpod_flash.control.releases import AppEnv, check_name

    name = chosen_app(app)
    environment = environment or os.environ.get("FLASH_ENV")
    if environment:
        check_name("environment", environment)
    else:
        there = environments_of(client, name)
        if len(there) > 1:
            raise click.UsageError(
                f"{name} has the environments {', '.join(there)}; choose one with --env.",
                click.get_current_context(),
            )
        environment = there[0] if there else "production"
    return AppEnv(name, environment)


def endpoint_of(client: ControlClient, name: str, app: str | None, environment: str | None) -> str:
    """What the server calls an endpoint: by its id, where this directory is deployed and has one of
    that name. Raises as asking does, but only for a place that was named.
    """
    from runpod_flash.errors import ConfigurationError

    if app or environment:
        return f"{chosen_place(client, app, environment)}-{name}"
    try:
        place = chosen_place(client, None, None)
        present = client.ask("GET", path_of(place)).get("endpoints", ())
    except (ConfigurationError, click.UsageError):  # not there, several, or no key for it
        return name
    return f"{place}-{name}" if name in {each["name"] for each in present} else name


def environments_of(client: ControlClient, app: str) -> list[str]:
    """Their names; empty for an app that is not there."""
    apps = client.ask("GET", "/v2/apps")["apps"]
    return next((list(each["environments"]) for each in apps if each["name"] == app), [])
