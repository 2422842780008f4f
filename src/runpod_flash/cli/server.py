"""`flash server`: serve a project's endpoints durably, on one port of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runpod_flash.cli.numbers import Number
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from runpod_flash.cli.server_isolation import Apart
    from runpod_flash.cli.server_log import LogFormat
    from runpod_flash.cli.server_options import Webhooks
    from runpod_flash.engines.local.devices.leasing import GpuFallback

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--host", default="localhost", show_default=True, help="Where to listen.")
@click.option(
    "-p",
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="The port; 0 for any free one.",
)
@click.option(
    "--app",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory whose endpoints are served.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FLASH_DATA_DIR",
    help="Where jobs and logs are kept (default: the user's data directory).",
)
@click.option("--store", help="Where jobs are kept instead: sqlite:///PATH.")
@click.option(
    "--max-gb",
    type=Number(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Room for jobs and results.",
)
@click.option(
    "--datacenter",
    metavar="ID",
    help="The data center that this machine is in (default: it stands for all of them).",
)
@click.option(
    "--gpu-fallback",
    type=click.Choice(["none", "cpu"]),
    default="none",
    show_default=True,
    help="Where no such GPU is here: refuse the job, or run it on the CPU.",
)
@click.option(
    "--retention",
    type=Number(min=1),
    default=30.0,
    show_default=True,
    help="Minutes that results of /run are kept.",
)
@click.option(
    "--keep-releases",
    type=click.IntRange(min=2),
    default=20,
    show_default=True,
    help="How many releases of an environment can be gone back to.",
)
@click.option(
    "--webhooks",
    type=click.Choice(["public", "private", "any"]),
    default="public",
    show_default=True,
    help="Where webhooks may go: public addresses, also private networks, also this machine.",
)
@click.option(
    "--isolation",
    type=click.Choice(["apps", "none"]),
    default="apps",
    show_default=True,
    help="Keep each app's workers from the others' files and processes, where the system permits.",
)
@click.option(
    "--worker-user",
    metavar="NAME",
    default="nobody",
    show_default=True,
    help="Whom workers are kept apart as, if the server is root.",
)
@click.option(
    "--rate-limit",
    metavar="N/TIME",
    help="How often each key may ask each operation of an endpoint: 1000/10s (default: any).",
)
@click.option("--tls-cert", type=_FILE, help="A certificate's file (PEM).")
@click.option("--tls-key", type=_FILE, help="The file of its key (PEM).")
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    type=Number(min=0),
    help="Seconds that running jobs get when the server stops.",
)
@click.option(
    "--require-key", is_flag=True, help="Ask for keys on the loopback too, as on any other --host."
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    envvar="FLASH_LOG_FORMAT",
    help="One JSON object a line, or lines for people (default: the latter on a terminal).",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is told: debug has every request and job.",
)
@click.option(
    "--insecure", is_flag=True, help="Let other machines send their keys over plain http."
)
@click.pass_context
def server(
    context: click.Context,
    host: str,
    port: int,
    app: Path | None,
    data_dir: Path | None,
    store: str | None,
    max_gb: float,
    datacenter: str | None,
    gpu_fallback: GpuFallback,
    retention: float,
    keep_releases: int,
    webhooks: Webhooks,
    isolation: Apart,
    worker_user: str,
    rate_limit: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    grace: float,
    require_key: bool,
    log_format: LogFormat | None,
    log_level: str,
    insecure: bool,
) -> None:
    """Serve endpoints durably, on one port of this machine.

    Accepted jobs survive a crash and a restart. Ctrl-C (or SIGTERM) lets running jobs finish
    within the grace time; what is left is queued again for the next start.

    The first start prints an admin key. On the loopback, programs of this machine may call without
    a key; with any other --host every call needs one (`flash key`), over TLS.

    Example: flash server --app .
    """
    from runpod_flash.cli.server_options import Options, database_path, datacenter_id
    from runpod_flash.cli.server_session import run

    database = database_path(data_dir, store)
    context.obj = database
    if context.invoked_subcommand is not None:
        return
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if not is_loopback(host) and tls_cert is None and not insecure:
        raise click.ClickException(
            f"--host {host} would have other machines send their keys unencrypted; give --tls-cert "
            "and --tls-key, or add --insecure if the network is yours alone."
        )
    from runpod_flash.gateway.rate_limit import RateLimit

    tls = (tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    options = Options(
        host, port, app, database, max_gb, datacenter_id(datacenter), tls, grace, require_key,
        log_format, log_level, gpu_fallback, retention, webhooks, isolation, worker_user,
        None if rate_limit is None else RateLimit.parse(rate_limit), keep_releases,
    )  # fmt: skip
    raise SystemExit(run(options))


@server.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def backup(database: Path, file: Path) -> None:
    """Copy the store to FILE, whether or not the server runs."""
    from runpod_flash.plane.store.backup import copy

    jobs = copy(database, file)
    click.echo(f"{jobs} jobs copied to {file}")


@server.command()
@click.argument("file", type=_FILE)
@click.option("--yes", is_flag=True, help="Replace the store that is there.")
@click.pass_obj
def restore(database: Path, file: Path, yes: bool) -> None:
    """Put a backup in the place of the store. The server must not run."""
    from runpod_flash.control.data_dir import DataDirectory
    from runpod_flash.plane.store.backup import put_back

    if database.exists() and not yes:
        raise click.ClickException(f"{database} is there: add --yes to replace it with the backup.")
    with DataDirectory(database.parent):
        jobs = put_back(file, database)
    click.echo(f"{jobs} jobs restored to {database}")


@server.command("webhook-secret")
@click.pass_obj
def webhook_secret(database: Path) -> None:
    """Show the secret that webhooks are signed with, for their receivers.

    Without --data-dir, it is that of flash dev as well.
    """
    from runpod_flash.gateway.webhook_secret import kept_secret

    click.echo(kept_secret(database.parent))
