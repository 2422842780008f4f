"""Which GPUs of this machine a new worker gets; what is said where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from runpod_flash.engines.base import CapacityError, Device, Refusal
from runpod_flash.engines.local import variables
from runpod_flash.engines.local.volumes import misplaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.engines.base import StartOrder
    from runpod_flash.engines.local.devices.gpu_pool import GpuLease
    from runpod_flash.engines.local.devices.gpus import Gpu
    from runpod_flash.engines.local.node import Node
    from runpod_flash.spec import EndpointSpec

NODE = "local"
# What a worker runs on whose GPU no node has.
GpuFallback = Literal["cpu", "none"]


class Say(Protocol):
    """Tells an endpoint's user something once; `about` is what makes it the same thing."""

    def __call__(self, text: str, about: object = None) -> None: ...


class Leasing:
    """The devices of one node, for all engines that start workers on it."""

    def __init__(self, node: Node, fallback: GpuFallback) -> None:
        self._node = node
        self._gpus = node.gpus()
        self._fallback = fallback

    def devices(self) -> Sequence[Device]:
        """All of them, with who has each."""
        return [
            Device(NODE, gpu.index, gpu.name, gpu.memory_total, gpu.memory_used, holders)
            for gpu, holders in self._gpus.devices()
        ]

    def gpus(self) -> list[Gpu]:
        """The devices themselves."""
        return [gpu for gpu, _ in self._gpus.devices()]

    def compatible(self, spec: EndpointSpec) -> Sequence[Gpu]:
        """Those that could serve the endpoint."""
        return self._gpus.compatible(spec.placement) if spec.uses_gpu else ()

    def refuse_impossible(self, spec: EndpointSpec) -> None:
        """Refuse what no waiting will bring: devices that this machine does not have, or a place
        where it is not."""
        if elsewhere := misplaced(spec, self._node.datacenter):
            text = f"{elsewhere}; change its datacenter= or volume="
            raise CapacityError(Refusal(text, permanent=True))
        if self._fallback == "none" and spec.uses_gpu and not self.compatible(spec):
            wanted, there = self.wanted(spec), self._gpus.summary()
            reason = (
                f"it needs {wanted}, and this server has {there}; change its gpu=, or start the "
                "server with --gpu-fallback cpu"
            )
            raise CapacityError(Refusal(reason, permanent=True))

    def lease(self, order: StartOrder, say: Say) -> GpuLease | None:
        """The devices of a new worker; None where this machine has none of the kind."""
        placement, name = order.spec.placement, order.spec.name
        if not order.spec.uses_gpu:
            return None
        wanted = self.wanted(order.spec)
        if not self._gpus.compatible(placement):
            say(f"{name} runs on the CPU: no {wanted} on this machine")
            return None
        lease = self._gpus.acquire(placement, order.worker_id, order.near)
        if lease is None:
            holders = self._gpus.holders(placement)
            raise CapacityError(Refusal(f"{wanted}, held by {', '.join(holders)}", holders))
        if lease.shared_from is not None:
            other = lease.shared_from.rpartition("-")[0]
            say(f"{name} shares the GPU of {other}, which waits for it")
        if in_use := self._gpus.in_use_by_others(lease):
            say(in_use, about=lease.devices)  # once, however the figures change
        return lease

    def release(self, worker_id: str) -> None:
        """The worker is gone: its devices are free."""
        self._gpus.release(worker_id)

    def wanted(self, spec: EndpointSpec) -> str:
        """A phrase; where there is no GPU, its CUDA version is not what is amiss."""
        return variables.wanted_gpus(spec, cuda=self._gpus.has_devices())
