"""`flash login`: keep a key of a server for this user's commands and programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from runpod_flash.cli import output
from runpod_flash.cli.numbers import Number
from runpod_flash.cli.servers import known_address
from runpod_flash.cli.standard_input import read_input

if TYPE_CHECKING:
    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.login import LoginServer


@click.command()
@click.option("--server", metavar="URL", help="The server (default: the only known one that runs).")
@click.option("--api-key", metavar="KEY", help="The key; - reads it from standard input.")
@click.option("--device", is_flag=True, help="Show a code to enter in a browser elsewhere.")
@click.option(
    "--no-browser", "--no-open", is_flag=True, help="Show the page's address, and open nothing."
)
@click.option(
    "--scope",
    type=click.Choice(["invoke", "deploy", "admin"]),
    default="deploy",
    show_default=True,
    help="What the key is to do; at most what that of who allows it may.",
)
@click.option(
    "--timeout",
    type=Number(min=1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for somebody to allow it.",
)
@click.option(
    "--insecure", is_flag=True, help="Send the key over plain http, which others may read."
)
def login(
    server: str | None,
    api_key: str | None,
    device: bool,
    no_browser: bool,
    scope: str,
    timeout: float,
    insecure: bool,
) -> None:
    """Get a key of a server, and have programs run there from now on.

    A page of the server opens in your browser, where you allow it: with a key that you have
    already, or in a browser that has signed in before. Without a browser here (as over SSH) you get
    a code for one elsewhere. --api-key KEY keeps a key that an admin has made; without a terminal,
    it is read from standard input.

    Example: flash login --server https://gpu-box:8000
    """
    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.credentials import kept_key
    from runpod_flash.client.login import LoginServer

    address = server or known_address()
    if api_key is not None and (device or no_browser):
        raise click.UsageError("--api-key needs no browser: leave --device and --no-browser out.")
    told_how = device or no_browser
    asks = told_how or (api_key is None and output.can_ask())
    kept = kept_key(address) if asks and not told_how else None
    if kept is not None:
        client = ControlClient(address, insecure=insecure, key=kept)
        if _may(client, scope):
            click.echo("There is a key of this server here already; `flash logout` forgets it.")
            _choose(client, account(client))
            return
    if asks:
        key = _allowed(LoginServer(address, scope, insecure), device, no_browser, timeout)
    else:
        key = _given(api_key)
    client = ControlClient(address, insecure=insecure, key=key)
    whose = account(client)  # (one that does not count is not kept)
    _keep(client, key, by_login=asks)
    _choose(client, whose)


def _keep(client: ControlClient, key: str, *, by_login: bool) -> None:
    """Keep the key in the place of another, which ends if it was made for here."""
    from contextlib import suppress

    from runpod_flash.client.credentials import keep_key, kept_by_login
    from runpod_flash.client.login import end_key
    from runpod_flash.errors import FlashError

    old = kept_by_login(client.origin)
    keep_key(client.origin, key, by_login=by_login)
    if old not in (None, key):
        with suppress(FlashError):
            end_key(client.origin, str(old))


def _choose(client: ControlClient, whose: str) -> None:
    import os

    from runpod_flash.client.chosen import VARIABLE, keep_choice

    keep_choice(client.origin)
    click.echo(f"Logged in as {whose}.")
    before = [VARIABLE] if VARIABLE in os.environ else []  # (an empty one counts as well)
    before += ["FLASH_API_KEY"] if os.environ.get("FLASH_API_KEY") else []
    if before:
        click.echo(f"But {' and '.join(before)} of your shell count before that: unset them.")
    else:
        click.echo("Programs and commands run there now; `flash target use none`: on this machine.")


def _may(client: ControlClient, scope: str) -> bool:
    """Whether its key counts, and may do that."""
    from runpod_flash.control.key import SCOPES
    from runpod_flash.errors import ConfigurationError

    try:
        return scope in SCOPES[client.ask("GET", "/v2/account")["key"]["scope"]]
    except ConfigurationError:
        return False


def _allowed(server: LoginServer, device: bool, no_browser: bool, seconds: float) -> str:
    """The key that somebody allows in a browser: here, or elsewhere."""
    from runpod_flash.client.login import login_by_browser, login_by_code

    if device or not (no_browser or browser_here()):
        return login_by_code(server, _show_code, seconds)
    return login_by_browser(server, _show_page if no_browser else _open_page, seconds)


def browser_here() -> bool:
    """Whether a page that is opened here is seen by who sits at the terminal."""
    import os
    import webbrowser

    if any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")):
        return False
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if sys.platform == "linux" and not screen:
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _open_page(address: str) -> None:
    import webbrowser

    click.echo("Your browser opens a page of the server, to allow this login. If none opens:")
    click.echo(f"  {address}")
    click.echo("Is your browser on another machine? Press Ctrl-C, and use `flash login --device`.")
    webbrowser.open(address)


def _show_page(address: str) -> None:
    click.echo("Open this page in a browser on this machine, to allow the login:")
    click.echo(f"  {address}")


def _show_code(address: str, code: str) -> None:
    click.echo(f"Open {address} in a browser, on any machine, and enter the code")
    click.echo(f"  {click.style(code, bold=True)}")
    click.echo(f"or open {address}?user_code={code}")
    click.echo("Waiting until it is allowed (Ctrl-C ends this)...")


def _given(api_key: str | None) -> str:
    if api_key in ("-", None):
        api_key = read_input()
    key = str(api_key).strip()
    if not key:
        raise click.ClickException(
            "No key was given: pass --api-key KEY, or pipe it in (`flash key create` makes one); "
            "--device asks in a browser elsewhere."
        )
    return key


def account(client: ControlClient) -> str:
    """Whose key is used, as a phrase."""
    key = client.ask("GET", "/v2/account")["key"]
    only = f" to {', '.join(key['endpoints'])}" if key["endpoints"] else ""
    until = f" until {key['expiresAt']}" if key["expiresAt"] else ""
    return f"{key['name']} at {client.origin}, who may {key['scope']}{only}{until}"
