"""Containers that planes have left behind: found by their labels, and removed."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.docker.connection import calls, connect
from runpod_flash.engines.docker.creation import HOST_LABEL, PLANE_LABEL
from runpod_flash.engines.local.devices.gpu_locks import LockDirectory
from runpod_flash.errors import WorkerStartError

if TYPE_CHECKING:
    from runpod_flash.engines.docker.connection import Connection
    from runpod_flash.engines.docker.marks import Marks

# A plane's containers are nobody's once its lock here is free.
LOCK_DIR = Path("/tmp/runpod-flash-planes")


def run_folder(plane: str) -> Path:
    """Where a plane has its sockets that containers see; whoever makes it keeps it private."""
    return Path(tempfile.gettempdir(), f"flash-{plane}")


def lock_plane(plane: str) -> int | None:
    """A descriptor that says for as long as it is open that the plane is there."""
    return LockDirectory(LOCK_DIR).take(plane)


def unlock_plane(plane: str, fd: int) -> None:
    """The plane has come to its end."""
    os.close(fd)
    with suppress(OSError):
        (LOCK_DIR / f"{plane}.lock").unlink()


def sweep(connection: Connection) -> int:
    """Remove the containers of planes of this machine that are there no more; how many."""
    found = _containers(connection, f"{HOST_LABEL}={platform.node()}")
    planes = {str(each["Labels"].get(PLANE_LABEL, "")) for each in found}
    ended = {plane for plane in planes if has_ended(plane)}
    left = [each for each in found if each["Labels"].get(PLANE_LABEL) in ended]
    _remove(connection, left)
    return len(left)


def sweep_marked(marks: Marks) -> None:
    """Remove the containers of those marked planes that are there no more, on their engines.

    Of an engine that does not answer the marks stay, for the next time.
    """
    for plane in filter(has_ended, marks.all()):
        with suppress(WorkerStartError, OSError):
            connection = connect(marks.address(plane))
            with closing(connection.api):
                remove_all(connection, plane)
            marks.remove(plane)


def remove_all(connection: Connection, plane: str) -> None:
    """Remove the containers of one plane, whatever they do, and its sockets."""
    _remove(connection, _containers(connection, f"{PLANE_LABEL}={plane}"))
    shutil.rmtree(run_folder(plane), ignore_errors=True)


def _containers(connection: Connection, label: str) -> list[Any]:
    with calls(connection.address):
        found = connection.api.containers(all=True, filters={"label": label})
    # (Some engines give those that have any of several labels.)
    name, _, value = label.partition("=")
    return [each for each in found if (each.get("Labels") or {}).get(name) == value]


def has_ended(plane: str) -> bool:
    """Whether a plane is there no more; then its lock is removed."""
    fd = lock_plane(plane) if plane else None
    if fd is None:
        return not plane
    unlock_plane(plane, fd)
    return True


def _remove(connection: Connection, containers: list[Any]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: remove(connection, str(each["Id"])), containers))


def remove(connection: Connection, container: str) -> None:
    """Kill a container, if it runs, and remove it with what it has written."""
    import docker

    with calls(connection.address):
        with suppress(docker.errors.APIError):
            connection.api.kill(container)
        with suppress(docker.errors.NotFound):
            connection.api.remove_container(container, force=True, v=True)
