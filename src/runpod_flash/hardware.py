"""The hardware that a declaration can name: GPU groups and types, CPU instances, data centers.

Members and values are a compatibility contract. What the plane asks of them is at the end:
`expand_gpus` turns a declared selection into device names, `matches` holds one against a device.
"""

from __future__ import annotations

from runpod_flash.errors import ConfigurationError
from runpod_flash.suggest import SuggestingEnum, did_you_mean

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ANY_DEVICE = "any"


class GpuGroup(SuggestingEnum):
    """A pool of interchangeable GPU models; its value is the pool's id."""

    ANY = "any"
    ADA_24 = "ADA_24"
    ADA_32_PRO = "ADA_32_PRO"
    ADA_48_PRO = "ADA_48_PRO"
    ADA_80_PRO = "ADA_80_PRO"
    AMPERE_16 = "AMPERE_16"
    AMPERE_24 = "AMPERE_24"
    AMPERE_48 = "AMPERE_48"
    AMPERE_80 = "AMPERE_80"
    HOPPER_141 = "HOPPER_141"
    BLACKWELL_96 = "BLACKWELL_96"
    BLACKWELL_180 = "BLACKWELL_180"

    @classmethod
    def all(cls) -> list[GpuGroup]:
        """Every group but ANY. AMPERE_48 leads and comes again in its place: a known contract."""
        return [cls.AMPERE_48, *(group for group in cls if group is not cls.ANY)]

    @classmethod
    def to_gpu_ids_str(cls, gpu_types: Iterable[GpuGroup | GpuType]) -> str:
        """The selection as a `gpuIds` string: pools in order of preference, then `-<type>`s.

        A GPU type stands for its pool without the pool's other types, unless they or the pool
        are selected as well. ANY selects every group.
        """
        selection = list(gpu_types)
        if GpuGroup.ANY in selection or GpuType.ANY in selection:
            selection = list(cls.all())
        pools: dict[GpuGroup, None] = {}
        for choice in selection:
            pools[_pool_of(choice) if isinstance(choice, GpuType) else choice] = None
        excluded = [
            f"-{other.value}"
            for pool in pools
            if pool not in selection
            for other in POOL_TYPES[pool]
            if other not in selection
        ]
        return ",".join([*(pool.value for pool in pools), *excluded])

    @classmethod
    def normalize_gpu_ids_str(cls, gpu_ids: str) -> str:
        """A `gpuIds` string to compare by: trimmed, no duplicates, pools then exclusions, sorted.

        The order of preference is lost.
        """
        parts = set(_split(gpu_ids))
        return ",".join(
            sorted(parts, key=lambda part: (part.startswith("-"), part.casefold(), part))
        )

    @classmethod
    def from_gpu_ids_str(cls, gpu_ids: str) -> list[GpuGroup | GpuType]:
        """The selection that a `gpuIds` string stands for; unknown pools are dropped.

        A pool of which types are excluded becomes the GPU types that are left.
        """
        parts = _split(gpu_ids)
        excluded = {part[1:].strip() for part in parts if part.startswith("-")}
        groups = {group.value: group for group in cls}
        selection: dict[GpuGroup | GpuType, None] = {}
        for group in (groups[part] for part in parts if part in groups):
            selection.update(dict.fromkeys(_without(group, excluded)))
        return list(selection)


class GpuType(SuggestingEnum):
    """One GPU model; its value is the device name that NVIDIA's management library reports."""

    ANY = "any"
    NVIDIA_GEFORCE_RTX_4090 = "NVIDIA GeForce RTX 4090"
    NVIDIA_GEFORCE_RTX_5090 = "NVIDIA GeForce RTX 5090"
    NVIDIA_RTX_6000_ADA_GENERATION = "NVIDIA RTX 6000 Ada Generation"
    NVIDIA_RTX_PRO_6000_BLACKWELL_SERVER_EDITION = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    NVIDIA_RTX_PRO_6000_BLACKWELL_WORKSTATION_EDITION = (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
    )
    NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_WORKSTATION_EDITION = (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"
    )
    NVIDIA_H100_80GB_HBM3 = "NVIDIA H100 80GB HBM3"
    NVIDIA_RTX_A4000 = "NVIDIA RTX A4000"
    NVIDIA_RTX_A4500 = "NVIDIA RTX A4500"
    NVIDIA_RTX_4000_ADA_GENERATION = "NVIDIA RTX 4000 Ada Generation"
    NVIDIA_RTX_2000_ADA_GENERATION = "NVIDIA RTX 2000 Ada Generation"
    NVIDIA_RTX_A5000 = "NVIDIA RTX A5000"
    NVIDIA_L4 = "NVIDIA L4"
    NVIDIA_GEFORCE_RTX_3090 = "NVIDIA GeForce RTX 3090"
    NVIDIA_A40 = "NVIDIA A40"
    NVIDIA_RTX_A6000 = "NVIDIA RTX A6000"
    NVIDIA_A100_80GB_PCIe = "NVIDIA A100 80GB PCIe"
    NVIDIA_A100_SXM4_80GB = "NVIDIA A100-SXM4-80GB"
    NVIDIA_H200 = "NVIDIA H200"
    NVIDIA_B200 = "NVIDIA B200"

    @classmethod
    def all(cls) -> list[GpuType]:
        """Every type but ANY."""
        return [gpu for gpu in cls if gpu is not cls.ANY]

    @classmethod
    def is_gpu_type(cls, gpu_id: str) -> bool:
        """Whether `gpu_id` is the value of one type; ANY is none."""
        return gpu_id in [gpu.value for gpu in cls.all()]


POOL_TYPES: dict[GpuGroup, tuple[GpuType, ...]] = {
    GpuGroup.ADA_24: (GpuType.NVIDIA_GEFORCE_RTX_4090,),
    GpuGroup.ADA_32_PRO: (GpuType.NVIDIA_GEFORCE_RTX_5090,),
    GpuGroup.ADA_48_PRO: (GpuType.NVIDIA_RTX_6000_ADA_GENERATION,),
    GpuGroup.ADA_80_PRO: (GpuType.NVIDIA_H100_80GB_HBM3,),
    GpuGroup.AMPERE_16: (
        GpuType.NVIDIA_RTX_A4000,
        GpuType.NVIDIA_RTX_A4500,
        GpuType.NVIDIA_RTX_4000_ADA_GENERATION,
        GpuType.NVIDIA_RTX_2000_ADA_GENERATION,
    ),
    GpuGroup.AMPERE_24: (
        GpuType.NVIDIA_RTX_A5000,
        GpuType.NVIDIA_L4,
        GpuType.NVIDIA_GEFORCE_RTX_3090,
    ),
    GpuGroup.AMPERE_48: (GpuType.NVIDIA_A40, GpuType.NVIDIA_RTX_A6000),
    GpuGroup.AMPERE_80: (GpuType.NVIDIA_A100_80GB_PCIe, GpuType.NVIDIA_A100_SXM4_80GB),
    GpuGroup.HOPPER_141: (GpuType.NVIDIA_H200,),
    GpuGroup.BLACKWELL_96: (
        GpuType.NVIDIA_RTX_PRO_6000_BLACKWELL_SERVER_EDITION,
        GpuType.NVIDIA_RTX_PRO_6000_BLACKWELL_WORKSTATION_EDITION,
        GpuType.NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_WORKSTATION_EDITION,
    ),
    GpuGroup.BLACKWELL_180: (GpuType.NVIDIA_B200,),
}
"""The GPU types that a pool stands for in `gpuIds` strings."""

POOL_ALSO_DEVICES: dict[GpuGroup, tuple[str, ...]] = {
    GpuGroup.ADA_48_PRO: ("NVIDIA L40", "NVIDIA L40S"),
    GpuGroup.ADA_80_PRO: ("NVIDIA H100 PCIe", "NVIDIA H100 NVL"),
}
"""Device names that serve a pool as well, but that no `GpuType` names."""


class CpuInstanceType(str, SuggestingEnum):
    """A CPU instance, `{flavour}-{vCPUs}-{GB of memory}`."""

    CPU3G_1_4 = "cpu3g-1-4"
    CPU3G_2_8 = "cpu3g-2-8"
    CPU3G_4_16 = "cpu3g-4-16"
    CPU3G_8_32 = "cpu3g-8-32"
    CPU3C_1_2 = "cpu3c-1-2"
    CPU3C_2_4 = "cpu3c-2-4"
    CPU3C_4_8 = "cpu3c-4-8"
    CPU3C_8_16 = "cpu3c-8-16"
    CPU5C_1_2 = "cpu5c-1-2"
    CPU5C_2_4 = "cpu5c-2-4"
    CPU5C_4_8 = "cpu5c-4-8"
    CPU5C_8_16 = "cpu5c-8-16"

    @property
    def vcpu(self) -> int:
        """The number of virtual CPUs."""
        return int(self.value.split("-")[1])

    @property
    def ram_gb(self) -> int:
        """Memory in GB."""
        return int(self.value.split("-")[2])

    @property
    def max_container_disk_gb(self) -> int:
        """The largest container disk of this instance, in GB."""
        return self.vcpu * (15 if self.value.startswith("cpu5c-") else 10)


class DataCenter(str, SuggestingEnum):
    """Where workers and volumes may be; the value is the id with hyphens."""

    US_CA_2 = "US-CA-2"
    US_GA_2 = "US-GA-2"
    US_IL_1 = "US-IL-1"
    US_KS_2 = "US-KS-2"
    US_MD_1 = "US-MD-1"
    US_MO_1 = "US-MO-1"
    US_MO_2 = "US-MO-2"
    US_NC_1 = "US-NC-1"
    US_NC_2 = "US-NC-2"
    US_NE_1 = "US-NE-1"
    US_WA_1 = "US-WA-1"
    EU_CZ_1 = "EU-CZ-1"
    EU_RO_1 = "EU-RO-1"
    EUR_IS_1 = "EUR-IS-1"
    EUR_NO_1 = "EUR-NO-1"

    @classmethod
    def from_string(cls, value: str) -> DataCenter:
        """The data center of an id in any case, with hyphens or underscores.

        Raises `ConfigurationError` (a `ValueError`) that lists the valid ids.
        """
        # A member is a string too, and its upper() is its value's.
        wanted = value.upper().replace("_", "-") if isinstance(value, str) else value
        for center in cls:
            if center.value == wanted:
                return center
        raise cls._wrong_value(value)

    @classmethod
    def all(cls) -> list[DataCenter]:
        """Every data center."""
        return list(cls)


CPU_DATACENTERS: frozenset[DataCenter] = frozenset({DataCenter.EU_RO_1})
"""The data centers that have CPU instances."""


class CudaVersion(SuggestingEnum):
    """A CUDA version that a worker's driver must support at least."""

    V11_8 = "11.8"
    V12_0 = "12.0"
    V12_1 = "12.1"
    V12_2 = "12.2"
    V12_3 = "12.3"
    V12_4 = "12.4"
    V12_5 = "12.5"
    V12_6 = "12.6"
    V12_7 = "12.7"
    V12_8 = "12.8"
    V12_9 = "12.9"
    V13_0 = "13.0"


def max_container_disk_gb(instances: Sequence[CpuInstanceType]) -> int:
    """The largest container disk, in GB, that each of `instances` (at least one) has."""
    return min(instance.max_container_disk_gb for instance in instances)


def expand_gpus(selection: Sequence[GpuGroup | GpuType]) -> tuple[str, ...]:
    """Device names for `selection` in its order of preference, without duplicates.

    ANY anywhere gives `("any",)`. Raises `ConfigurationError` for what is neither a group nor a
    type, such as a string.
    """
    names = dict.fromkeys(name for choice in selection for name in _device_names(choice))
    return (ANY_DEVICE,) if ANY_DEVICE in names else tuple(names)


def matches(device_name: str, wanted: str) -> bool:
    """Whether a device serves `wanted`, one of the names that `expand_gpus` gives.

    Names are compared exactly as the management library reports them: "NVIDIA L4" is no L40.
    """
    return wanted in (ANY_DEVICE, device_name)


def _device_names(choice: GpuGroup | GpuType) -> tuple[str, ...]:
    if isinstance(choice, GpuType):
        return (choice.value,)
    if isinstance(choice, GpuGroup):
        types = tuple(gpu.value for gpu in POOL_TYPES.get(choice, ()))
        return (types + POOL_ALSO_DEVICES.get(choice, ())) or (ANY_DEVICE,)
    raise ConfigurationError(_not_a_gpu(choice))


def _not_a_gpu(choice: object) -> str:
    members = [f"{kind.__name__}.{name}" for kind in (GpuGroup, GpuType) for name in _names(kind)]
    hint = did_you_mean(str(choice), members, limit=3)
    return f"gpu must be a GpuGroup, a GpuType or a list of them, not {choice!r}.{hint}"


def _names(kind: type[SuggestingEnum]) -> list[str]:
    return [member.name for member in kind]


def _pool_of(gpu: GpuType) -> GpuGroup:
    return next(pool for pool, types in POOL_TYPES.items() if gpu in types)


def _without(group: GpuGroup, excluded: set[str]) -> list[GpuGroup | GpuType]:
    names = {gpu.value for gpu in POOL_TYPES.get(group, ())} | {*POOL_ALSO_DEVICES.get(group, ())}
    if not names & excluded:
        return [group]
    return [gpu for gpu in POOL_TYPES[group] if gpu.value not in excluded]


def _split(gpu_ids: str) -> list[str]:
    return [part.strip() for part in gpu_ids.split(",") if part.strip()]
