"""What a person sees of `flash deploy`: what changes, the upload, and where the endpoints are."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from runpod_flash.cli import output
from runpod_flash.engines.docker.known import known
from runpod_flash.gateway.addresses import prefix_of
from runpod_flash.gateway.openapi import example

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.deploying import Change
    from runpod_flash.control.releases import AppEnv
    from runpod_flash.project.catalog import Catalog, Discovered


def plan(
    place: AppEnv, origin: str, changes: Sequence[Change], active: int | None, secret: Sequence[str]
) -> None:
    """What is going to be done, before it is; `secret` are declared variables with secrets."""
    click.echo()
    now = f"release {active} is served" if active else "a new environment"
    click.echo(f"  {click.style(f'{place.app} {place.environment}', bold=True)} at {origin}: {now}")
    click.echo()
    for line in output.headed(("ENDPOINT", "CHANGE"), [(c.endpoint, c.what) for c in changes]):
        click.echo(f"  {line}")
    if secret:
        click.echo(f"\n  {', '.join(secret)}: the secret's value counts, not that of the code")
    click.echo()


def packages(found: Iterable[Change]) -> None:
    """Which packages of which endpoints are others than now."""
    lines = [f"  packages of {each.endpoint}: {each.what}" for each in found]
    if lines:
        click.echo("\n".join([*lines, ""]))


def images(endpoints: Iterable[Mapping[str, Any]]) -> None:
    """Which content of which images serves, whatever becomes of their names."""
    found = [each for each in endpoints if each["image"] is not None]
    lines = [f"  image of {each['name']}: {output.image(each['image'])}" for each in found]
    click.echo("\n".join(["", *lines]))


def served(
    catalog: Catalog, client: ControlClient, place: AppEnv, number: int, seconds: float
) -> None:
    """Where everything is, and how to call it."""
    base = f"{client.origin}/d/{place}"
    rows = [row for each in catalog.endpoints for row in _rows(each, client.origin, place)]
    click.echo()
    for line in output.headed(("ENDPOINT", "ADDRESS"), rows):
        click.echo(f"  {line}")
    click.echo()
    click.echo(f"  {_curl(catalog.endpoints[0], client, place)}")
    click.echo(f"  {base}/docs")
    click.echo()
    click.echo(f"  release {number} is served ({seconds:.1f} s)")
    click.echo()


def _rows(each: Discovered, origin: str, place: AppEnv) -> list[tuple[str, str]]:
    if each.spec.is_image:
        return _image_rows(each, origin, place)
    if each.operations:
        return [(each.spec.name, f"POST {origin}{_queue_path(each, place)}")]
    base = f"{origin}{_routes_path(each, place)}"
    calls = [f"{route.method} {base}{route.path}" for route in each.routes]
    return [(each.spec.name if not n else "", call) for n, call in enumerate(calls)]


def _image_rows(each: Discovered, origin: str, place: AppEnv) -> list[tuple[str, str]]:
    base = f"{origin}{_routes_path(each, place)}"
    rows = [
        (each.spec.name, f"POST {origin}{_queue_path(each, place)}"),
        ("", f"ANY  {base}/..."),
    ]
    container = each.spec.build.container
    if container is not None and known(container.image).openai:
        rows.append(("", f"export OPENAI_BASE_URL={base}/v1"))
    return rows


def _queue_path(each: Discovered, place: AppEnv) -> str:
    return f"/v2/{place}-{quote(each.spec.name, safe='')}/runsync"


def _routes_path(each: Discovered, place: AppEnv) -> str:
    return f"/d/{place}{quote(prefix_of(each))}"


def _curl(each: Discovered, client: ControlClient, place: AppEnv) -> str:
    key = ' -H "Authorization: Bearer $FLASH_API_KEY"' if client.needs_key else ""
    if not each.operations:
        url = f"{client.origin}{_routes_path(each, place)}{each.routes[0].path}"
        return f"curl {shlex.quote(url)}{key}"
    body = json.dumps({"input": example(each.operations[0].input)})
    kind = " -H 'content-type: application/json'"
    return f"curl {client.origin}{_queue_path(each, place)}{key}{kind} -d {shlex.quote(body)}"
