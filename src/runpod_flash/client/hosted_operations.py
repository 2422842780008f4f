"""Asks a server as the hosted SDK asks its cloud: operations by the names of their fields."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from runpod_flash.client.chosen import chosen_target
from runpod_flash.client.control import ControlClient
from runpod_flash.errors import FlashAppError, FlashAppNotFoundError
from runpod_flash.unavailable import refuse_without_server

if TYPE_CHECKING:
    from pathlib import Path

_UPLOAD_SECONDS = 600.0


def server_for(what: str) -> ControlClient:
    """The chosen target; raises `NotAvailableError` without one."""
    target = chosen_target()
    if target is None:
        refuse_without_server(what)
    return ControlClient(target.address)


async def ask(field: str, selection: str = "", **variables: Any) -> Any:
    """What the field is. Raises `FlashAppError` with the server's words where it refuses."""
    server = server_for("FlashApp")
    given = ", ".join(f"{name}: ${name}" for name in variables)
    selected = f"{{ {selection} }}" if selection else ""
    body = {"query": f"{{ {field}({given}) {selected} }}", "variables": variables}
    told = await asyncio.to_thread(server.ask, "POST", "/graphql", body)
    if "errors" in told:
        words = str(told["errors"][0]["message"])
        kind = FlashAppNotFoundError if words.startswith("app not found") else FlashAppError
        raise kind(f"{server.origin}: {words}")
    return told["data"][field]


async def send(url: str, archive: Path) -> None:
    """Put an archive where it is expected; the URL is all the right that this takes."""
    import httpx

    data = await asyncio.to_thread(archive.read_bytes)
    headers = {"content-type": "application/gzip"}
    try:
        async with httpx.AsyncClient(timeout=_UPLOAD_SECONDS, trust_env=False) as client:
            response = await client.put(url, content=data, headers=headers)
    except httpx.TransportError as error:
        raise FlashAppError(f"{archive} could not be uploaded: {error}; try again") from None
    if not response.is_success:
        raise FlashAppError(f"{archive} was refused: {response.text:.300}")
