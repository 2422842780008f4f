"""The group that all commands of `flash` belong to."""

from __future__ import annotations

import platform
from pathlib import Path

import click

import runpod_flash


def _version() -> str:
    """Which program this is: an index has another one of the same name."""
    where = Path(runpod_flash.__file__).parent
    return (
        f"flash {runpod_flash.__version__} "
        f"(runpod-flash, self-hosted; {where}, Python {platform.python_version()})"
    )


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(_version())
        context.exit()


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-v",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Say which program this is, and exit.",
)
@click.pass_context
def flash(context: click.Context) -> None:
    """Turn a decorated Python function into a serverless GPU endpoint, on any hardware."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
