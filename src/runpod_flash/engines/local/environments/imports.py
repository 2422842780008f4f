"""What workers of an environment were seen to import of it, kept there for processes to fork.

It is a file of the environment, so that it goes with it, and the next plane knows at once.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.files import read_json, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_FILE = "flash-imports.json"
_MAX_NAMES = 4000
_MAX_CHARACTERS = 200


class Imports:
    """The records of a machine's environments, each named by its folder."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, ...]] = {}

    def known(self, environment: Path) -> tuple[str, ...]:
        """The modules to import ahead, in the order in which they were imported."""
        if environment not in self._known:
            record = read_json(environment / _FILE)
            self._known[environment] = _to_import(record)
        return self._known[environment]

    def add(self, environment: Path, names: Iterable[str]) -> bool:
        """Note modules that a worker has imported; whether any of them is new."""
        record = read_json(environment / _FILE)
        found = _names(record.get("modules"))
        seen = set(found)
        new = [name for name in dict.fromkeys(names) if name not in seen and _is_name(name)]
        new = new[: _MAX_NAMES - len(found)]
        return bool(new) and self._write(environment, {**record, "modules": [*found, *new]})

    def leave_out(self, environment: Path, reasons: Mapping[str, str]) -> bool:
        """Note modules that cannot be imported ahead, and why; whether any of that is new."""
        record = read_json(environment / _FILE)
        before = _reasons(record)
        after = {**before, **reasons}
        return after != before and self._write(environment, {**record, "left_out": after})

    def _write(self, environment: Path, record: dict[str, object]) -> bool:
        self._known[environment] = _to_import(record)
        with suppress(OSError):  # then the next plane learns it anew
            if environment.is_dir():
                write_atomically(environment / _FILE, json.dumps(record))
        return True


def _to_import(record: Mapping[str, object]) -> tuple[str, ...]:
    left_out = _reasons(record)
    return tuple(
        name
        for name in _names(record.get("modules"))
        if not any(name == other or name.startswith(f"{other}.") for other in left_out)
    )


def _names(value: object) -> list[str]:
    return [str(name) for name in value if _is_name(name)] if isinstance(value, list) else []


def _reasons(record: Mapping[str, object]) -> dict[str, str]:
    value = record.get("left_out")
    return {str(key): str(why) for key, why in value.items()} if isinstance(value, dict) else {}


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and len(name) <= _MAX_CHARACTERS
        and all(part.isidentifier() for part in name.split("."))
    )
