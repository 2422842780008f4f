"""Locks of deployed endpoints: files of a release, one requirement a line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.trees import StoredFile

_PINNED = re.compile(r"(?P<name>[\w.-]+)(?:==| @ )(?P<version>\S+)")
_WHEEL = re.compile(r"\S+/(?P<name>[^/\s-]+)-(?P<version>[^/\s-]+)-\S+\.whl")


def versions(lock: str) -> dict[str, str]:
    """The packages of a lock and their versions."""
    found = (_WHEEL.match(line) or _PINNED.match(line) for line in lock.splitlines())
    return {
        re.sub(r"[-_.]+", "-", match["name"]).lower(): match["version"] for match in found if match
    }


def check_lock(name: str, file: str, digest: str, files: Sequence[StoredFile]) -> None:
    """Raise `ValueError` unless the lock of an endpoint is among the files, as it was made."""
    if digest and not any(each.path == file and each.digest == digest for each in files):
        raise ValueError(f"the lock of {name} is not among the files")
