"""Decorated functions in images: Flash brings its worker and the code, the image all else.

Both are mounted, read-only. The framed link goes over a UNIX socket in a mounted directory.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.docker.creation import Program
from runpod_flash.engines.docker.failures import is_missing_program
from runpod_flash.engines.local.support import package
from runpod_flash.errors import WorkerStartError
from runpod_flash.links.framed import FramedLink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runpod_flash.engines.docker.worker import ContainerWorker
    from runpod_flash.spec import Container

    Create = Callable[[ContainerWorker, Program, Mapping[str, str]], Awaitable[None]]

_LIBRARY, _LINK = "/opt/flash", "/opt/flash-link"
_SOCKET = "link.sock"
# Names under which images have Python, in the order in which they are tried.
_PYTHONS = ("python3", "python")
_CONNECT_SECONDS = 60.0


async def start(
    worker: ContainerWorker, container: Container, create: Create, sockets: Path
) -> ContainerWorker:
    """Start a worker of a function, and return when it has connected.

    Its link's socket is below `sockets`.
    """
    sockets.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=sockets))
    worker.ended.add_done_callback(lambda _: shutil.rmtree(folder, ignore_errors=True))
    try:
        with closing(_listener(folder)) as listener:
            token = secrets.token_hex(16)
            await _create(worker, container, create, folder, token)
            stream = await _connected(worker, listener)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    loop = asyncio.get_running_loop()
    return worker.hand_over(FramedLink(stream, loop, worker.worker_id, token))


def _listener(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / _SOCKET))
    listener.listen(1)
    listener.setblocking(False)
    # An image's user may be any; no other user of this machine gets below the folder's parent.
    folder.chmod(0o755)
    (folder / _SOCKET).chmod(0o777)
    return listener


async def _create(
    worker: ContainerWorker, container: Container, create: Create, folder: Path, token: str
) -> None:
    root = worker.order.spec.entry.root
    mounts = {
        f"{_LIBRARY}/runpod_flash": package("runpod_flash"),
        f"{_LIBRARY}/cloudpickle": package("cloudpickle"),
        _LINK: folder,
        **({root: Path(root)} if root else {}),
    }
    boot = f"{_LIBRARY}/runpod_flash/worker/boot.py"
    command = (boot, f"{_LINK}/{_SOCKET}", worker.worker_id, token)
    pythons = (container.python,) if container.python else _PYTHONS
    for python in pythons:
        try:
            await create(worker, Program((python,), command, root, mounts), {})
        except Exception as error:
            if not is_missing_program(error):
                raise
        else:
            return
    raise WorkerStartError(
        f"the image {container.image!r} has no {' and no '.join(pythons)}, which functions need: "
        "name its interpreter in template=PodTemplate(config={'python': '/path/to/python'})"
    )


async def _connected(worker: ContainerWorker, listener: socket.socket) -> socket.socket:
    """The worker's connection. Raises `OSError` where it ends, or does not connect."""
    loop = asyncio.get_running_loop()
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    waited: Any = {accepting, worker.ended}
    await asyncio.wait(waited, timeout=_CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if accepting.done():
        return accepting.result()[0]
    accepting.cancel()
    if worker.ended.done():
        exit_ = worker.ended.result()
        raise OSError(f"{exit_.reason}; its last output:\n{exit_.output}")
    raise OSError(f"it did not connect within {_CONNECT_SECONDS:.0f} s")
