"""`flash volume`: the network volumes of a server, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.servers import chosen_server, server_options
from runpod_flash.cli.undeploy import require_consent
from runpod_flash.printable import printable

if TYPE_CHECKING:
    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.volumes.transfer import Report

_PATH = "/v2/network-volumes"


@click.group()
def volume() -> None:
    """Make and delete volumes of a server, and put and get their files.

    A volume is a directory that workers see at /runpod-volume, of all endpoints that declare
    NetworkVolume(name=...). It outlasts releases and restarts. VOLUME is a name or an id.

    Example: flash volume put models ./llama
    """


@volume.command(name="list")
@json_option
@server_options
def list_(as_json: bool, server: str | None, insecure: bool) -> None:
    """List the volumes of a server.

    Example: flash volume list
    """
    found = _all(chosen_server(server, insecure))
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("This server has no volume; `flash volume create NAME` makes one.")
        return
    rows = [
        (each["name"], each["id"], f"{each['size']} GB", each["dataCenter"], each["createdAt"])
        for each in found
    ]
    for line in output.headed(("VOLUME", "ID", "SIZE", "DATA CENTER", "CREATED"), rows, right=[2]):
        click.echo(line)


@volume.command()
@click.argument("name")
@click.option("--size", default=100, show_default=True, help="GB; a worker warns above that.")
@click.option(
    "--datacenter", default="EU-RO-1", show_default=True, metavar="ID", help="Where it is."
)
@json_option
@server_options
def create(
    name: str, size: int, datacenter: str, as_json: bool, server: str | None, insecure: bool
) -> None:
    """Make a volume. Deploying an endpoint that names it makes it as well.

    Example: flash volume create models --size 200
    """
    from runpod_flash.volume import NetworkVolume

    declared = NetworkVolume(name=name, size=size, datacenter=datacenter)  # (says what is wrong)
    fields = {"name": name, "size": size, "dataCenter": declared.datacenter.value}
    made = chosen_server(server, insecure).ask("POST", _PATH, fields)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{name} is there (id {made['id']}); fill it: flash volume put {name} FOLDER")


@volume.command()
@click.argument("volume")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def delete(volume: str, yes: bool, server: str | None, insecure: bool) -> None:
    """Delete a volume and all of its files. Refused while endpoints use it.

    Example: flash volume delete models
    """
    client = chosen_server(server, insecure)
    found = _named(client, volume)
    require_consent(f"Delete {found['name']} and all of its files?", yes)
    client.ask("DELETE", f"{_PATH}/{found['id']}")
    click.echo(f"{found['name']} is deleted.")


@volume.command()
@click.argument("volume")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", required=False)
@json_option
@server_options
def put(
    volume: str,
    source: Path,
    target: str | None,
    as_json: bool,
    server: str | None,
    insecure: bool,
) -> None:
    """Upload a file or folder, to TARGET in the volume (default: its own name; / for the top).

    Only files that differ travel, several at a time, and each is verified. Broken off, the same
    command goes on where it was. Workers never see half a file.

    Example: flash volume put models ./llama
    """
    from runpod_flash.cli.progress import Progress
    from runpod_flash.client.volumes.putting import local_files
    from runpod_flash.client.volumes.putting import put as put_files

    client = chosen_server(server, insecure)
    found = _named(client, volume)
    place = source.resolve().name if target is None else target.strip("/")
    files, skipped = local_files(source, place)
    report = put_files(client, found["id"], files, Progress("upload", told=False))
    _report(found, report._replace(skipped=skipped), place, as_json)


@volume.command()
@click.argument("volume")
@click.argument("path")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@json_option
@server_options
def get(
    volume: str,
    path: str,
    target: Path | None,
    as_json: bool,
    server: str | None,
    insecure: bool,
) -> None:
    """Download a file or folder of the volume (/ for all), to TARGET (default: its own name).

    Only files that differ travel, several at a time, and each is verified. Broken off, the same
    command goes on where it was.

    Example: flash volume get models llama ./llama
    """
    from runpod_flash.cli.progress import Progress
    from runpod_flash.client.volumes.getting import get as get_files

    client = chosen_server(server, insecure)
    found = _named(client, volume)
    place = path.strip("/")
    here = target or Path(place.rpartition("/")[2] or found["name"])
    report = get_files(client, found["id"], place, here, Progress("download", told=False))
    _report(found, report, str(here), as_json)


@volume.command()
@click.argument("volume")
@click.argument("path", default="")
@click.option("-r", "--recursive", is_flag=True, help="Also what is in its folders.")
@json_option
@server_options
def ls(
    volume: str, path: str, recursive: bool, as_json: bool, server: str | None, insecure: bool
) -> None:
    """List what is in a folder of a volume (default: at its top).

    Example: flash volume ls models llama
    """
    from runpod_flash.client.volumes.getting import listed

    client = chosen_server(server, insecure)
    found = _named(client, volume)
    files = list(listed(client, found["id"], path.strip("/"), deep=recursive))
    if as_json:
        print_json(files)
        return
    rows = [
        (f"{each['size']}" if each["type"] == "file" else "", each["modifiedAt"], _line(each))
        for each in files
    ]
    for line in output.headed(("BYTES", "MODIFIED", "PATH"), rows, right=[0]) if rows else ():
        click.echo(line)


@volume.command()
@click.argument("volume")
@click.argument("path")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def rm(volume: str, path: str, yes: bool, server: str | None, insecure: bool) -> None:
    """Remove a file of a volume, or a folder with all that is in it.

    Example: flash volume rm models llama
    """
    from urllib.parse import quote

    client = chosen_server(server, insecure)
    found, place = _named(client, volume), path.strip("/")
    require_consent(f"Remove {place} from {found['name']}?", yes)
    client.ask("DELETE", f"{_PATH}/{found['id']}/files/{quote(place)}")
    click.echo(f"{place} is removed from {found['name']}.")


def _all(client: ControlClient) -> list[dict[str, Any]]:
    return list(client.ask("GET", _PATH)["networkVolumes"])


def _named(client: ControlClient, volume: str) -> dict[str, Any]:
    """The volume of that id or name; raises where there is none, or several."""
    from runpod_flash.suggest import did_you_mean

    there = _all(client)
    found = [each for each in there if each["id"] == volume]
    found = found or [each for each in there if each["name"] == volume]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{each['id']} in {each['dataCenter']}" for each in found)
        raise click.ClickException(f"{volume!r} is in several data centers: name its id ({ids}).")
    hint = did_you_mean(volume, [each["name"] for each in there])
    raise click.ClickException(
        f"there is no volume {volume!r} at {client.origin}; make it: flash volume create "
        f"{volume}.{hint}"
    )


def _report(found: dict[str, Any], report: Report, place: str, as_json: bool) -> None:
    if as_json:
        told = {
            "volume": found["id"],
            "path": place,
            "files": report.files,
            "bytes": report.bytes,
            "moved": report.moved,
            "movedBytes": report.moved_bytes,
            "skipped": list(report.skipped),
        }
        print_json(told)
        return
    for each in report.skipped:
        click.echo(f"skipped {printable(each)}: it is no file, or a link that leads elsewhere")
    there = f"{output.counted(report.files, 'file')} ({report.bytes / 1e6:.1f} MB)"
    moved = f"{report.moved} new or changed ({report.moved_bytes / 1e6:.1f} MB travelled)"
    click.echo(f"{there} at {place or '/'}, all verified: {moved}.")


def _line(each: dict[str, Any]) -> str:
    ending = {"folder": "/", "link": "@"}.get(each["type"], "")
    return f"{printable(each['path'])}{ending}"
