"""Which port of a container is asked: declared, exposed, known, or the first that listens."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.engines.docker.known import known

if TYPE_CHECKING:
    from runpod_flash.engines.docker.images import Image
    from runpod_flash.spec import Container

_LISTENS = "0A"
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")


class Listening(NamedTuple):
    """The ports on which a container listens: for others, and for itself alone."""

    open: tuple[int, ...]
    closed: tuple[int, ...]


def candidates(container: Container, image: Image) -> tuple[int, ...]:
    """The ports that may be an HTTP server's, the likeliest first; none where nothing says so."""
    if container.ports:
        return container.ports
    usual = known(container.image).port
    if image.ports:
        return tuple(sorted(image.ports, key=lambda port: port != usual))
    return (usual,) if usual else ()


def health_path(container: Container) -> str:
    """The path that says whether the server can take requests."""
    return container.health or known(container.image).health or "/ping"


def listening(pid: int) -> Listening:
    """What the processes of a container listen on, as its kernel's tables have it."""
    found: dict[int, bool] = {}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                address, _, port = words[1].partition(":")
                if words[3] == _LISTENS:
                    number = int(port, 16)
                    found[number] = found.get(number, False) or address not in _LOOPBACK
    return Listening(
        tuple(sorted(port for port, is_open in found.items() if is_open)),
        tuple(sorted(port for port, is_open in found.items() if not is_open)),
    )
