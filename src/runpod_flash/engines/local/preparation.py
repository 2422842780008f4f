"""What an endpoint needs of this machine before a worker of it can start."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.engines.base import Platform
from runpod_flash.engines.local.environments.environments import EnvironmentRequest
from runpod_flash.engines.local.environments.index_settings import index_settings, listing
from runpod_flash.engines.local.environments.interpreters import wanted_minor
from runpod_flash.engines.local.environments.platforms import this_platform
from runpod_flash.engines.local.environments.torch_builds import undeclared_torch
from runpod_flash.engines.local.system_packages import missing_system_packages
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.engines.local.devices.gpus import Gpu
    from runpod_flash.spec import EndpointSpec


async def check_machine(
    spec: EndpointSpec, cache: Path, datacenter: str, say: Callable[[str], None]
) -> None:
    """Raise `EnvironmentBuildError` for absent system packages, or a cache that cannot be written.

    Say what else is short.
    """
    _check_cache(cache)
    packages = await missing_system_packages(spec.build.system_dependencies)
    if packages.missing:
        names = " ".join(packages.missing)
        raise EnvironmentBuildError(
            f"endpoint {spec.name!r} needs system packages that are not installed here: "
            f"sudo apt-get install {names}; or name an image that has them by image="
        )
    if not packages.checked:
        names = ", ".join(spec.build.system_dependencies)
        say(f"whether its system_dependencies ({names}) are installed cannot be told here")
    wanted = spec.placement.container_disk_gb
    free = shutil.disk_usage(cache).free / 1e9
    if wanted and free < wanted:
        say(f"template asks for {wanted} GB of disk, and {free:.0f} GB are free here")
    if spec.placement.datacenters and not datacenter:
        say(f"{', '.join(spec.placement.datacenters)}: every data center is this machine")


def _check_cache(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(cache, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise EnvironmentBuildError(
            f"Flash cannot write to its cache {cache} ({reason}): make it writable, or have it "
            "elsewhere by XDG_CACHE_HOME=DIRECTORY"
        )


def environment_request(
    spec: EndpointSpec, devices: Sequence[Gpu], say: Callable[[str], None]
) -> EnvironmentRequest:
    """The environment of the endpoint's workers on these devices (none: on the CPU).

    Raises `EnvironmentBuildError` where the endpoint's lock cannot be read.
    """
    lines = _locked_lines(spec) if spec.build.lock else requirement_lines(spec, say)
    return EnvironmentRequest(
        endpoint=spec.name,
        requirements=lines,
        python=spec.build.python or spec.entry.value_python or None,
        accelerate_downloads=spec.placement.accelerate_downloads,
        cuda=_common_cuda(devices),
        root=Path(spec.entry.root) if spec.entry.root else None,
        locked=bool(spec.build.lock),
    )


def local_platform(devices: Sequence[Gpu]) -> Platform:
    """What packages for workers of this machine have to fit."""
    settings = index_settings(os.environ, Path.cwd(), Path(sys.prefix))
    names = [
        line.rpartition(" ")[0] for p in settings.find_links for line in listing(p).split("\n")
    ]
    return Platform(
        python=wanted_minor(None),
        system=this_platform(),
        cuda=_common_cuda(devices),
        wheels=tuple(name for name in names if name.endswith(".whl")),
    )


def _common_cuda(devices: Sequence[Gpu]) -> str | None:
    return min((gpu.cuda for gpu in devices if gpu.cuda), key=_version, default=None)


def requirement_lines(spec: EndpointSpec, say: Callable[[str], None]) -> tuple[str, ...]:
    """What the endpoint, its project and the way in which it is served ask for."""
    root = Path(spec.entry.root) if spec.entry.root else None
    declared = (*spec.build.dependencies, *_project_lines(root), *_served_by(spec))
    added = _undeclared(spec, declared)
    if added:
        say(f"adds {', '.join(added)}, which it imports and does not declare")
    return (*declared, *added)


def _locked_lines(spec: EndpointSpec) -> tuple[str, ...]:
    try:
        text = Path(spec.entry.root, spec.build.lock_file).read_bytes()
    except OSError as error:
        raise EnvironmentBuildError(
            f"the lock of {spec.name} cannot be read: {error.strerror}; deploy it again"
        ) from None
    if hashlib.sha256(text).hexdigest() != spec.build.lock:
        raise EnvironmentBuildError(
            f"the lock of {spec.name} is not the one that it was built with; deploy it again"
        )
    return tuple(text.decode().splitlines())


def _served_by(spec: EndpointSpec) -> tuple[str, ...]:
    """What answers requests in workers of routes; resolved together with the user's packages."""
    return ("fastapi", "python-multipart") if spec.entry.kind == "routes" else ()


def has_own_packages(spec: EndpointSpec, request: EnvironmentRequest) -> bool:
    """Whether its environment has packages that somebody has chosen, and not Flash."""
    return tuple(request.requirements) != _served_by(spec)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _undeclared(spec: EndpointSpec, declared: Sequence[str]) -> tuple[str, ...]:
    """Packages of the torch family, which hosted GPU images bring along."""
    if not spec.uses_gpu or spec.entry.by_value:
        return ()
    source = Path(spec.entry.root, spec.entry.file).read_text(encoding="utf-8", errors="replace")
    return undeclared_torch(source, spec.entry.qualname, declared)


def _project_lines(root: Path | None) -> list[str]:
    """The lines of `requirements.txt` in the project's root."""
    if root is None or not (root / "requirements.txt").is_file():
        return []
    text = (root / "requirements.txt").read_text(encoding="utf-8", errors="replace")
    bare = (line.partition(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in bare if line and not line.startswith("#")]
