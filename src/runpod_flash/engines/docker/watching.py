"""Follows one container on a thread of its own: what it writes, and how it ends."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.docker.connection import EngineGoneError, calls
from runpod_flash.engines.docker.sweeping import remove
from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.engines.local.processes.launcher import describe
from runpod_flash.engines.local.processes.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.engines.docker.connection import Connection

_RETRY_SECONDS = 0.3
_KILLED = 128 + 9
GONE = "was removed from outside"
# What programs say that need what is forbidden to them, and how it is allowed.
_HINTS = {
    "Read-only file system": "its root is read-only: 'writable-root'",
    "Operation not permitted": "it has no capabilities: such as 'CAP_CHOWN' or 'CAP_SETUID'",
}


def follow(connection: Connection, container: str, on_line: Callable[[str], None]) -> str:
    """Returns when the container has ended, and is removed; how it ended, as a phrase.

    An engine that does not answer meanwhile is waited for.
    """
    began = 0
    while True:
        try:
            with calls(connection.address):
                _lines(connection, container, began, on_line)
                connection.api.wait(container, timeout=None)
                found = connection.api.inspect_container(container)
        except EngineGoneError:
            began = int(time.time())
            time.sleep(_RETRY_SECONDS)
            continue
        except Exception as error:
            if getattr(error, "status_code", None) == 404:
                return GONE
            began = int(time.time())
            time.sleep(_RETRY_SECONDS)
            continue
        if not found["State"]["Running"]:
            with suppress(EngineGoneError):
                remove(connection, container)
            return ended(found)
        began = int(time.time())


def _lines(
    connection: Connection, container: str, since: int, on_line: Callable[[str], None]
) -> None:
    lines = Lines()
    told = connection.api.logs(container, stream=True, follow=True, since=since or None)
    for piece in told:
        for line in lines.feed(piece):
            on_line(line)
    for line in lines.rest():
        on_line(line)


def ended(found: dict[str, Any]) -> str:
    """A phrase for how a container ended, from what the engine says of it."""
    state = found["State"]
    code = int(state.get("ExitCode") or 0)
    limit = int((found.get("HostConfig") or {}).get("Memory") or 0)
    if state.get("OOMKilled"):
        if limit:
            return f"was killed for using more than its {human_bytes(limit)} of memory"
        return "was killed, for the machine's memory was full"
    if code == _KILLED and limit:  # (not every engine notices why)
        size = human_bytes(limit)
        return f"was killed by SIGKILL, as is what uses more than its {size} of memory"
    return describe(-(code - 128) if 128 < code < 160 else code)


def hints(output: str) -> str:
    """What may explain the last lines of a container that could not run, as a line."""
    found = [text for said, text in _HINTS.items() if said in output]
    if not found:
        return ""
    return f"flash: {found[0]} in template=PodTemplate(config={{'allow': [...]}}) allows that"
