"""What `flash doctor` finds out about Pythons, package indexes and caches."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash import dotenv
from runpod_flash.cli import output
from runpod_flash.cli.doctor_settings import setting
from runpod_flash.cli.findings import Topic
from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.engines.local.environments.environments import (
    Environments,
    cache_bound,
    cache_directory,
)
from runpod_flash.engines.local.environments.index_settings import index_settings, setting_sources
from runpod_flash.engines.local.environments.interpreters import (
    SUPPORTED,
    Interpreter,
    Interpreters,
    wanted_minor,
)
from runpod_flash.engines.local.environments.uv import uv_binary
from runpod_flash.errors import ConfigurationError, EnvironmentBuildError
from runpod_flash.project.root import find_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.cli.findings import Finding
    from runpod_flash.engines.local.environments.index_settings import IndexSettings

_PYTHON = Topic("Python")
_PACKAGES = Topic("Packages")
_CACHES = Topic("Caches")
_LITTLE_SPACE = 5_000_000_000
_NO_SPACE = 100_000_000


def findings() -> Iterator[Finding]:
    """One after the other."""
    yield from _pythons()
    yield from _packages()
    yield from _caches()


# Python


def _pythons() -> Iterator[Finding]:
    yield _PYTHON.fine("this one", f"{platform.python_version()}, {sys.executable}")
    wanted = wanted_minor(None)
    found = asyncio.run(_interpreters())
    for minor in SUPPORTED:
        there = found[minor]
        role = "workers use it unless told otherwise" if minor == wanted else ""
        if there is not None:
            text = f"{there.version}, {there.path}"
            yield _PYTHON.fine(minor, text, role, version=there.version, path=there.path)
        elif minor == wanted:
            remedy = (
                f"nothing, if uv can download it at the first call; else install Python {minor}"
            )
            yield _PYTHON.warning(minor, "not found, and workers are to use it", remedy)
        else:
            yield _PYTHON.fine(minor, "not found; uv downloads it when an endpoint names it")


async def _interpreters() -> dict[str, Interpreter | None]:
    interpreters = Interpreters(cache_directory() / "interpreters.json")

    async def present(minor: str) -> Interpreter | None:
        try:
            return await interpreters.present(minor, os.environ)
        except (OSError, EnvironmentBuildError):  # each has a finding of its own
            return None

    found = await asyncio.gather(*map(present, SUPPORTED))
    return dict(zip(SUPPORTED, found, strict=True))


# Packages


def _packages() -> Iterator[Finding]:
    try:
        binary = uv_binary()
    except EnvironmentBuildError as error:
        remedy = "pip install --force-reinstall uv, in the environment of this program"
        yield _PACKAGES.error("uv", str(error), remedy)
    else:
        yield _PACKAGES.fine("uv", f"{metadata.version('uv')}, {binary}")
    yield from _indexes()


def _indexes() -> Iterator[Finding]:
    root = find_root(Path.cwd()) or Path.cwd()
    settings = index_settings(os.environ, root, Path(sys.prefix))
    sources = setting_sources(os.environ, root, Path(sys.prefix))
    places = ["none (no-index)"] if settings.no_index else _index_places(settings, sources)
    yield _PACKAGES.fine("index", ", ".join(places))
    if settings.find_links:
        yield _PACKAGES.fine("find-links", ", ".join(map(_shown, settings.find_links)))
    if sources:
        yield _PACKAGES.fine("set by", ", ".join(sources), sources=sources)
    if settings.variables.get("UV_OFFLINE"):
        yield _PACKAGES.fine("offline", "only what uv's cache holds", "variable UV_OFFLINE")


def _index_places(settings: IndexSettings, sources: list[str]) -> list[str]:
    places = [_shown(place) for place in settings.indexes]
    if files := [name for name in sources if name.endswith(("uv.toml", "pyproject.toml"))]:
        return [*places, *(f"those of {file}" for file in files)]
    if settings.variables.get("UV_DEFAULT_INDEX") or settings.variables.get("UV_INDEX_URL"):
        return places
    return [*places, "PyPI"]


def _shown(place: str) -> str:
    """The address without what may be secret in it."""
    return re.sub(r"[?#].*", "", without_credentials(place))


# Caches


def _caches() -> Iterator[Finding]:
    cache = cache_directory()
    source = "variable XDG_CACHE_HOME" if os.environ.get("XDG_CACHE_HOME") else "default"
    there = _existing(cache)
    if not os.access(there, os.W_OK | os.X_OK):
        remedy = "have it writable, or set XDG_CACHE_HOME to a directory that is"
        yield _CACHES.error("environments", f"{there} cannot be written to", remedy, source)
        return
    yield _CACHES.fine("environments", str(cache), source, path=str(cache))
    stored = Environments(cache).stored()
    taken = sum(each.bytes for each in stored)
    text = f"{output.counted(len(stored), 'environment')}, {human_bytes(taken)}"
    yield _CACHES.fine("they take", text, number=len(stored), bytes=taken)
    yield _bound()
    yield _space(there)
    yield from _uv_cache()


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if os.access(each, os.F_OK))


def _bound() -> Finding:
    name = "FLASH_CACHE_MAX_GB"
    try:
        values = dotenv.values()
    except ConfigurationError:
        values = {}
    value, source = setting(name, values)
    try:
        bound = cache_bound({name: value})
    except ConfigurationError as error:
        return _CACHES.error("bound", str(error), f"correct {name}, or unset it", source)
    text = f"{human_bytes(bound)}; those unused longest go, after a build"
    return _CACHES.fine("bound", text, source or "default", bytes=bound)


def _space(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    text = f"{human_bytes(free)} free where they are"
    remedy = "make room; `flash cache clear` removes environments"
    if free < _NO_SPACE:
        return _CACHES.error("disk", text, remedy, bytes=free)
    if free < _LITTLE_SPACE:
        return _CACHES.warning("disk", text, f"{remedy} (one with PyTorch takes 5 GB)", bytes=free)
    return _CACHES.fine("disk", text, bytes=free)


def _uv_cache() -> Iterator[Finding]:
    """Where uv keeps what it has downloaded; environments share its files."""
    try:
        done = subprocess.run([uv_binary(), "cache", "dir"], capture_output=True, check=False)
    except (OSError, EnvironmentBuildError):
        return
    if done.returncode == 0:
        source = "variable UV_CACHE_DIR" if os.environ.get("UV_CACHE_DIR") else ""
        yield _CACHES.fine("downloads (uv)", os.fsdecode(done.stdout).strip(), source)
