"""Finds a Python of the wanted minor version that really runs, and remembers it."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.environments.files import read_json, write_atomically
from runpod_flash.engines.local.environments.uv import run_guarded, uv_binary
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
_DEFAULT = "3.12"
_PROBE_SECONDS = 20
_PROBE = """
import json, platform, sys, sysconfig
print(json.dumps({
    "path": getattr(sys, "_base_executable", None) or sys.executable,
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "abi": sysconfig.get_config_var("SOABI") or "",
    "system": sysconfig.get_platform(),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python program: exact version ("3.11.7"), implementation, ABI tag, and its system's tag."""

    path: str
    version: str
    implementation: str
    abi: str
    system: str

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def pair(self) -> tuple[int, int]:
        major, minor = self.minor.split(".")
        return int(major), int(minor)

    @property
    def identity(self) -> str:
        """What packages built for it depend on; the same for two copies of one interpreter."""
        libc = " ".join(platform.libc_ver()) if sys.platform == "linux" else ""
        return f"{self.implementation} {self.version} {self.abi} {self.system} {libc}"


def wanted_minor(declared: str | None) -> str:
    """The minor version to use: the declared one, else the caller's, else 3.12.

    Raises `EnvironmentBuildError` for a declared version that workers do not run on.
    """
    if declared is None:
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        return own if own in SUPPORTED else _DEFAULT
    minor = str(declared).strip()
    if minor not in SUPPORTED:
        raise EnvironmentBuildError(
            f"Python {declared} is not available for workers: choose one of {', '.join(SUPPORTED)}."
        )
    return minor


class Interpreters:
    """Interpreters of this machine, remembered in `memo` by path, size and modification time."""

    def __init__(self, memo: Path) -> None:
        self._memo = memo

    def known(self, minor: str) -> Interpreter | None:
        """The interpreter for `minor` if it can be told without running anything."""
        own = _own()
        if own.minor == minor and own.implementation == "cpython" and Path(own.path).exists():
            return own
        try:
            entry = read_json(self._memo)[minor]
            found = Interpreter(**entry["interpreter"])
            return found if entry["stamp"] == _stamp(found.path) else None
        except (TypeError, KeyError, OSError):
            return None

    async def find(
        self, minor: str, environ: Mapping[str, str], report: Callable[[str], None]
    ) -> Interpreter:
        """A working interpreter for `minor`, downloaded by uv where none is installed.

        Raises `EnvironmentBuildError` where there is none and none can be had.
        """
        if known := self.known(minor):
            return known
        found = await self.present(minor, environ)
        if found is None:
            report(f"downloading Python {minor}")
            await self._uv_python("install", minor, environ=environ)
            found = await self.present(minor, environ)
        if found is not None:
            self._remember(found)
            return found
        raise EnvironmentBuildError(
            f"Python {minor} works nowhere on this machine and uv could not download it: "
            f"install Python {minor}, or choose another with python_version=."
        )

    async def present(self, minor: str, environ: Mapping[str, str]) -> Interpreter | None:
        """The interpreter that `find` would give without a download; nothing is remembered."""
        if known := self.known(minor):
            return known
        async for path in self._candidates(minor, environ):
            found = await _probe(path)
            if found and found.minor == minor and found.implementation == "cpython":
                return found
        return None

    def _remember(self, found: Interpreter) -> None:
        memo: dict[str, Any] = read_json(self._memo)
        memo[found.minor] = {"interpreter": asdict(found), "stamp": _stamp(found.path)}
        write_atomically(self._memo, json.dumps(memo, indent=1))

    async def _candidates(self, minor: str, environ: Mapping[str, str]) -> AsyncIterator[str]:
        for path in _installed(minor, environ):
            yield path
        if managed := await self._uv_python("find", "--offline", minor, environ=environ):
            yield managed
        if Path(usual := f"/usr/bin/python{minor}").is_file():
            yield usual

    async def _uv_python(self, *arguments: str, environ: Mapping[str, str]) -> str:
        command = [uv_binary(), "python", *arguments, "--managed-python", "--no-config"]
        # Another directory than the caller's: no project there shall have a say.
        self._memo.parent.mkdir(parents=True, exist_ok=True)
        finished = await run_guarded(command, env=environ, cwd=self._memo.parent)
        return finished.stdout.strip() if finished.code == 0 else ""


def _own() -> Interpreter:
    return Interpreter(
        path=getattr(sys, "_base_executable", None) or sys.executable,
        version=platform.python_version(),
        implementation=sys.implementation.name,
        abi=sysconfig.get_config_var("SOABI") or "",
        system=sysconfig.get_platform(),
    )


def _installed(minor: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Places to try, best first.

    Shims of pyenv are passed over for what they stand for: they take a third of a second, and exist
    for versions that are not switched on as well.
    """
    name = f"python{minor}"
    home = Path(environ.get("HOME") or Path.home())
    roots = [Path(environ.get("PYENV_ROOT") or home / ".pyenv")]
    for directory in map(Path, filter(None, environ.get("PATH", "").split(os.pathsep))):
        if directory.name == "shims" and (directory.parent / "versions").is_dir():
            roots.append(directory.parent)
        elif os.access(path := directory / name, os.X_OK):
            yield str(path)
    for root in dict.fromkeys(roots):
        versions = root.glob(f"versions/{minor}.*/bin/{name}")
        yield from map(str, sorted(versions, key=_release, reverse=True))


def _release(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.parent.parent.name)]


async def _probe(path: str) -> Interpreter | None:
    """Run a candidate once; None where it does not work."""
    try:
        process = await asyncio.create_subprocess_exec(
            *[path, "-I", "-c", _PROBE],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _PROBE_SECONDS)
        return Interpreter(**json.loads(output))
    except (asyncio.TimeoutError, ValueError, TypeError):
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _stamp(path: str) -> list[int]:
    stat = Path(path).stat()
    return [stat.st_mtime_ns, stat.st_size]
