"""Public names that do not work yet: each says so in one sentence."""

from __future__ import annotations

from runpod_flash.errors import NotAvailableError

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, NoReturn


class _Unavailable:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        refuse(type(self).__name__)


class FlashApp(_Unavailable):
    """Apps, environments and builds on a server. Not available yet."""


class ResourceManager(_Unavailable):
    """Provisioning on a server. Not available yet."""


class Request:
    """What `.get(path)` and its kin give on a client: awaited, a request to a server."""

    def __init__(self, endpoint: str, verb: str) -> None:
        self._endpoint = endpoint
        self._verb = verb

    def __await__(self) -> Generator[Any, None, NoReturn]:
        yield from ()
        refuse(f"{self._endpoint}.{self._verb}()")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self._endpoint} is a client: its .{self._verb}() sends a request and decorates "
            "nothing; leave id= and image= out to declare routes"
        )


def refuse(what: str) -> NoReturn:
    """Raise `NotAvailableError` for something that needs a server."""
    raise NotAvailableError(
        f"{what} needs a Flash server, which this version does not have yet; decorated functions "
        "and classes run embedded, without one"
    )
