"""`flash dev`: serve this directory's endpoints on localhost, on real workers, as files change."""

from __future__ import annotations

import click

from runpod_flash.loopback import is_loopback


@click.command()
@click.option(
    "--host", default="localhost", envvar="FLASH_HOST", show_default=True, help="Where to listen."
)
@click.option(
    "-p",
    "--port",
    default=8888,
    type=click.IntRange(0, 65535),
    envvar="FLASH_PORT",
    show_default=True,
    help="The port, or the next free one after it.",
)
@click.option(
    "--reload/--no-reload", default=True, show_default=True, help="Serve files as they change."
)
@click.option(
    "--auto-provision",
    is_flag=True,
    help="Build environments and start workers before the first request.",
)
@click.option(
    "--insecure", is_flag=True, help="Let other machines in, with no key asked (see --host)."
)
@click.option(
    "--target",
    metavar="URL",
    help="A server on whose workers the code runs; the addresses stay on this machine.",
)
def dev(
    host: str, port: int, reload: bool, auto_provision: bool, insecure: bool, target: str | None
) -> None:
    """Serve this directory's endpoints on localhost, on real workers.

    Every function gets a URL, /FILE/FUNCTION/runsync, and every route its own; /docs lists them
    and lets you try them. Saved changes are served at once. Ctrl-C stops everything.

    Example: flash dev --auto-provision
    """
    if not is_loopback(host) and not insecure:
        raise click.ClickException(
            f"--host {host} would let other machines run your functions without a key; leave it "
            "out, or add --insecure if the network is yours alone."
        )
    from runpod_flash.cli.dev_front import Options
    from runpod_flash.cli.dev_session import run

    raise SystemExit(run(Options(host, port, reload, auto_provision, target)))
