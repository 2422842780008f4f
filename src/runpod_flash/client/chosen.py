"""Which server programs run at: a variable says so, or a choice that was made once."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash import context

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "FLASH_TARGET"
COMMAND = "flash target use"


class Chosen(NamedTuple):
    """A server's address, and what chose it."""

    address: str
    by: str


def chosen_target() -> Chosen | None:
    """`FLASH_TARGET` (empty: none), else what `flash target use` said, else none: embedded.

    What a user has chosen for programs is nothing to workers.
    """
    named = os.environ.get(VARIABLE)
    if named is not None or context.current is not None:
        return Chosen(named, VARIABLE) if named else None
    kept = kept_choice()
    return Chosen(kept, COMMAND) if kept else None


@cache
def kept_choice() -> str:
    """The address that was chosen for this user's programs; empty for none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(_file().read_text(encoding="utf-8"))["target"])
    return ""


def keep_choice(address: str) -> None:
    """Have this user's programs run there from now on; empty: on this machine."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"target": address}), encoding="utf-8")
    new.replace(file)
    kept_choice.cache_clear()


def _file() -> Path:
    from platformdirs import user_state_path

    return user_state_path("flash", appauthor=False) / "target.json"
