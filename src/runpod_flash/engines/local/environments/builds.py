"""Builds one environment: in a directory beside its place, moved there when it is whole."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runpod_flash.archives import check_archive
from runpod_flash.engines.local.environments.files import read_json
from runpod_flash.engines.local.environments.plans import offline, unreachable
from runpod_flash.engines.local.environments.uv import run_guarded, uv_binary
from runpod_flash.errors import EnvironmentBuildError
from runpod_flash.suggest import listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from runpod_flash.engines.local.environments.plans import Lock, Plan
    from runpod_flash.engines.local.environments.uv import Finished

_DOWNLOAD = re.compile(r"^\s*Downloading (\S+) \(([\d.]+)([KMG])iB\)")
_LARGE_MIB = 50
_FACTS = "flash-environment.json"


@asynccontextmanager
async def begun(
    plan: Plan, folder: Path, name: str, like: Path | None = None
) -> AsyncIterator[Awaitable[Path]]:
    """An environment for `build`: made meanwhile, and gone again if not built.

    It is without packages, or has those of the one at `like`. What a kill leaves in `folder` has a
    name by which the caller's lock on `name` is found.
    """
    new = folder / f".new-{name}-{secrets.token_hex(4)}"
    making = asyncio.ensure_future(_create(plan, new) if like is None else _copy(like, new))
    try:
        yield making
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)  # until its process is gone
        shutil.rmtree(new, ignore_errors=True)


async def build(
    plan: Plan,
    lock: Lock,
    path: Path,
    ready: Awaitable[Path],
    say: Callable[[str], None],
    there: str = "",
) -> None:
    """Make the environment of `lock` at `path` of what `begun` gives; the caller holds its lock.

    `there` are lines of the lock that it has already. Raises `EnvironmentBuildError`. A failure, a
    cancellation or a kill leaves nothing at `path`.
    """
    started = time.monotonic()
    say(f"building environment: {described(plan)}")
    discard(path)  # one whose interpreter is gone
    new = await ready
    known = set(there.splitlines())
    text = "\n".join(line for line in lock.text.splitlines() if line not in known)
    if text.strip():
        await _install(plan, lock, text, new, say, few=bool(there))
    size = tree_bytes(new)
    facts = {"requirements": plan.requirements.names, "bytes": size}
    (new / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    new.rename(path)
    if plan.requirements.names:
        say(f"environment ready in {time.monotonic() - started:.1f} s ({size / 1e6:.0f} MB)")


async def _create(plan: Plan, new: Path) -> Path:
    command = [uv_binary(), "venv", "--relocatable", "--no-project", "--no-config", "--quiet"]
    command += ["--python", plan.interpreter.path, str(new)]
    _check(plan, await run_guarded(command, env=plan.uv_variables(), cwd=plan.directory))
    return new


async def _copy(like: Path, new: Path) -> Path:
    """One with the same files, which no installer changes in their place."""
    copying = asyncio.ensure_future(asyncio.to_thread(_link_tree, like, new))
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        await asyncio.gather(copying, return_exceptions=True)  # the thread cannot be stopped
        raise
    return new


def _link_tree(like: Path, new: Path) -> None:
    own = shutil.ignore_patterns(_FACTS)
    shutil.copytree(like, new, symlinks=True, ignore=own, copy_function=_link)


def _link(file: str, new: str) -> None:
    try:
        os.link(file, new)
    except OSError:  # the file system has no links, or no more of that file
        shutil.copy2(file, new)


async def _install(
    plan: Plan, lock: Lock, text: str, new: Path, say: Callable[[str], None], *, few: bool
) -> None:
    """Install these lines of a lock; `few` of many."""
    for archive in plan.requirements.local_archives:
        await asyncio.to_thread(check_archive, archive)
    local = plan.requirements.local_names
    only_cache = lock.offline or plan.settings.variables.get("UV_OFFLINE")
    if only_cache and local:
        say("offline: uv takes a local package as unchanged while its project file is")
    index_first = not only_cache and (few or local)
    if not index_first:
        # Versions are exact: what the cache has is right, and the index takes longer for many.
        finished = await _uv_install(plan, text, new, say, "--offline")
        if not finished.offline:
            _check(plan, finished)
            return
        if only_cache:
            raise offline(plan.request.endpoint)
    finished = await _uv_install(plan, text, new, say, *plan.refresh_options())
    if address := finished.unreachable:
        if index_first:
            finished = await _uv_install(plan, text, new, say, "--offline")
        if finished.code:
            raise unreachable(plan.request.endpoint, address, locked=plan.request.locked)
    _check(plan, finished)


async def _uv_install(
    plan: Plan, text: str, new: Path, say: Callable[[str], None], *options: str
) -> Finished:
    def on_line(line: str) -> None:
        if progress := large_download(line):
            say(progress)

    command = [uv_binary(), "pip", "install", "--python", str(new / "bin" / "python")]
    command += ["--no-deps", "--requirements", "-", *options]
    return await run_guarded(
        command,
        env=plan.uv_variables(),
        cwd=plan.directory,
        text=plan.install_text(text),
        on_line=on_line,
    )


def _check(plan: Plan, finished: Finished) -> None:
    if finished.code:
        remedy = "; `flash deploy --bundle` brings the packages" if plan.request.locked else ""
        raise EnvironmentBuildError(
            f"The environment of {plan.request.endpoint} for Python {plan.interpreter.minor} "
            f"cannot be built: {finished.reason}{remedy}. What pip cannot install here may be in "
            "an image: name one by image=, in the place of dependencies=."
        )


def described(plan: Plan) -> str:
    """The Python and the packages asked for, for a line of progress."""
    names = list(dict.fromkeys(plan.requirements.names))
    if not names:
        return f"python {plan.interpreter.minor}, no packages"
    plural = "" if len(names) == 1 else "s"
    return f"python {plan.interpreter.minor}, {len(names)} package{plural} ({listed(names, 4)})"


def large_download(line: str) -> str | None:
    """A line of progress for uv's line about a download, where that is 50 MiB or more."""
    match = _DOWNLOAD.match(line)
    if not match:
        return None
    mib = float(match[2]) * {"K": 1 / 1024, "M": 1, "G": 1024}[match[3]]
    return f"downloading {match[1]} ({mib * 1.048576:.0f} MB)" if mib >= _LARGE_MIB else None


def discard(path: Path) -> None:
    """Remove an environment so that a kill on the way leaves nothing that looks whole."""
    if path.exists():
        old = path.with_name(f".old-{path.name}-{secrets.token_hex(4)}")
        path.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def built_bytes(path: Path) -> int:
    """The size noted when the environment was built."""
    size = read_json(path / _FACTS).get("bytes")
    return size if isinstance(size, int) else tree_bytes(path)


def built_packages(path: Path) -> tuple[str, ...]:
    """The names that were asked for when the environment was built."""
    names = read_json(path / _FACTS).get("requirements")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def python_version(path: Path) -> str:
    """The exact version of an environment's Python, such as "3.11.7"; "" if it does not say."""
    try:
        text = (path / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"^version(?:_info)?\s*=\s*(\S+)", text, re.MULTILINE)
    return match[1] if match else ""


def tree_bytes(path: Path) -> int:
    """Bytes of all files; those that uv's cache shares count in full."""
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            total += os.lstat(f"{parent}/{name}").st_size  # (no Path: there are thousands)
    return total
