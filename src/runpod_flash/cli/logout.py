"""`flash logout`: keep no key of a server any more."""

from __future__ import annotations

import click

from runpod_flash.cli.servers import chosen_address


@click.command()
@click.option("--server", metavar="URL", help="The server (default: the chosen target).")
def logout(server: str | None) -> None:
    """Forget the key of a server; programs run on this machine again if they ran there.

    A key that `flash login` made is ended as well. Another one stays good: `flash key revoke` ends
    it.

    Example: flash logout
    """
    from runpod_flash.client.chosen import keep_choice, kept_choice
    from runpod_flash.client.credentials import forget_key, kept_by_login, kept_key, origin_of

    origin = origin_of(chosen_address(server))
    if kept_key(origin) is None:
        raise click.ClickException(f"No key is kept for {origin}; `flash target list` shows all.")
    made = kept_by_login(origin)
    forget_key(origin)
    if kept_choice() == origin:
        keep_choice("")
    click.echo(f"The key of {origin} is forgotten here.")
    if made is not None:
        _end(origin, made)


def _end(origin: str, key: str) -> None:
    from runpod_flash.client.login import end_key
    from runpod_flash.errors import FlashError

    try:
        end_key(origin, key)
    except FlashError as error:
        click.echo(f"The server still knows it (`flash key revoke` ends it): {error}", err=True)
