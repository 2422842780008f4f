"""Local dependencies as wheels: directories, editable installs, source archives, repositories."""

from __future__ import annotations

import asyncio
import hashlib
import stat
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.archives import check_archive
from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.engines.local.environments.platforms import described, tags_of, this_platform
from runpod_flash.engines.local.environments.requirement_lines import (
    content_stamp,
    local_path,
    project_name,
    with_wheel,
)
from runpod_flash.engines.local.environments.uv import run_guarded, uv_binary
from runpod_flash.errors import EnvironmentBuildError
from runpod_flash.packing.kept import used
from runpod_flash.packing.repositories import Repository

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.engines.local.environments.plans import Plan

# The earliest that a ZIP archive can hold.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_EPOCH_SECONDS = "315532800"


async def as_wheels(plan: Plan, home: Path, say: Callable[[str], None]) -> list[str]:
    """The plan's lines, with a wheel's path for each source on this machine.

    Raises `EnvironmentBuildError` for what cannot be built, or does not fit the workers.
    """
    return [await _as_wheel(plan, line, home, say) for line in plan.requirements.lines]


async def _as_wheel(plan: Plan, line: str, home: Path, say: Callable[[str], None]) -> str:
    if repository := Repository.of(line):
        wheel = await _from_repository(plan, repository, home, say)
        return with_wheel(f"./x{repository.extras} {repository.marker}".strip(), wheel)
    path = local_path(line)
    if path is None:
        return line
    if not path.exists():
        raise EnvironmentBuildError(
            f"{plan.request.endpoint} depends on {path}, which is not there: mend dependencies= or "
            "requirements.txt."
        )
    if path.suffix == ".whl":
        _check_fits(plan, path)
        return with_wheel(line, path)
    if path.is_file():
        await asyncio.to_thread(check_archive, path)
    place = home / _digest(f"{path} {content_stamp(path)}")
    return with_wheel(line, await _built(plan, path, place, say))


async def _from_repository(
    plan: Plan, repository: Repository, home: Path, say: Callable[[str], None]
) -> Path:
    """The wheel of one of its commits. Which one is looked up each time."""
    say(f"fetching {without_credentials(repository.url)}")
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as new:
        commit = await repository.fetch(Path(new))
        place = home / _digest(f"{repository.url} {commit} {repository.folder}")
        return await _built(plan, Path(new, repository.folder), place, say)


def _digest(source: str) -> str:
    # Another Python, or another machine that has the same home, may make another wheel of it.
    builder = f"{sys.version_info[0]}.{sys.version_info[1]} {this_platform()}"
    return hashlib.sha256(f"{source} {builder}".encode()).hexdigest()[:24]


async def _built(plan: Plan, source: Path, place: Path, say: Callable[[str], None]) -> Path:
    """The wheel of a source, which is at `place` from then on."""
    if found := next(place.glob("*.whl"), None):
        used(place)
        _check_fits(plan, found)
        return found
    say(f"building {project_name(source) or source.name}")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as new:
        command = [uv_binary(), "build", "--wheel", "--out-dir", new, "--python", sys.executable]
        variables = {**plan.uv_variables(), "SOURCE_DATE_EPOCH": _EPOCH_SECONDS}
        variables.pop("UV_TORCH_BACKEND", None)
        finished = await run_guarded([*command, str(source)], env=variables, cwd=plan.directory)
        made = next(Path(new).glob("*.whl"), None)
        if finished.code or made is None:
            raise EnvironmentBuildError(
                f"{source}, on which {plan.request.endpoint} depends, cannot be built: "
                f"{finished.reason}."
            )
        _check_fits(plan, made)
        await asyncio.to_thread(_normalise, made)
        return made.replace(place / made.name)


def _normalise(wheel: Path) -> None:
    """Write it anew, so that equal files make equal bytes: whenever, wherever, by whatever umask.

    Nothing is compressed, for libraries do that in different ways.
    """
    with zipfile.ZipFile(wheel) as old:
        found = {info.filename: (old.read(info), info.external_attr >> 16) for info in old.filelist}
    # Metadata comes last, as the format wants it.
    order = sorted(found, key=lambda name: (".dist-info/" in name, name))
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as new:
        for name in order:
            data, mode = found[name]
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)) << 16
            new.writestr(info, data)


def _check_fits(plan: Plan, wheel: Path) -> None:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    request = plan.request
    try:
        _, _, _, tags = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename:
        raise EnvironmentBuildError(
            f"{wheel.name}, on which {request.endpoint} depends, is not named as a wheel is; take "
            "the name that it was built with."
        ) from None
    if tags.isdisjoint(tags_of(plan.interpreter.pair, request.platform)):
        raise EnvironmentBuildError(
            f"{wheel.name}, on which {request.endpoint} depends, does not fit Python "
            f"{request.python} on {described(request.platform)}: build its wheel for that "
            "(cibuildwheel does) and name the file in dependencies=, or use an image."
        )
