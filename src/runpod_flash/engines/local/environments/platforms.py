"""The platforms of workers, in uv's words (`x86_64-manylinux_2_28`), and wheels that fit them."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.tags import Tag

USUAL = "x86_64-manylinux_2_28"
# The oldest glibc that this name stands for; older systems have the other.
_GLIBC = 28
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_MACOS = (13, 0)  # uv's own assumption
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


def this_platform() -> str:
    """That of this machine. Locks for it fit every machine with a glibc as new as the name's."""
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin":
        return f"{machine}-apple-darwin"
    version = platform.libc_ver()[1].split(".")
    recent = [int(part) for part in version if part.isdigit()] >= [2, _GLIBC]
    return f"{machine}-{f'manylinux_2_{_GLIBC}' if recent else 'manylinux2014'}"


def described(name: str) -> str:
    """For a sentence: "x86_64 Linux"."""
    machine, _, rest = name.partition("-")
    return f"{machine} {'macOS' if 'darwin' in rest else 'Linux'}"


def tags_of(python: tuple[int, int], name: str) -> list[Tag]:
    """The tags of wheels that fit, best first; an empty name is this machine."""
    from packaging.tags import compatible_tags, cpython_tags, mac_platforms

    if not name:
        return [*cpython_tags(python), *compatible_tags(python)]
    machine, _, rest = name.partition("-")
    if "darwin" in rest:
        arch = "arm64" if machine == "aarch64" else machine
        platforms = list(mac_platforms(_MACOS, arch))
    else:
        platforms = [*_linux(machine, 17 if rest == "manylinux2014" else _GLIBC)]
    interpreter = f"cp{python[0]}{python[1]}"
    return [
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, interpreter=interpreter, platforms=platforms),
    ]


def _linux(machine: str, newest: int) -> Iterator[str]:
    for minor in range(newest, 4, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine}"
    yield f"linux_{machine}"
