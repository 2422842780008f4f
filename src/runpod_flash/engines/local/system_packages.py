"""Which system packages that an endpoint names are not installed on this machine."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMAT = "${db:Status-Status}\t${Package}\t${Provides}\n"


@dataclass(frozen=True)
class SystemPackages:
    """`missing` names as they were given; `checked` is False where nothing could be found out."""

    missing: tuple[str, ...] = ()
    checked: bool = True


async def missing_system_packages(names: Sequence[str]) -> SystemPackages:
    """Look the names up in dpkg's database, virtual ones included; versions are not compared."""
    program = shutil.which("dpkg-query")
    if not names:
        return SystemPackages()
    if program is None:
        return SystemPackages(checked=False)
    process = await asyncio.create_subprocess_exec(
        *[program, "--show", f"--showformat={_FORMAT}"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        return SystemPackages(checked=False)
    installed = _installed(output.decode(errors="replace"))
    # A name may carry a version (ffmpeg=7:6.1) or an architecture (ffmpeg:amd64).
    return SystemPackages(tuple(n for n in names if re.split(r"[=:]", n)[0] not in installed))


def _installed(output: str) -> set[str]:
    found: set[str] = set()
    for line in output.splitlines():
        status, name, provides = line.split("\t")
        if status == "installed":
            found.add(name)
            found.update(re.split(r"[ :(]", part.strip())[0] for part in provides.split(","))
    return found
