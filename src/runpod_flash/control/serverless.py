"""A deployed endpoint as REST v2 has it: its settings as fields, and fields as changed settings.

Both work on an endpoint of a catalog as releases keep it, as JSON values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runpod_flash.control.gpu_pools import devices_of, pools_of
from runpod_flash.control.image_settings import (
    NAMES,
    NO_IMAGE,
    edited_container,
    image_settings,
    is_registry,
    with_server_of,
)
from runpod_flash.control.releases import as_read
from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import CpuInstanceType, DataCenter
from runpod_flash.spec import EndpointSpec, Scaling, VolumeMount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runpod_flash.control.volumes.registry import Volumes
    from runpod_flash.spec import Container, Placement

    Fields = dict[str, Any]

# What answers show in the place of a value of a variable; written back, it leaves it as it is.
MASK = "********"
QUEUE, LOAD_BALANCER = "QUEUE", "LOAD_BALANCER"
_EXECUTION_TIMEOUT_MS = 300_000


def settings(endpoint: Fields) -> Fields:
    """Its settings. Values of variables are masked, and volumes have the names that it declares."""
    spec = EndpointSpec.from_wire(endpoint["spec"])
    placement = spec.placement
    found = {
        "name": spec.name,
        "type": kind(endpoint),
        "workers": _workers(spec.scaling, kind(endpoint)),
        "scaling": _scaling(spec.scaling),
        "timeout": placement.execution_timeout_ms,
        "flashboot": "FLASHBOOT" if placement.flashboot else "OFF",
        "dataCenterIds": list(placement.datacenters),
        "networkVolumes": [mount.name for mount in placement.volumes],
        "env": {name: MASK for name in sorted(endpoint["env"]) if not is_registry(name)},
    }
    if spec.build.container is not None:
        found |= image_settings(spec.build.container)
    if placement.container_disk_gb:
        found["disk"] = placement.container_disk_gb
    if placement.gpus:
        pools, excluded = pools_of(placement.gpus)
        found["gpu"] = {
            "pools": pools,
            "excludedTypes": excluded,
            "count": placement.gpu_count,
            "allowedCudaVersions": [],
            "minCudaVersion": placement.min_cuda,
        }
    else:
        found["cpu"] = [_cpu(name) for name in placement.cpus]
    return found


def kind(endpoint: Fields) -> str:
    """Whether it has a queue or routes; an image has both, unless it was made with routes only."""
    of = endpoint["spec"]["entry"]["kind"]
    routes = of == "routes" or (of == "image" and not endpoint["operations"])
    return LOAD_BALANCER if routes else QUEUE


def volume_ids(endpoint: Fields, volumes: Volumes) -> list[str]:
    """The ids of the volumes that it has; of one that is not made yet, the name."""
    mounts = EndpointSpec.from_wire(endpoint["spec"]).placement.volumes
    found = [(mount, volumes.named(mount)) for mount in mounts]
    return [mount.name if volume is None else volume.id for mount, volume in found]


def edited(endpoint: Fields, fields: Mapping[str, Any], volumes: Volumes | None = None) -> Fields:
    """The endpoint with the fields of an update, which are of the kinds that they have to be.

    Raises `ConfigurationError` for those that contradict each other or the endpoint, or that have
    no effect here.
    """
    spec = EndpointSpec.from_wire(endpoint["spec"])
    if fields.get("name", spec.name) != spec.name:
        raise ConfigurationError("name: an endpoint has the name that its code gives it")
    scaling = _edited_scaling(spec.scaling, fields, kind(endpoint))
    placement = _edited_placement(spec.placement, fields)
    if "networkVolumes" in fields:
        placement = _with_volumes(placement, fields["networkVolumes"], volumes)
    build, env = spec.build, endpoint["env"]
    if build.container is not None:
        build = replace(build, container=edited_container(build.container, fields))
    elif named := [name for name in NAMES if fields.get(name)]:
        raise ConfigurationError(f"{named[0]}: {NO_IMAGE}")
    if "env" in fields:
        unknown = [n for n, value in fields["env"].items() if value == MASK and n not in env]
        if unknown:
            raise ConfigurationError(f"env: {', '.join(unknown)} had no value to keep")
        env = dict.fromkeys(fields["env"], "")
    env = _with_registry(env, build.container)
    spec = replace(spec, build=build, scaling=scaling, placement=placement)
    return {**endpoint, "spec": as_read(spec.to_wire()), "env": env}


def _with_registry(env: Mapping[str, str], container: Container | None) -> dict[str, str]:
    """Variables, among them that with the credentials of the image's registry, if it has one."""
    kept = {name: value for name, value in env.items() if not is_registry(name)}
    variable = container.registry_auth if container is not None else ""
    return {**kept, variable: ""} if is_registry(variable) else kept


def created(endpoint: Fields, fields: Mapping[str, Any], volumes: Volumes | None) -> Fields:
    """A new endpoint of an image, of which `endpoint` has what it is, with its first fields."""
    found = edited(endpoint, {"timeout": _EXECUTION_TIMEOUT_MS, **fields}, volumes)
    spec = EndpointSpec.from_wire(found["spec"])
    if kind(found) == QUEUE or spec.build.container is None:
        return found
    container = with_server_of(spec.build.container, fields.get("env", {}))
    spec = replace(spec, build=replace(spec.build, container=container))
    return {**found, "spec": as_read(spec.to_wire())}


def check_created(fields: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for fields of a new endpoint that contradict each other."""
    if ("gpu" in fields) == ("cpu" in fields):
        raise ConfigurationError("an endpoint has either gpu or cpu; send one of them")
    check_scaler(fields["type"], fields["scaling"]["type"])
    _edited_scaling(Scaling(workers_max=3), fields, fields["type"])
    if "gpu" in fields:
        check_cuda(fields["gpu"])
        devices_of(fields["gpu"]["pools"], fields["gpu"].get("excludedTypes", ()))
    for each in fields.get("cpu", ()):
        instance_of(each)
    datacenters_of(fields.get("dataCenterIds", []))


def values(fields: Mapping[str, Any]) -> dict[str, str]:
    """The values of variables that an update brings: masked ones stay as they are."""
    return {n: value for n, value in fields.get("env", {}).items() if value != MASK}


def differences(old: Fields | None, new: Fields) -> list[Fields]:
    """What has changed from one release's endpoint to the next one's, field by field."""
    before, after = ({} if each is None else _flat(each) for each in (old, new))
    return [
        {"field": name, "old": before.get(name), "new": after.get(name)}
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _flat(endpoint: Fields) -> Fields:
    """Settings by dotted names, and the digest of what its workers are made of."""
    spec = EndpointSpec.from_wire(endpoint["spec"])
    flat: Fields = {"build": spec.build_digest[:12]}
    if spec.build.container is not None:
        flat["imageDigest"] = spec.build.container.digest
    for name, value in settings(endpoint).items():
        if isinstance(value, dict) and name != "env":
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = sorted(value) if name == "env" else value
    return flat


# Scaling


def _workers(scaling: Scaling, of: str) -> Fields:
    found = {"min": scaling.workers_min, "max": scaling.workers_max}
    if of == QUEUE and scaling.scaler == "REQUEST_COUNT":
        return found
    return {**found, "idleTimeout": scaling.idle_timeout}


def _scaling(scaling: Scaling) -> Fields:
    if scaling.scaler == "QUEUE_DELAY":
        return {"type": "QUEUE_DELAY", "queueDelay": scaling.scaler_value}
    return {"type": "REQUEST_COUNT", "requestCount": int(scaling.scaler_value)}


def _edited_scaling(scaling: Scaling, fields: Mapping[str, Any], of: str) -> Scaling:
    workers = fields.get("workers", {})
    least = workers.get("min", scaling.workers_min)
    most = workers.get("max", scaling.workers_max)
    if least > most:
        raise ConfigurationError(f"workers: min {least} is above max {most}")
    scaling = replace(scaling, workers_min=least, workers_max=most)
    if (wanted := fields.get("scaling")) is not None:
        check_scaler(of, wanted["type"])
        value = wanted.get("queueDelay", wanted.get("requestCount"))
        scaling = replace(scaling, scaler=wanted["type"], scaler_value=value)
    if "idleTimeout" in workers:
        if of == QUEUE and scaling.scaler == "REQUEST_COUNT":
            raise ConfigurationError("workers.idleTimeout: not with a queue and REQUEST_COUNT")
        scaling = replace(scaling, idle_timeout=workers["idleTimeout"], learned=False)
    return scaling


def check_scaler(of: str, scaler: str) -> None:
    """Raise `ConfigurationError` for a scaler that endpoints of the type do not have."""
    if of == LOAD_BALANCER and scaler != "REQUEST_COUNT":
        raise ConfigurationError("scaling: load-balanced endpoints are scaled by REQUEST_COUNT")


# Placement


def _edited_placement(placement: Placement, fields: Mapping[str, Any]) -> Placement:
    if "gpu" in fields and "cpu" in fields:
        raise ConfigurationError("an endpoint has gpu or cpu, not both")
    if "gpu" in fields:
        placement = _edited_gpu(placement, fields["gpu"])
    if "cpu" in fields:
        if placement.gpus:
            raise ConfigurationError("cpu: this endpoint runs on GPUs, which cannot be changed")
        placement = replace(placement, cpus=tuple(map(instance_of, fields["cpu"])))
    if "timeout" in fields:
        placement = replace(placement, execution_timeout_ms=fields["timeout"])
    if "disk" in fields:
        placement = replace(placement, container_disk_gb=fields["disk"])
    if "flashboot" in fields:
        placement = replace(placement, flashboot=flashboot_of(fields["flashboot"]))
    if "dataCenterIds" in fields:
        placement = replace(placement, datacenters=datacenters_of(fields["dataCenterIds"]))
    return placement


def _with_volumes(placement: Placement, ids: Sequence[str], volumes: Volumes | None) -> Placement:
    """With the volumes of these ids. One that it names already stays named."""
    if volumes is None:
        raise ConfigurationError("networkVolumes: this server has none of its own")
    named = {v.id: m for m in placement.volumes if (v := volumes.named(m)) is not None}
    mounts: dict[str, VolumeMount] = {}
    for each in ids:
        volume = volumes.get(each)
        if volume is None:
            raise ConfigurationError(f"networkVolumes: there is no volume {each!r:.80}")
        new = VolumeMount(volume.name, volume.datacenter, volume.size, volume.id)
        mounts[each] = named.get(each, new)
    places = [mount.datacenter for mount in mounts.values()]
    if len(set(places)) < len(places):
        raise ConfigurationError("networkVolumes: at most one in each data center")
    return replace(placement, volumes=tuple(mounts.values()))


def _edited_gpu(placement: Placement, gpu: Mapping[str, Any]) -> Placement:
    if not placement.gpus:
        raise ConfigurationError("gpu: this endpoint runs on CPUs, which cannot be changed")
    if "excludedTypes" in gpu and "pools" not in gpu:
        raise ConfigurationError("gpu.excludedTypes: name the pools as well")
    check_cuda(gpu)
    if "pools" in gpu:
        names = devices_of(gpu["pools"], gpu.get("excludedTypes", ()))
        placement = replace(placement, gpus=names)
    if "minCudaVersion" in gpu:
        placement = replace(placement, min_cuda=gpu["minCudaVersion"] or None)
    return replace(placement, gpu_count=gpu.get("count", placement.gpu_count))


def check_cuda(gpu: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for versions of CUDA that cannot be asked for."""
    if gpu.get("allowedCudaVersions"):
        if gpu.get("minCudaVersion"):
            raise ConfigurationError("gpu: allowedCudaVersions and minCudaVersion exclude another")
        raise ConfigurationError(
            "gpu.allowedCudaVersions: this server chooses by minCudaVersion only; send that"
        )


def flashboot_of(value: str) -> bool:
    """Whether fast starts are on."""
    if value == "PRIORITY_FLASHBOOT":
        raise ConfigurationError("flashboot: this server has OFF and FLASHBOOT, no priorities")
    return value == "FLASHBOOT"


def instance_of(cpu: Mapping[str, Any]) -> str:
    """The CPU instance of a flavour and a number of vCPUs."""
    for each in CpuInstanceType:
        if each.value.startswith(f"{cpu['id']}-{cpu['vcpuCount']}-"):
            return each.value
    known = ", ".join(f"{i.value.split('-')[0]} with {i.vcpu}" for i in CpuInstanceType)
    raise ConfigurationError(
        f"cpu: there is no {cpu['id']!r} with {cpu['vcpuCount']} vCPUs, but {known}"
    )


def _cpu(name: str) -> Fields:
    instance = CpuInstanceType(name)
    flavour = name.split("-")[0]
    return {"id": flavour, "vcpuCount": instance.vcpu, "memory": instance.ram_gb}


def datacenters_of(ids: list[str]) -> tuple[str, ...]:
    """Data centers by their ids, each of which there is."""
    try:
        return tuple(DataCenter(each).value for each in ids)
    except ValueError as error:
        raise ConfigurationError(f"dataCenterIds: {error}") from None
