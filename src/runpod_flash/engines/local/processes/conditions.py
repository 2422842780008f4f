"""What workers must have in common to be forks of one process."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runpod_flash.engines.local.processes.launcher import LaunchOrder, Mount

# What Python, the C library and the modules imported ahead read once. A zygote has nothing else,
# unless it imports packages: those may read anything.
_READ_AT_START = ("HOME", "LANG", "PATH")
_READ_AT_START_PREFIXES = ("GLIBC_", "LC_", "LD_", "MALLOC_", "OPENSSL_", "PYDANTIC_", "PYTHON")
# What may differ between workers that are alike otherwise.
_WORKERS_OWN = {
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "FLASH_ENDPOINT_NAME",
    "FLASH_VOLUME_PATH",
    "FLASH_WORKER_ID",
    "NVIDIA_VISIBLE_DEVICES",
    "RUNPOD_GPU_COUNT",
}


@dataclass(frozen=True)
class Conditions:
    """What workers must have in common to be forks of one zygote.

    One that is `inside` has a view, a user and an owner.
    """

    python: str
    env: frozenset[tuple[str, str]]
    cwd: Path
    home: Path
    modules: tuple[str, ...]
    inside: bool = False
    view: tuple[Mount, ...] = ()
    user: tuple[int, int] | None = None
    owner: str = ""


def conditions(order: LaunchOrder) -> Conditions | None:
    """Those of an order, or None where no fork can serve it."""
    if order.ahead is None or sys.platform != "linux":
        return None
    standard = sys.stdlib_module_names.issuperset(_top(order.ahead.learned))
    imports_packages = order.ahead.inside or not standard
    shared = _shared(order).items()
    env = frozenset((k, v) for k, v in shared if imports_packages or _is_read_at_start(k))
    modules = (order.ahead.program, *order.ahead.modules)
    place = (True, order.mounts, order.user, order.owner) if order.ahead.inside else ()
    return Conditions(order.argv[0], env, _start_folder(order), order.ahead.home, modules, *place)


def _start_folder(order: LaunchOrder) -> Path:
    """Where Python starts, which matters to relative folders of PYTHONPATH alone.

    (A fork goes to its own folder. Each program's app at a server has another one.)
    """
    places = order.env.get("PYTHONPATH", "")
    absolute = all(map(os.path.isabs, places.split(os.pathsep))) if places else True
    return Path("/") if absolute else order.cwd


def _is_read_at_start(variable: str) -> bool:
    return variable in _READ_AT_START or variable.startswith(_READ_AT_START_PREFIXES)


def _shared(order: LaunchOrder) -> dict[str, str]:
    """The variables in which workers that are alike do not differ."""
    return {k: v for k, v in order.env.items() if k not in _WORKERS_OWN and k not in order.own}


def snapshot_key(order: LaunchOrder) -> str:
    """What is the same for all workers that may go on from one snapshot; empty where none may."""
    if order.snapshot is None or order.ahead is None or sys.platform != "linux":
        return ""
    same = {
        "argv": order.argv[0],
        "env": _shared(order),
        "cwd": order.cwd,
        "mounts": [asdict(mount) for mount in order.mounts],
        "user": order.user,
        "modules": [order.ahead.home, order.ahead.program, *order.ahead.modules],
        "told": order.snapshot.digest,
    }
    text = json.dumps(same, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _top(names: Iterable[str]) -> Iterator[str]:
    return (name.partition(".")[0] for name in names)
