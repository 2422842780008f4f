"""Which app and environment a command is about: options and defaults, alike in all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.client.control import ControlClient

F = TypeVar("F", bound="Callable[..., Any]")


class Place(NamedTuple):
    """An environment of an app."""

    app: str
    environment: str

    @property
    def path(self) -> str:
        return f"/v2/apps/{self.app}/environments/{self.environment}"


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

    from runpod_flash.control.releases import check_name

    name = app or os.environ.get("FLASH_APP") or Path.cwd().name
    check_name("app", name)
    return name


def chosen_place(client: ControlClient, app: str | None, environment: str | None) -> Place:
    """The environment that was named, or that can only be meant."""
    from runpod_flash.control.releases import check_name

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
    return Place(name, environment)


def environments_of(client: ControlClient, app: str) -> list[str]:
    """Their names; empty for an app that is not there."""
    apps = client.ask("GET", "/v2/apps")["apps"]
    return next((list(each["environments"]) for each in apps if each["name"] == app), [])
