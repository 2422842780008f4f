"""Files on their way to a server or back: several requests at a time, each of them patient."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import httpx

    from runpod_flash.client.control import ControlClient

T = TypeVar("T")

PIECE = 1 << 20
# An answer may take so long: the server may have to read a file of many gigabytes.
ANSWER_SECONDS = 3600.0
_TOGETHER = 4
# A server that was there may be away for so long.
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.2


class Report(NamedTuple):
    """What a transfer came to: files and bytes in all, those that had to travel, and the places of
    what is no file that could.
    """

    files: int
    bytes: int
    moved: int
    moved_bytes: int
    skipped: Sequence[str]


class Transfer:
    """A volume of a server, and threads that ask for its files. A context manager.

    `sending` is told how many bytes of `size` are there. Where one piece of work fails, the rest
    is not begun, and `finish` raises why.
    """

    def __init__(
        self,
        control: ControlClient,
        client: httpx.Client,
        volume_id: str,
        size: int,
        sending: Callable[[int, int], None],
    ) -> None:
        self._control = control
        self._client = client
        self._base = f"{control.origin}/v2/network-volumes/{volume_id}"
        self._size = size
        self._sending = sending
        self._lock = threading.Lock()
        self._there = self._moved = self._moved_bytes = 0
        self._threads = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="flash-files")
        self._work: list[Future[None]] = []
        self._heard_at = time.monotonic()
        self._failed = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._failed.set()
        self._threads.shutdown(cancel_futures=error is not None)

    # Work

    def spawn(self, work: Callable[[], None]) -> None:
        """Have it done by one of the threads."""

        def done() -> None:
            if self._failed.is_set():
                return
            try:
                work()
            except BaseException as error:
                with self._lock:
                    self._failure = self._failure or error
                self._failed.set()
                raise

        self._work.append(self._threads.submit(done))

    def finish(self) -> None:
        """Wait until all that was spawned is done; raises what failed first."""
        begun, self._work = self._work, []
        for each in begun:
            each.exception()
        if self._failure is not None:
            raise self._failure

    # Requests

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer; raises `ConfigurationError` where the server refuses."""
        url = f"{self._base}/{path}"
        return self.read(self.patiently(lambda: self._client.request(method, url, **options)))

    def read(self, response: httpx.Response) -> Any:
        """The JSON of an answer; raises as `ask`."""
        return self._control.read(response)

    def head(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        """The answer for a file, without it, whatever it is."""
        return self.patiently(lambda: self._client.head(self.url_of(path), headers=headers))

    def stream(self, path: str, headers: Mapping[str, str]) -> Any:
        """The answer with the file, to be read as it comes."""
        return self._client.stream("GET", self.url_of(path), headers=headers)

    def url_of(self, path: str) -> str:
        return f"{self._base}/files/{quote(path)}"

    def patiently(self, work: Callable[[], T]) -> T:
        """Do it again while the server is away for a moment."""
        import httpx

        while True:
            try:
                result = work()
            except httpx.TransportError:
                if time.monotonic() - self._heard_at > _PATIENCE_SECONDS or self._failed.is_set():
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                self._heard_at = time.monotonic()
                return result

    # What is there

    def there(self, size: int, *, travelled: bool = False) -> None:
        """So many bytes are where they belong; they were before, unless they have travelled."""
        with self._lock:
            self._there += size
            self._moved_bytes += size if travelled else 0
            self._sending(min(self._there, self._size), self._size)

    def moved(self) -> None:
        """A file was not there, or another one, and is now."""
        with self._lock:
            self._moved += 1

    def report(self, files: int, skipped: Sequence[str] = ()) -> Report:
        return Report(files, self._size, self._moved, self._moved_bytes, tuple(skipped))


def sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
