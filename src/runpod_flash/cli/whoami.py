"""`flash whoami`: whose key a server sees."""

from __future__ import annotations

import click

from runpod_flash.cli.login import account
from runpod_flash.cli.servers import chosen_server, server_options


@click.command()
@server_options
def whoami(server: str | None, insecure: bool) -> None:
    """Say whose key is used at a server, and what it may do.

    Example: flash whoami
    """
    click.echo(account(chosen_server(server, insecure)))
