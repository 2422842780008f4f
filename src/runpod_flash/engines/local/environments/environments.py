"""Environments: isolated directories of packages that workers run in, built once and shared.

root/interpreters.json      which Python is where
root/locks/MEMO.json        exact versions, by everything that leads to them
root/built/KEY/             an environment, whole as soon as it has this name
root/built/KEY.lock         held shared by its users, exclusively to build or remove it
root/built/.new-KEY-…/      being built, or left of a build that was killed; MEMO-… before that
root/built/.old-KEY-…/      being removed, or left of that
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.builds import (
    begun,
    build,
    built_bytes,
    built_packages,
    described,
    discard,
    python_version,
    tree_bytes,
)
from runpod_flash.engines.local.environments.files import FileLock
from runpod_flash.engines.local.environments.interpreters import Interpreters, wanted_minor
from runpod_flash.engines.local.environments.plans import EnvironmentRequest, Resolver, make_plan
from runpod_flash.errors import ConfigurationError, EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from pathlib import Path

    from runpod_flash.engines.local.environments.plans import Lock, Plan

__all__ = [
    "Environment",
    "EnvironmentRequest",
    "Environments",
    "Stored",
    "Swept",
    "cache_bound",
    "cache_directory",
]

DEFAULT_CACHE_GB = 20.0
_POLL_SECONDS = 0.05
_LOOK_AGAIN_SECONDS = 1.0


def cache_directory() -> Path:
    """Where the environments of this user's programs are."""
    from platformdirs import user_cache_path

    return user_cache_path("flash", appauthor=False)


def cache_bound(variables: Mapping[str, str]) -> int:
    """Bytes of environments to keep: `FLASH_CACHE_MAX_GB`, 20 GB where it is not set.

    Raises `ConfigurationError` for what is no number of gigabytes.
    """
    text = variables.get("FLASH_CACHE_MAX_GB", "").strip()
    try:
        gigabytes = float(text) if text else DEFAULT_CACHE_GB
        if not 0 <= gigabytes < float("inf"):
            raise ValueError(text)
    except ValueError:
        raise ConfigurationError(
            f"FLASH_CACHE_MAX_GB={text!r}: give the gigabytes that environments may take, such as "
            f"{DEFAULT_CACHE_GB:g}"
        ) from None
    return int(gigabytes * 1e9)


@dataclass(frozen=True)
class Environment:
    """A directory of packages and its Python program; `version` is exact, such as "3.11.7"."""

    key: str
    path: Path
    python: Path
    version: str


@dataclass(frozen=True)
class Stored:
    """An environment on disk. `used_at` is a POSIX time; `in_use` says that a program holds it."""

    key: str
    path: Path
    python: str
    packages: tuple[str, ...]
    bytes: int
    used_at: float
    in_use: bool


@dataclass(frozen=True)
class Swept:
    """What a sweep did: keys removed, bytes that they and dead builds held, bytes that stay."""

    removed: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int


@dataclass
class _Flight:
    """A build under way and how many callers wait for it."""

    task: asyncio.Task[Environment]
    waiting: int = 0


def _in_silence(_: str) -> None:
    pass


class Environments:
    """The environments below `root`, for one event loop; processes may share the directory.

    An environment that was handed out is not removed
    by any process until it is released, or the end of this process. After a build or a release,
    those unused longest go until at most `max_bytes` (None: no bound) stay.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self._root = root
        self._built = root / "built"
        self._max_bytes = max_bytes
        self._sweeping: threading.Thread | None = None
        self._interpreters = Interpreters(root / "interpreters.json")
        self._resolver = Resolver(root / "locks")
        self._held: dict[str, FileLock] = {}
        self._flights: dict[EnvironmentRequest, _Flight] = {}
        self._recent: dict[EnvironmentRequest, Environment] = {}
        self._asked = 0

    def cached(self, request: EnvironmentRequest) -> Environment | None:
        """The environment if it is there and that can be told without starting a process."""
        interpreter = self._interpreters.known(wanted_minor(request.python))
        if interpreter is None:
            return None
        plan = make_plan(request, interpreter, self._root)
        lock = self._resolver.known(plan)
        found = self._use(lock.key, interpreter.version) if lock else None
        files = plan.requirements.local_names or plan.requirements.values("--find-links")
        if found is not None and not files:
            self._recent[request] = found
        return found

    def _used_before(self, request: EnvironmentRequest) -> Environment | None:
        """What the last worker had, at once; whether it is still right is for the next to know.

        All that may say otherwise, files of this machine aside, are settings of uv and pip.
        """
        recent = self._recent.get(request)
        found = self._use(recent.key, recent.version) if recent is not None else None
        if found is not None:
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_SECONDS, self._look_again, request)
        return found

    def _look_again(self, request: EnvironmentRequest) -> None:
        if self._recent.pop(request, None) is None:  # all was released
            return
        with suppress(EnvironmentBuildError, ConfigurationError, OSError):  # the next start tells
            self.cached(request)

    async def ensure(
        self, request: EnvironmentRequest, report: Callable[[str], None] = _in_silence
    ) -> Environment:
        """The environment, built first where it is not there; `report` hears of its progress.

        Equal requests made meanwhile share one build; it ends with the last of their callers.
        Raises `EnvironmentBuildError`.
        """
        if cached := self._used_before(request) or self.cached(request):
            return cached
        self._asked += 1
        try:
            return await self._in_flight(request, report)
        finally:
            self._asked -= 1

    async def _in_flight(
        self, request: EnvironmentRequest, report: Callable[[str], None]
    ) -> Environment:
        flight = self._flights.get(request)
        if flight is None:
            flight = _Flight(asyncio.ensure_future(self._make(request, report)))
            self._flights[request] = flight
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                if self._flights.get(request) is flight:
                    del self._flights[request]
                flight.task.cancel()
                # Until its processes are gone.
                await asyncio.gather(flight.task, return_exceptions=True)

    def release(self, key: str) -> None:
        """This process no longer uses the environment: a sweep may remove it."""
        if lock := self._held.pop(key, None):
            lock.release()

    def release_others(
        self, pythons: Collection[Path], requests: Collection[EnvironmentRequest]
    ) -> None:
        """Release all but those with these Python programs, and forget all other requests.

        While an `ensure` waits nothing is released: what that is about to give is nobody's yet.
        """
        if self._asked:
            return
        for request in self._recent.keys() - requests:
            del self._recent[request]
        unused = self._held.keys() - {python.parents[1].name for python in pythons}
        for key in unused:
            self.release(key)
        if unused:
            self._sweep_behind()

    def close(self) -> None:
        """Release all."""
        self._recent.clear()
        for key in list(self._held):
            self.release(key)

    def sweep(self, max_bytes: int) -> Swept:
        """Remove least recently used environments until at most `max_bytes` stay, and dead builds.

        Those in use by any process stay. Blocks while it deletes; may be called in a thread.
        """
        freed = self._sweep_leftovers()
        sizes = {path.name: built_bytes(path) for path in self._environments()}
        kept = sum(sizes.values())
        removed: list[str] = []
        for key in sorted(sizes, key=self._last_use):
            if kept <= max_bytes:
                break
            if self.remove(key):
                removed.append(key)
                kept -= sizes[key]
                freed += sizes[key]
        return Swept(tuple(removed), freed, kept)

    def stored(self) -> list[Stored]:
        """Every environment that is there, the last used first."""
        found = [self._stored(path) for path in self._environments()]
        return sorted(found, key=lambda each: each.used_at, reverse=True)

    def remove(self, key: str) -> bool:
        """Remove an environment; False, and nothing happens, while any program uses it."""
        lock = FileLock.try_acquire(self._lock_file(key))
        if lock is None:
            return False
        try:
            discard(self._built / key)
        finally:
            lock.release(remove=True)
        return True

    # Use

    def _use(self, key: str, version: str) -> Environment | None:
        """Hold the environment and give it, unless it is not there or is being removed."""
        path = self._built / key
        found = Environment(key, path, path / "bin" / "python", version)
        if not found.python.exists():  # also where its base interpreter is gone
            self.release(key)
            return None
        if key not in self._held:
            lock = FileLock.try_acquire(self._lock_file(key), shared=True)
            if lock is None:
                return None
            if not found.python.exists():
                lock.release()
                return None
            self._held[key] = lock
        self._held[key].touch()
        return found

    def _lock_file(self, key: str) -> Path:
        return self._built / f"{key}.lock"

    # Building

    async def _make(self, request: EnvironmentRequest, say: Callable[[str], None]) -> Environment:
        minor = wanted_minor(request.python)
        self._root.mkdir(parents=True, exist_ok=True)
        interpreter = await self._interpreters.find(minor, os.environ, say)
        plan = make_plan(request, interpreter, self._root)
        lock = self._resolver.known(plan)
        if lock is not None:
            return await self._built_once(plan, lock, say)
        say(f"resolving {described(plan)}")
        # What it will be installed into is made meanwhile, unless another program does the same.
        name = plan.memo[:32]
        held = FileLock.try_acquire(self._lock_file(name))
        if held is None:
            return await self._built_once(plan, await self._resolver.resolve(plan, say), say)
        try:
            if grown := await self._grown(plan, name, say):
                return grown
            async with begun(plan, self._built, name) as empty:
                lock = await self._resolver.resolve(plan, say)
                return await self._built_once(plan, lock, say, empty)
        finally:
            held.release(remove=True)

    async def _grown(self, plan: Plan, name: str, say: Callable[[str], None]) -> Environment | None:
        """One that is there, with what was added since; None where that cannot be."""
        earlier = self._resolver.earlier(plan)
        if earlier is None:
            return None
        there = self._built / earlier.lock.key
        if not (there / "bin" / "python").exists():
            return None
        used = FileLock.try_acquire(self._lock_file(there.name), shared=True)
        if used is None:  # it is being removed
            return None
        try:
            async with begun(plan, self._built, name, like=there) as copy:
                lock = await self._resolver.grow(plan, earlier)
                if lock is None:
                    return None
                return await self._built_once(plan, lock, say, copy, earlier.lock.text)
        finally:
            used.release()

    async def _built_once(
        self,
        plan: Plan,
        lock: Lock,
        say: Callable[[str], None],
        ready: Awaitable[Path] | None = None,
        there: str = "",
    ) -> Environment:
        waited = built = False
        while True:
            if found := self._use(lock.key, plan.interpreter.version):
                if built:  # and held by now: it is not the one to go
                    self._sweep_behind()
                return found
            held = FileLock.try_acquire(self._lock_file(lock.key))
            if held is None:
                if not waited:
                    say("waiting for another program that builds the same environment")
                waited = True
                await asyncio.sleep(_POLL_SECONDS)
                continue
            try:
                path = self._built / lock.key
                if not (path / "bin" / "python").exists():
                    beginning = (
                        begun(plan, self._built, lock.key) if ready is None else nullcontext(ready)
                    )
                    async with beginning as new:
                        await build(plan, lock, path, new, say, there)
                    built = True
            finally:
                held.release()

    # Sweeping

    def _sweep_behind(self) -> None:
        """Sweep while nobody waits; what the program's end interrupts, a later sweep ends."""
        max_bytes, busy = self._max_bytes, self._sweeping is not None and self._sweeping.is_alive()
        if max_bytes is None or busy:
            return

        def sweep() -> None:
            with suppress(OSError):  # another program removes the same
                self.sweep(max_bytes)

        self._sweeping = threading.Thread(target=sweep, name="flash-sweep", daemon=True)
        with suppress(RuntimeError):  # no thread can be had: the next one does it
            self._sweeping.start()

    def _environments(self) -> list[Path]:
        if not self._built.is_dir():
            return []
        return [p for p in self._built.iterdir() if p.is_dir() and not p.name.startswith(".")]

    def _last_use(self, key: str) -> float:
        try:
            return self._lock_file(key).stat().st_mtime
        except OSError:
            return 0.0

    def _stored(self, path: Path) -> Stored:
        return Stored(
            key=path.name,
            path=path,
            python=python_version(path),
            packages=built_packages(path),
            bytes=built_bytes(path),
            used_at=self._last_use(path.name),
            in_use=self._is_held(path.name),
        )

    def _is_held(self, key: str) -> bool:
        if not self._lock_file(key).exists():  # trying it would make the file, as if used now
            return False
        lock = FileLock.try_acquire(self._lock_file(key))
        if lock is not None:
            lock.release()
        return lock is None

    def _sweep_leftovers(self) -> int:
        """Remove what killed builds and removals left: nobody holds the lock of their key."""
        freed = 0
        for path in self._built.glob(".*-*-*") if self._built.is_dir() else ():
            lock = FileLock.try_acquire(self._lock_file(path.name.split("-")[1]))
            if lock is not None:
                freed += tree_bytes(path)
                shutil.rmtree(path, ignore_errors=True)
                lock.release(remove=not (self._built / path.name.split("-")[1]).exists())
        return freed
