"""The group that all commands of `flash` belong to."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

import runpod_flash
from runpod_flash.cli import output
from runpod_flash.errors import FlashError
from runpod_flash.suggest import did_you_mean

# What `flash --help` says, so that it loads no command.
_COMMANDS = {
    "init": "Write a project that runs.",
    "dev": "Serve this directory's endpoints on localhost.",
    "server": "Serve endpoints durably: jobs survive a restart.",
    "login": "Get a key of a server, and run programs there.",
    "logout": "Forget the key of a server.",
    "whoami": "Say whose key is used at a server.",
    "target": "List servers, and choose where programs run.",
    "build": "Lock packages and pack what deploy sends.",
    "deploy": "Serve this directory's endpoints from a server.",
    "releases": "List what was deployed, and when.",
    "rollback": "Serve an earlier release again.",
    "undeploy": "End what is deployed in an environment.",
    "secret": "Set, list and unset secrets of an environment.",
    "volume": "Make volumes, and put and get their files.",
    "app": "List, show and delete apps of a server.",
    "env": "List, show and delete environments of an app.",
    "call": "Run a function on a server and print its result.",
    "ps": "Show a server's endpoints, workers, queues and GPUs.",
    "logs": "Show what a server's workers print.",
    "key": "Make, list and revoke keys of a server, and invite others.",
    "simulate": "Say what scaling settings do with a trace of calls.",
    "worker": "Let workers that you start yourself serve an endpoint.",
    "doctor": "Say what Flash finds here, and what is wrong.",
    "cache": "Show or clear the environments of workers.",
    "update": "Update Flash from where it was installed.",
    "completion": "Print the script that completes commands in a shell.",
}
_ALIASES = {"run": "dev"}

# Options of `flash dev` that the project's .env may set.
_DOTENV_OPTIONS = {"FLASH_HOST": "host", "FLASH_PORT": "port"}


def run() -> int:
    """Run the command line, and give its exit code. A failure is one sentence, no traceback."""
    output.print_anything()
    try:
        code = flash.main(prog_name="flash", standalone_mode=False)
    except click.ClickException as problem:
        return output.failed(problem)
    except click.Abort:
        click.echo(err=True)
        return 130
    except FlashError as problem:
        return output.failed(click.ClickException(str(problem)))
    except OSError as problem:
        about = f"{problem.filename}: " if problem.filename else ""
        return output.failed(click.ClickException(f"{about}{problem.strerror or problem}"))
    return code if isinstance(code, int) else 0


def _version() -> str:
    """Which program this is: an index has another one of the same name."""
    import platform
    from pathlib import Path

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

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        return super().make_context(*args, **{"color": output.colour(), **extra})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in _COMMANDS:
            return None
        module = import_module(f"runpod_flash.cli.{name}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and name not in {**_COMMANDS, **_ALIASES}:
            raise _unknown(name, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _unknown(name: str, context: click.Context) -> click.UsageError:
    hint = did_you_mean(name, _COMMANDS)
    return click.UsageError(f"No such command {name!r}.{hint}", context)


_EPILOG = """\b
Examples:
  flash init my-project     write a project that runs
  flash dev                 serve it, from inside the project
  flash COMMAND --help      say what a command does
"""


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
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
    elif _ALIASES.get(context.invoked_subcommand, context.invoked_subcommand) == "dev":
        context.default_map = {context.invoked_subcommand: _from_dotenv()}


def _from_dotenv() -> dict[str, str]:
    """Defaults of options that the project's `.env` sets; the command itself reports a bad file."""
    from runpod_flash import dotenv

    try:
        values = dotenv.values()
    except FlashError:
        return {}
    return {option: values[name] for name, option in _DOTENV_OPTIONS.items() if name in values}
