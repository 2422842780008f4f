"""What does not work yet says so in one sentence."""

from __future__ import annotations

from runpod_flash.errors import NotAvailableError

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from typing import NoReturn


def refuse(what: str) -> NoReturn:
    """Raise `NotAvailableError` for something that needs a server."""
    raise NotAvailableError(
        f"{what} needs a Flash server, which this version does not have yet; decorated functions "
        "and classes run embedded, without one"
    )
