"""Public names that do not work yet: each says so in one sentence."""

from __future__ import annotations

from runpod_flash.errors import NotAvailableError

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from typing import Any, NoReturn


class _Unavailable:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        refuse(type(self).__name__)


class FlashApp(_Unavailable):
    """Apps, environments and builds on a server. Not available yet."""


class ResourceManager(_Unavailable):
    """Provisioning on a server. Not available yet."""


def refuse(what: str) -> NoReturn:
    """Raise `NotAvailableError` for something that needs a server."""
    raise NotAvailableError(
        f"{what} needs a Flash server, which this version does not have yet; decorated functions "
        "and classes run embedded, without one"
    )
