"""`flash completion`: the script with which a shell completes commands, options and keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_FLASH_COMPLETE"
_INSTALL = {
    "bash": 'add this line to ~/.bashrc:  eval "$(flash completion bash)"',
    "zsh": 'add this line to ~/.zshrc, after compinit:  eval "$(flash completion zsh)"',
    "fish": "flash completion fish > ~/.config/fish/completions/flash.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_INSTALL)), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which a shell completes commands and options.

    Its first line says how to install it.

    Example: eval "$(flash completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "flash", _VARIABLE).source()
    click.echo(f"# To install: {_INSTALL[shell]}\n{script.strip()}")
