"""The group that all commands of `flash` belong to."""

from __future__ import annotations

import platform
from importlib import import_module
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


class _Commands(click.Group):
    """Loads a command's module, `cli/NAME.py`, when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["update"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"runpod_flash.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
