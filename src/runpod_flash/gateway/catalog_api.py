"""/v2/catalog: GPUs, CPUs and data centers, as this server's nodes have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.control.gpu_pools import pool_of
from runpod_flash.gateway.access import require
from runpod_flash.gateway.messages import Answer, answer, query
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow, page
from runpod_flash.hardware import CPU_DATACENTERS, CpuInstanceType, DataCenter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.engines.base import Device
    from runpod_flash.gateway.messages import Receive, Scope

    Entry = dict[str, Any]

_REGIONS = {"US": "NORTH_AMERICA", "EU": "EUROPE", "EUR": "EUROPE"}
_PRODUCTS = ("SERVERLESS",)
_INCLUDED = {
    "gpus": ("AVAILABILITY",),
    "cpus": ("AVAILABILITY",),
    "datacenters": ("GPU_AVAILABILITY", "CPU_AVAILABILITY"),
}
_PARAMETERS = {
    "gpus": ("include", "product"),
    "cpus": ("include", "product"),
    "datacenters": ("include", "regions", "networkVolumeTypes", "compliance", "globalNetwork"),
}
_WRAPPERS = {"gpus": "gpus", "cpus": "cpus", "datacenters": "dataCenters"}


class CatalogApi:
    """A `Resource`. `devices` are those of the nodes; `datacenter` is where they stand, empty where
    every data center is here.
    """

    def __init__(self, devices: Callable[[], Sequence[Device]], datacenter: str) -> None:
        self._devices = devices
        self._datacenter = datacenter

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        require(scope, "deploy")
        allow(scope, "GET")
        match [each for each in rest if each]:
            case ["templates"]:
                return answer(200, page("templates", ()))
            case ["gpus" | "cpus" | "datacenters" as kind]:
                entries = self._entries(kind, _included(kind, scope))
                if kind == "datacenters":
                    entries = _chosen(entries, scope)
                return answer(200, page(_WRAPPERS[kind], entries))
            case ["gpus" | "cpus" | "datacenters" as kind, entry_id]:
                for entry in self._entries(kind, _included(kind, scope)):
                    if entry["id"] == entry_id:
                        return answer(200, entry)
                raise problem(404, f"this server's catalog of {kind} has no {entry_id!r:.80}")
        raise problem(
            404, f"nothing is at {scope['path']}; there are /v2/catalog/gpus, cpus and datacenters"
        )

    def _entries(self, kind: str, included: Sequence[str]) -> list[Entry]:
        if kind == "gpus":
            return _gpus(self._devices(), bool(included))
        if kind == "cpus":
            return _cpus(bool(included))
        return [self._data_center(each, included) for each in self._places()]

    def _places(self) -> list[DataCenter]:
        here = self._datacenter
        return [each for each in DataCenter if not here or each.value == here]

    def _data_center(self, place: DataCenter, included: Sequence[str]) -> Entry:
        entry: Entry = {
            "id": place.value,
            "name": place.value,
            "region": _REGIONS[place.value.split("-")[0]],
            "networkVolumeTypes": ["STANDARD"],
            "compliance": [],
            "globalNetwork": False,
        }
        if "GPU_AVAILABILITY" in included:
            entry["gpuAvailability"] = _available(_gpus(self._devices(), True))
        if "CPU_AVAILABILITY" in included:
            cpus = _cpus(True) if place in CPU_DATACENTERS else []
            entry["cpuAvailability"] = _available(cpus)
        return entry


def _included(kind: str, scope: Scope) -> list[str]:
    """What a query asks for besides; 400 and 422 say what is wrong with it."""
    given = {name: list(filter(None, text.split(","))) for name, text in query(scope).items()}
    unknown = [name for name in given if name not in _PARAMETERS[kind]]
    if unknown:
        known = ", ".join(_PARAMETERS[kind])
        raise _wrong(*(f"{name:.80}: it is not known here; there are {known}" for name in unknown))
    found = given.get("include", [])
    for each in found:
        if each not in _INCLUDED[kind]:
            raise _wrong(f"include: {each!r:.80} is not {' or '.join(_INCLUDED[kind])}")
    if kind == "datacenters":
        return found
    products = given.get("product", [])
    if bool(found) != bool(products):
        raise problem(400, "include=AVAILABILITY and product come together")
    for each in products:
        if each not in _PRODUCTS:
            raise _wrong(f"product: {each!r:.80} is not offered; this server has SERVERLESS")
    return found


def _chosen(entries: Sequence[Entry], scope: Scope) -> list[Entry]:
    """The data centers that a query leaves: any of the regions, and all of the rest."""
    given = query(scope)
    regions = list(filter(None, given.get("regions", "").split(",")))
    found = [each for each in entries if not regions or each["region"] in regions]
    for name in ("networkVolumeTypes", "compliance"):
        wanted = set(filter(None, given.get(name, "").split(",")))
        found = [each for each in found if wanted <= set(each[name])]
    if "globalNetwork" in given:
        found = [e for e in found if e["globalNetwork"] == (given["globalNetwork"] == "true")]
    return found


def _wrong(*errors: str) -> Exception:
    return problem(422, "Request validation failed.", *errors)


def _gpus(devices: Sequence[Device], availability: bool) -> list[Entry]:
    found = []
    for name in dict.fromkeys(each.name for each in devices):
        same = [each for each in devices if each.name == name]
        pool = pool_of(name)
        largest = max(sum(d.node == node for d in same) for node in {d.node for d in same})
        entry: Entry = {
            "id": name,
            "name": name.removeprefix("NVIDIA "),
            "pool": None if pool is None else pool.value,
            "manufacturer": "NVIDIA",
            "memory": round(same[0].memory / 2**30),
            "secure": True,
            "community": False,
            "price": {"secure": 0, "community": 0, "serverless": 0},
            "maxCount": {"secure": largest, "community": 0},
        }
        if availability:
            entry["availability"] = _level(sum(not each.holders for each in same), len(same))
        found.append(entry)
    return found


def _level(free: int, of: int) -> str:
    if free == 0:
        return "NONE"
    return "HIGH" if free == of else "MEDIUM" if 2 * free >= of else "LOW"


def _cpus(availability: bool) -> list[Entry]:
    found = []
    for flavour in dict.fromkeys(each.value.split("-")[0] for each in CpuInstanceType):
        sizes = [each for each in CpuInstanceType if each.value.startswith(f"{flavour}-")]
        entry: Entry = {
            "id": flavour,
            "name": flavour.upper(),
            "group": "CPU",
            "vcpu": {"min": min(s.vcpu for s in sizes), "max": max(s.vcpu for s in sizes)},
            "ramGbPerVcpu": sizes[0].ram_gb / sizes[0].vcpu,
            "price": {"securePerVcpu": 0, "serverlessPerVcpu": 0},
        }
        found.append({**entry, "availability": "HIGH"} if availability else entry)
    return found


def _available(entries: Sequence[Entry]) -> list[Entry]:
    return [{name: each[name] for name in ("id", "name", "availability")} for each in entries]
