"""What does not work, or not here, says so in one sentence."""

from __future__ import annotations

from runpod_flash import context
from runpod_flash.errors import NotAvailableError

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from typing import NoReturn


def refuse_without_server(what: str) -> NoReturn:
    """Raise `NotAvailableError` for something that needs a server, where none is chosen."""
    if context.current is not None:
        raise NotAvailableError(
            f"{what} needs a Flash server, and this worker knows of none: only workers of deployed "
            "apps do by themselves; set FLASH_TARGET and FLASH_API_KEY in its endpoint's env="
        )
    raise NotAvailableError(
        f"{what} needs a Flash server: start one with `flash server`, and choose it with "
        "`flash target use URL` or FLASH_TARGET"
    )


def refuse(what: str) -> NoReturn:
    """Raise `NotAvailableError` for something that a later version is to have."""
    raise NotAvailableError(
        f"{what} needs a Flash server, which programs cannot ask for it yet; decorated functions "
        "and classes run with and without one"
    )
