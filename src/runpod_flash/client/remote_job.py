"""A job at a server's queue API, from its submission to its end, for commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from runpod_flash.errors import ConfigurationError, ConnectionClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.client.control import ControlClient

_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


def submitted(
    server: ControlClient,
    endpoint: str,
    given: Any,
    request_id: str,
    key: str = "",
    *,
    patient: bool = False,
) -> dict[str, Any]:
    """Queue a job: its id and its status. `request_id` is the id under which its logs are found.

    Submitted again with the same `key`, it is the same job: with `patient`, that is done for a
    while if the server goes away.
    """
    headers = {"x-request-id": request_id, **({"idempotency-key": key} if key else {})}
    ask = server.ask_again if patient else server.ask
    accepted: dict[str, Any] = ask("POST", f"{_path(endpoint)}/run", {"input": given}, headers)
    return accepted


def _path(endpoint: str) -> str:
    return f"/v2/{quote(endpoint, safe='')}"


class RemoteJob:
    """See the module. Where the server goes away, it is waited for a while.

    Methods raise `ConnectionClosedError` where it does not come back.
    """

    def __init__(self, server: ControlClient, endpoint: str, job_id: str) -> None:
        self.id = job_id
        self._server = server
        self._path = _path(endpoint)
        self._at = quote(job_id, safe="")

    def outputs(self) -> Iterator[Any]:
        """The values of its stream, as they come; returns when it has ended."""
        start, over = 0, False
        while not over:
            # (It is asked once more after the end: the last values may have come before that.)
            over = self.look()["status"] in _FINAL
            while found := self._chunks(start):
                start = max(found) + 1
                yield from found.values()
                over = False

    def _chunks(self, start: int) -> dict[int, Any]:
        """The values from a number on, waited for; none where none comes for a while."""
        try:
            answer = self._server.ask_again("GET", f"{self._path}/stream/{self._at}?start={start}")
        except ConnectionClosedError:
            raise
        except ConfigurationError:
            if self.look()["status"] == "CANCELLED":  # such have no stream
                return {}
            raise
        found: dict[int, Any] = {}
        for position, item in enumerate(answer["stream"], start):
            index, value = item.get("index", position), item["output"]
            # A long text comes in parts of one number.
            found[index] = found[index] + value if index in found else value
        return found

    def look(self) -> dict[str, Any]:
        """The job object."""
        found: dict[str, Any] = self._server.ask_again("GET", f"{self._path}/status/{self._at}")
        return found

    def cancel(self) -> None:
        self._server.ask("POST", f"{self._path}/cancel/{self._at}")
