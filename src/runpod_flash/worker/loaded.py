"""User code that was loaded in a process whose forks become workers: once for all of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash import context
from runpod_flash.bytecode import distrust_young_files
from runpod_flash.errors import FlashError
from runpod_flash.spec import EndpointSpec
from runpod_flash.worker import breakpoints, unsettled
from runpod_flash.worker.output import Output, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.context import Answer
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.frames import Frame
    from runpod_flash.worker.link import PlaneLink


class NoLink:
    """In the place of a worker's link while there is no plane: what is printed is lost."""

    def send(self, *sent: Frame) -> None:
        pass

    def call(
        self,
        operation: str,
        fields: Mapping[str, Any],
        payload: Payload | None,
        constructor: Payload | None,
        on_answer: Callable[[Answer], None] | None,
    ) -> None:
        raise FlashError("a module cannot call the plane while it is imported for later workers")


class Loaded:
    """A worker's state after its module was imported, to go on from in a fork."""

    def __init__(self, worker: Any, target: Any, out: Output) -> None:
        self.worker = worker
        self.target = target
        self._out = out
        self._path = list(sys.path)
        self._streams = sys.stdout, sys.stderr

    def resume(self, link: PlaneLink) -> Output:
        """Be the worker of this link."""
        self.worker.link = link
        sys.path[:] = self._path
        sys.stdout, sys.stderr = self._streams
        return self._out


_loaded: Loaded | None = None


def take() -> Loaded | None:
    """What this process's parent has loaded."""
    global _loaded
    found, _loaded = _loaded, None
    return found


def load(
    make_worker: Callable[[Any, EndpointSpec], Any], told: Mapping[str, Any]
) -> dict[str, Any]:
    """Import the user's code for forks of this process: the answer to who has `told` it.

    It has `files`, the time and size of each of the user's files that were read; or an `error`.
    """
    global _loaded
    began = time.time()
    distrust_young_files()
    spec = EndpointSpec.from_wire(told["spec"])
    worker = make_worker(NoLink(), spec)
    out = Output(lambda *sent: worker.link.send(*sent))
    context.enter(worker)
    breakpoints.install(worker)
    try:
        target = worker.load(told["caller_env"])
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"}
    configure_logging()
    worker.imported.skip()
    files = dict(_states(spec))
    if any(stamp / 1e9 > began - unsettled.SAVING_SECONDS for stamp, _ in files.values()):
        return {}  # being saved: what was read is no longer what is there
    _loaded = Loaded(worker, target, out)
    return {"names": [], "files": files}


def _states(spec: EndpointSpec) -> Any:
    inside = f"{Path(spec.entry.root)}{os.sep}"
    for file in {file for file in unsettled.files(spec.entry) if file.startswith(inside)}:
        try:
            found = os.stat(file)  # noqa: PTH116
        except OSError:
            continue
        yield file, (found.st_mtime_ns, found.st_size)
