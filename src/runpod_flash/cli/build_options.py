"""Options of a build, alike in `flash build` and `flash deploy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.packing.building import BuildOptions

F = TypeVar("F", bound="Callable[..., Any]")

_OPTIONS = (
    click.option(
        "--python-version",
        metavar="MINOR",
        help="Python of endpoints that declare none (default: the server's; without one, 3.12).",
    ),
    click.option("--bundle", is_flag=True, help="Bring all packages: for a server without index."),
    click.option("--upgrade", is_flag=True, help="Take the latest packages that are allowed."),
    click.option("--no-deps", is_flag=True, help="Only packages that are named, not theirs."),
    click.option("--exclude", metavar="NAMES", default="", help="Packages to leave out: a,b,c."),
    click.option(
        "--allow",
        metavar="FILE",
        multiple=True,
        help="A file that may go although it seems to hold a credential. May be repeated.",
    ),
)


def build_options(command: F) -> F:
    """Adds them; `read_options` takes what they give."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def read_options(given: dict[str, Any]) -> BuildOptions:
    """What a command was given by these options."""
    from runpod_flash.packing.building import BuildOptions

    excluded = (name.strip() for name in given["exclude"].split(","))
    return BuildOptions(
        python=given["python_version"],
        bundle=given["bundle"],
        upgrade=given["upgrade"],
        no_deps=given["no_deps"],
        excluded=tuple(filter(None, excluded)),
        allowed=given["allow"],
    )
