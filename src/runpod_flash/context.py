"""Where this code runs: inside a worker, or not. Set by the worker itself, never by a variable.

An environment variable would be inherited by every program that user code starts, and
`RUNPOD_POD_ID` is set on every rented machine.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from runpod_flash.wire.codec import Payload

    class WorkerContext(Protocol):
        """What the SDK may ask of the worker in which it was imported."""

        @property
        def endpoint(self) -> str:
            """The name of the endpoint that this worker serves."""

        @property
        def importing(self) -> str:
            """The file that is being imported; empty once the worker is ready."""

        def call(
            self,
            operation: str,
            fields: Mapping[str, Any],
            payload: Payload | None = None,
            constructor: Payload | None = None,
            on_answer: Callable[[Answer], None] | None = None,
        ) -> None:
            """Ask the plane; `on_answer` is called once, on any thread."""


class Answer:
    """The plane's answer to a call from a worker. (No dataclass: those take 10 ms to import.)"""

    __slots__ = ("fields", "payload")

    def __init__(self, fields: Mapping[str, Any], payload: Payload | None = None) -> None:
        self.fields = fields
        self.payload = payload


current: WorkerContext | None = None
current_job: ContextVar[str] = ContextVar("flash_job", default="")


def enter(context: WorkerContext) -> None:
    """Mark this process as a worker. A process that it forks is none."""
    global current
    current = context
    os.register_at_fork(after_in_child=_leave)


def _leave() -> None:
    global current
    current = None
