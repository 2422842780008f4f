"""Flash turns a decorated Python function into a serverless GPU endpoint.

    from runpod_flash import Endpoint, GpuType

    @Endpoint(name="hello", gpu=GpuType.ANY, workers=(0, 3), dependencies=["numpy"])
    async def hello(payload): ...

Names are loaded when they are first used; importing this package does nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes longer than all of this package

__version__ = "0.1.0"

# name -> module that has it
_NAMES = {
    "CPU_DATACENTERS": "hardware",
    "DEFAULT_WORKERS_MAX": "scaling",
    "DEFAULT_WORKERS_MIN": "scaling",
    "CpuInstanceType": "hardware",
    "CpuLiveLoadBalancer": "legacy",
    "CpuLiveServerless": "legacy",
    "CpuLoadBalancerSlsResource": "legacy",
    "CpuServerlessEndpoint": "legacy",
    "CudaVersion": "hardware",
    "DataCenter": "hardware",
    "Endpoint": "endpoint",
    "EndpointJob": "job",
    "FlashApp": "flash_app",
    "GpuGroup": "hardware",
    "GpuType": "hardware",
    "LiveLoadBalancer": "legacy",
    "LiveServerless": "legacy",
    "LoadBalancerSlsResource": "legacy",
    "NetworkVolume": "volume",
    "PodTemplate": "template",
    "ResourceManager": "resource_manager",
    "ServerlessEndpoint": "legacy",
    "ServerlessScalerType": "scaling",
    "ServerlessType": "scaling",
    "on_start": "starting",
    "remote": "legacy",
}

if TYPE_CHECKING:
    from runpod_flash.endpoint import Endpoint
    from runpod_flash.flash_app import FlashApp
    from runpod_flash.hardware import (
        CPU_DATACENTERS,
        CpuInstanceType,
        CudaVersion,
        DataCenter,
        GpuGroup,
        GpuType,
    )
    from runpod_flash.job import EndpointJob
    from runpod_flash.legacy import (
        CpuLiveLoadBalancer,
        CpuLiveServerless,
        CpuLoadBalancerSlsResource,
        CpuServerlessEndpoint,
        LiveLoadBalancer,
        LiveServerless,
        LoadBalancerSlsResource,
        ServerlessEndpoint,
        remote,
    )
    from runpod_flash.resource_manager import ResourceManager
    from runpod_flash.scaling import (
        DEFAULT_WORKERS_MAX,
        DEFAULT_WORKERS_MIN,
        ServerlessScalerType,
        ServerlessType,
    )
    from runpod_flash.starting import on_start
    from runpod_flash.template import PodTemplate
    from runpod_flash.volume import NetworkVolume

__all__ = [
    "CPU_DATACENTERS",
    "DEFAULT_WORKERS_MAX",
    "DEFAULT_WORKERS_MIN",
    "CpuInstanceType",
    "CpuLiveLoadBalancer",
    "CpuLiveServerless",
    "CpuLoadBalancerSlsResource",
    "CpuServerlessEndpoint",
    "CudaVersion",
    "DataCenter",
    "Endpoint",
    "EndpointJob",
    "FlashApp",
    "GpuGroup",
    "GpuType",
    "LiveLoadBalancer",
    "LiveServerless",
    "LoadBalancerSlsResource",
    "NetworkVolume",
    "PodTemplate",
    "ResourceManager",
    "ServerlessEndpoint",
    "ServerlessScalerType",
    "ServerlessType",
    "on_start",
    "remote",
]


if not TYPE_CHECKING:  # with it, a checker would let every misspelled name pass

    def __getattr__(name: str) -> object:
        module = _NAMES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(f"{__name__}.{module}"), name)
        if module == "legacy":
            from runpod_flash.legacy import warn_deprecated

            warn_deprecated(name)
        # Found without this function from now on: a deprecated name warns once in a process.
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
