"""From an endpoint's declaration to its spec: what build, engine, autoscaler and worker consume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.declaration import refuse
from runpod_flash.hardware import expand_gpus
from runpod_flash.scaling import LEARNED, LEARNED_WORTH
from runpod_flash.spec import Build, EndpointSpec, Placement, Scaling, VolumeMount

if TYPE_CHECKING:
    from runpod_flash.endpoint import Endpoint
    from runpod_flash.spec import Entry


def spec_of(endpoint: Endpoint, entry: Entry, code: str) -> EndpointSpec:
    """The spec of this declaration for one function or class."""
    if entry.by_value and endpoint.python_version not in (None, entry.value_python):
        raise refuse(
            "python_version",
            endpoint.python_version,
            f"{entry.qualname} has no file, so its code travels as it is, for Python "
            f"{entry.value_python} only; define it in a file",
        )
    return EndpointSpec(
        name=endpoint.name or entry.qualname,
        entry=entry,
        build=Build(
            code=code,
            dependencies=tuple(endpoint.dependencies or ()),
            system_dependencies=tuple(endpoint.system_dependencies or ()),
            python=endpoint.python_version,
            container=endpoint._container,
        ),
        placement=_placement(endpoint),
        scaling=Scaling(
            endpoint.workers_min,
            endpoint.workers_max,
            LEARNED_WORTH if isinstance(endpoint.idle_timeout, str) else endpoint.idle_timeout,
            endpoint.scaler_type.value,
            endpoint.scaler_value,
            learned=endpoint.idle_timeout == LEARNED,
        ),
    )


def _placement(endpoint: Endpoint) -> Placement:
    template = endpoint.template
    return Placement(
        gpus=expand_gpus(endpoint._gpus) if endpoint._gpus else (),
        gpu_count=endpoint.gpu_count,
        cpus=tuple(cpu.value for cpu in endpoint._cpus),
        min_cuda=endpoint.min_cuda_version.value
        if endpoint.min_cuda_version and endpoint._gpus
        else None,
        volumes=tuple(
            VolumeMount(v.mount_name, v.dataCenterId.value, v.size, v.server_id)
            for v in endpoint.volume or ()
        ),
        datacenters=tuple(d.value for d in endpoint.datacenter or ()),
        max_concurrency=endpoint.max_concurrency,
        execution_timeout_ms=endpoint.execution_timeout_ms,
        max_attempts=endpoint.max_attempts,
        restartable=endpoint.restartable,
        flashboot=endpoint.flashboot,
        accelerate_downloads=endpoint.accelerate_downloads,
        container_disk_gb=(
            template.containerDiskInGb if template and template.disk_declared else 0
        ),
    )
