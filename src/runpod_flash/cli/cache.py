"""`flash cache`: the environments that workers of this machine run in, and their removal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.numbers import Number

if TYPE_CHECKING:
    from runpod_flash.engines.local.environments.environments import Environments, Stored

_DAY = 86_400
_SHOWN_KEY = 8
_HEADS = ("KEY", "PYTHON", "SIZE", "LAST USED", "PACKAGES")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Show the environments of workers: their packages, size, last use and Python.

    Each is built once and shared by all programs. After a build, those unused longest go, until at
    most FLASH_CACHE_MAX_GB stay.

    Example: flash cache clear --unused-days 30
    """
    if context.invoked_subcommand is not None:
        return
    stored = _environments().stored()
    if as_json:
        print_json(_report(stored))
    else:
        _show(stored)


@cache.command()
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@click.option(
    "--unused-days",
    type=Number(min=0),
    metavar="N",
    help="Only those that nothing has used for N days.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script; needs --yes.")
def clear(keys: tuple[str, ...], unused_days: float | None, yes: bool, as_json: bool) -> None:
    """Remove environments: those with these KEYs, those unused for N days, or all.

    A KEY may be shortened. Environments that a program uses right now stay. What is needed again is
    built again.

    Example: flash cache clear --unused-days 30
    """
    if keys and unused_days is not None:
        raise click.UsageError("Give KEYs or --unused-days, not both.", click.get_current_context())
    if as_json and not yes:
        raise click.UsageError("--json does not ask: add --yes.", click.get_current_context())
    environments = _environments()
    stored = environments.stored()
    chosen = _chosen(stored, keys, unused_days)
    in_use = [each for each in chosen if each.in_use]
    free = [each for each in chosen if not each.in_use]
    if not as_json:
        _announce(free, in_use)
    if free and not yes and not _may_remove(free):
        click.echo("Nothing was removed.", err=True)
        return
    _remove(environments, free, in_use, as_json)


def _environments() -> Environments:
    from runpod_flash.engines.local.environments.environments import Environments, cache_directory

    return Environments(cache_directory())


def _human(count: int) -> str:
    from runpod_flash.engines.local.capacity import human_bytes

    return human_bytes(count)


# What is there


def _bound() -> int:
    from runpod_flash import dotenv
    from runpod_flash.engines.local.environments.environments import cache_bound

    return cache_bound({**dotenv.values(), **os.environ})


def _report(stored: list[Stored]) -> dict[str, Any]:
    from runpod_flash.engines.local.environments.environments import cache_directory

    return {
        "path": str(cache_directory()),
        "bytes": sum(each.bytes for each in stored),
        "bound_bytes": _bound(),
        "environments": [
            {
                "key": each.key,
                "path": str(each.path),
                "python": each.python,
                "packages": each.packages,
                "bytes": each.bytes,
                "used_at": each.used_at,
                "in_use": each.in_use,
            }
            for each in stored
        ],
    }


def _show(stored: list[Stored]) -> None:
    from runpod_flash.engines.local.environments.environments import cache_directory

    for index, line in enumerate(_table(stored) if stored else ()):
        click.echo(click.style(line, dim=True) if not index else line)
    if stored:
        click.echo()
    taken = sum(each.bytes for each in stored)
    number = output.counted(len(stored), "environment") if stored else "No environments"
    click.echo(f"{number}, {_human(taken)} of at most {_human(_bound())}, in {cache_directory()}")


def _table(stored: list[Stored]) -> list[str]:
    """Packages get what the other columns leave of the terminal."""
    now = time.time()
    rows = [
        (
            each.key[:_SHOWN_KEY],
            each.python,
            _human(each.bytes),
            "now, in use" if each.in_use else output.ago(now - each.used_at),
        )
        for each in stored
    ]
    taken = sum(max(map(len, column)) + 2 for column in zip(_HEADS[:-1], *rows, strict=True))
    left = shutil.get_terminal_size().columns - taken if sys.stdout.isatty() else 10_000
    packages = [output.shortened(each.packages, max(left, 12)) or "none" for each in stored]
    full = [(*row, names) for row, names in zip(rows, packages, strict=True)]
    return output.table([_HEADS, *full], right=[2])


# Removal


def _chosen(stored: list[Stored], keys: tuple[str, ...], days: float | None) -> list[Stored]:
    if keys:
        found = {each.key: each for each in (_named(stored, key) for key in keys)}
        return list(found.values())
    if days is None:
        return stored
    return [each for each in stored if time.time() - each.used_at >= days * _DAY]


def _named(stored: list[Stored], key: str) -> Stored:
    """The environment whose key begins so; raises where there is none, or several."""
    found = [each for each in stored if each.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise click.ClickException(f"no environment has the key {key!r}; `flash cache` lists them.")
    keys = ", ".join(each.key[: max(_SHOWN_KEY, len(key) + 4)] for each in found)
    raise click.ClickException(
        f"{key!r} stands for several environments ({keys}); write more of it."
    )


def _announce(free: list[Stored], in_use: list[Stored]) -> None:
    if not free:
        click.echo("There is nothing to remove.")
    else:
        for line in _table(free):
            click.echo(line)
        click.echo()
    if in_use:
        number = output.counted(len(in_use), "environment")
        click.echo(f"{number} in use by a program now: not removed.")


def _may_remove(free: list[Stored]) -> bool:
    number, size = output.counted(len(free), "environment"), sum(each.bytes for each in free)
    if not output.can_ask():
        raise click.ClickException(
            f"{number} would be removed, and nobody can be asked here; give --yes to remove."
        )
    return output.confirmed(f"Remove {number}, {_human(size)}?")


def _remove(
    environments: Environments, free: list[Stored], in_use: list[Stored], as_json: bool
) -> None:
    """Remove those that are still free now, and what killed builds left."""
    removed = [each for each in free if environments.remove(each.key)]
    kept = [*in_use, *(each for each in free if each not in removed)]
    freed = sum(each.bytes for each in removed) + environments.sweep(sys.maxsize).freed_bytes
    if as_json:
        keys = [each.key for each in removed]
        report = {"removed": keys, "in_use": [e.key for e in kept], "freed_bytes": freed}
        print_json(report)
    elif removed or freed:
        number = output.counted(len(removed), "environment")
        click.echo(f"Removed {number}: {_human(freed)} are free again.")
