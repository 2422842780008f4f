"""The plane of this machine, wired: its store, its engines, and where containers ask for jobs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from runpod_flash.engines.machine import MachineEngine
from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.plane import Plane

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.engines.docker.engine import DockerEngine
    from runpod_flash.engines.local.devices.leasing import GpuFallback, Leasing
    from runpod_flash.engines.local.engine import LocalEngine
    from runpod_flash.engines.local.isolation import Isolation
    from runpod_flash.engines.local.node import Node
    from runpod_flash.engines.local.processes.launcher import Launcher
    from runpod_flash.engines.local.volumes import Volumes
    from runpod_flash.plane.debugging import Console
    from runpod_flash.plane.store.base import Store
    from runpod_flash.wire.shared_memory import SharedMemory

# What is kept ready for later workers goes so long after the last start of one.
KEPT_SECONDS = 300.0


def machine_plane(
    store: Store,
    caller_env: Mapping[str, str],
    *,
    node: Node | None = None,
    gpu_fallback: GpuFallback = "cpu",
    isolation: Isolation | None = None,
    volumes: Volumes | None = None,
    clock: Callable[[], float] = time.monotonic,
    console: Console | None = None,
    memory: SharedMemory | None = None,
    kept_seconds: float = KEPT_SECONDS,
) -> Plane:
    """A plane whose workers are processes and containers of this machine. On its loop.

    `volumes` are this user's, if no others are given. By `memory`, values go to processes and back.
    What makes a worker's start fast is kept for `kept_seconds` after the last start.
    """
    from runpod_flash.engines.docker.marks import Marks
    from runpod_flash.engines.local.devices.leasing import Leasing
    from runpod_flash.engines.local.environments.environments import cache_directory
    from runpod_flash.engines.local.node import Node as RealNode

    node = node or RealNode()
    leasing = Leasing(node, gpu_fallback)

    def make_containers() -> DockerEngine:
        from runpod_flash.engines.docker.engine import DockerEngine
        from runpod_flash.engines.local.volumes import UsersVolumes
        from runpod_flash.gateway.worker_desk import WorkerDesk

        desk, cache = WorkerDesk(plane), cache_directory()
        return DockerEngine(desk, node, leasing, cache, volumes or UsersVolumes())

    Marks(cache_directory()).sweep_if_any()
    local = local_engine(
        node, gpu_fallback, isolation, volumes, leasing, memory, kept_seconds=kept_seconds
    )
    plane = Plane(store, MachineEngine(local, make_containers), caller_env, clock, console)
    return plane


def local_engine(
    node: Node | None = None,
    gpu_fallback: GpuFallback = "cpu",
    isolation: Isolation | None = None,
    volumes: Volumes | None = None,
    leasing: Leasing | None = None,
    memory: SharedMemory | None = None,
    *,
    kept_seconds: float = KEPT_SECONDS,
) -> LocalEngine:
    """The engine whose workers are processes of this machine. Called on the plane's loop."""
    from runpod_flash.engines.local.engine import LocalEngine
    from runpod_flash.engines.local.environments.environments import (
        Environments,
        cache_bound,
        cache_directory,
    )
    from runpod_flash.engines.local.node import Node as RealNode

    cache, node = cache_directory(), node or RealNode()
    # What is kept ready for later workers leaves as much to those that run.
    spare_bytes = node.machine(0).memory_available // 2
    return LocalEngine(
        Environments(cache, cache_bound(os.environ)),
        _launcher(apart=isolation is not None, max_bytes=spare_bytes, kept_seconds=kept_seconds),
        node,
        cache,
        dict(os.environ),
        gpu_fallback,
        isolation,
        volumes,
        leasing,
        memory,
    )


def _launcher(*, apart: bool, max_bytes: int, kept_seconds: float) -> Launcher:
    """Forks of what is kept ready; each worker a fresh process with `FLASH_ZYGOTES=0`."""
    from runpod_flash.engines.local.processes.fresh import FreshProcessLauncher
    from runpod_flash.engines.local.processes.zygotes import ZygoteLauncher

    text = os.environ.get("FLASH_ZYGOTES", "")
    if text not in ("", "0", "1"):
        raise ConfigurationError(
            f"FLASH_ZYGOTES={text!r}: give 0 to start each worker as a fresh process, or 1"
        )
    if text == "0":
        return FreshProcessLauncher(apart=apart)
    return ZygoteLauncher(idle=kept_seconds, apart=apart, max_bytes=max_bytes)
