"""GPU groups and types, CPU instances, data centers: the contract's tables, and what reads them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runpod_flash import hardware
from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import (
    CPU_DATACENTERS,
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    GpuGroup,
    GpuType,
    expand_gpus,
    matches,
    max_container_disk_gb,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from enum import Enum

POOLS = {
    "ADA_24": ["NVIDIA GeForce RTX 4090"],
    "ADA_32_PRO": ["NVIDIA GeForce RTX 5090"],
    "ADA_48_PRO": ["NVIDIA RTX 6000 Ada Generation"],
    "ADA_80_PRO": ["NVIDIA H100 80GB HBM3"],
    "AMPERE_16": [
        "NVIDIA RTX A4000",
        "NVIDIA RTX A4500",
        "NVIDIA RTX 4000 Ada Generation",
        "NVIDIA RTX 2000 Ada Generation",
    ],
    "AMPERE_24": ["NVIDIA RTX A5000", "NVIDIA L4", "NVIDIA GeForce RTX 3090"],
    "AMPERE_48": ["NVIDIA A40", "NVIDIA RTX A6000"],
    "AMPERE_80": ["NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"],
    "HOPPER_141": ["NVIDIA H200"],
    "BLACKWELL_96": [
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    ],
    "BLACKWELL_180": ["NVIDIA B200"],
}
ALSO = {
    "ADA_48_PRO": ["NVIDIA L40", "NVIDIA L40S"],
    "ADA_80_PRO": ["NVIDIA H100 PCIe", "NVIDIA H100 NVL"],
}
GPU_TYPES = {
    "ANY": "any",
    "NVIDIA_GEFORCE_RTX_4090": "NVIDIA GeForce RTX 4090",
    "NVIDIA_GEFORCE_RTX_5090": "NVIDIA GeForce RTX 5090",
    "NVIDIA_RTX_6000_ADA_GENERATION": "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA_RTX_PRO_6000_BLACKWELL_SERVER_EDITION": "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "NVIDIA_RTX_PRO_6000_BLACKWELL_WORKSTATION_EDITION": (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
    ),
    "NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_WORKSTATION_EDITION": (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"
    ),
    "NVIDIA_H100_80GB_HBM3": "NVIDIA H100 80GB HBM3",
    "NVIDIA_RTX_A4000": "NVIDIA RTX A4000",
    "NVIDIA_RTX_A4500": "NVIDIA RTX A4500",
    "NVIDIA_RTX_4000_ADA_GENERATION": "NVIDIA RTX 4000 Ada Generation",
    "NVIDIA_RTX_2000_ADA_GENERATION": "NVIDIA RTX 2000 Ada Generation",
    "NVIDIA_RTX_A5000": "NVIDIA RTX A5000",
    "NVIDIA_L4": "NVIDIA L4",
    "NVIDIA_GEFORCE_RTX_3090": "NVIDIA GeForce RTX 3090",
    "NVIDIA_A40": "NVIDIA A40",
    "NVIDIA_RTX_A6000": "NVIDIA RTX A6000",
    "NVIDIA_A100_80GB_PCIe": "NVIDIA A100 80GB PCIe",
    "NVIDIA_A100_SXM4_80GB": "NVIDIA A100-SXM4-80GB",
    "NVIDIA_H200": "NVIDIA H200",
    "NVIDIA_B200": "NVIDIA B200",
}
# value: (vCPUs, GB of memory, largest container disk in GB)
CPU_INSTANCES = {
    "cpu3g-1-4": (1, 4, 10),
    "cpu3g-2-8": (2, 8, 20),
    "cpu3g-4-16": (4, 16, 40),
    "cpu3g-8-32": (8, 32, 80),
    "cpu3c-1-2": (1, 2, 10),
    "cpu3c-2-4": (2, 4, 20),
    "cpu3c-4-8": (4, 8, 40),
    "cpu3c-8-16": (8, 16, 80),
    "cpu5c-1-2": (1, 2, 15),
    "cpu5c-2-4": (2, 4, 30),
    "cpu5c-4-8": (4, 8, 60),
    "cpu5c-8-16": (8, 16, 120),
}
DATA_CENTERS = [
    "US-CA-2",
    "US-GA-2",
    "US-IL-1",
    "US-KS-2",
    "US-MD-1",
    "US-MO-1",
    "US-MO-2",
    "US-NC-1",
    "US-NC-2",
    "US-NE-1",
    "US-WA-1",
    "EU-CZ-1",
    "EU-RO-1",
    "EUR-IS-1",
    "EUR-NO-1",
]
CUDA_VERSIONS = ["11.8", *(f"12.{minor}" for minor in range(10)), "13.0"]


def members(kind: type[Enum]) -> dict[str, str]:
    return {member.name: member.value for member in kind}


def test_gpu_groups_are_the_contracts_with_their_name_as_value_but_for_any() -> None:
    assert members(GpuGroup) == {"ANY": "any"} | {name: name for name in POOLS}
    assert not issubclass(GpuGroup, str)


def test_gpu_types_are_the_contracts_with_the_device_name_as_value() -> None:
    assert members(GpuType) == GPU_TYPES
    assert not issubclass(GpuType, str)


def test_each_pool_stands_for_the_contracts_types_in_order() -> None:
    pools = {g.value: [t.value for t in types] for g, types in hardware.POOL_TYPES.items()}
    assert pools == POOLS


def test_devices_that_no_type_names_are_kept_apart_from_the_pools_types() -> None:
    also = {group.value: list(names) for group, names in hardware.POOL_ALSO_DEVICES.items()}
    assert also == ALSO


def test_all_groups_lead_with_ampere_48_which_comes_again_in_its_place() -> None:
    assert [group.value for group in GpuGroup.all()] == ["AMPERE_48", *POOLS]


def test_all_types_leave_any_out() -> None:
    assert [gpu.value for gpu in GpuType.all()] == list(GPU_TYPES.values())[1:]


@pytest.mark.parametrize("value", [value for value in GPU_TYPES.values() if value != "any"])
def test_a_device_name_is_a_gpu_type(value: str) -> None:
    assert GpuType.is_gpu_type(value)


@pytest.mark.parametrize("value", ["any", "", "NVIDIA_L4", "nvidia l4", "NVIDIA L40", "ADA_24"])
def test_any_and_what_is_no_device_name_is_no_gpu_type(value: str) -> None:
    assert not GpuType.is_gpu_type(value)


@pytest.mark.parametrize(
    ("selection", "gpu_ids"),
    [
        ([GpuGroup.AMPERE_48, GpuGroup.ADA_24], "AMPERE_48,ADA_24"),
        ([GpuGroup.ADA_24, GpuGroup.ADA_24], "ADA_24"),
        ([GpuType.NVIDIA_GEFORCE_RTX_4090], "ADA_24"),
        ([GpuType.NVIDIA_A40], "AMPERE_48,-NVIDIA RTX A6000"),
        ([GpuType.NVIDIA_A40, GpuType.NVIDIA_RTX_A6000], "AMPERE_48"),
        ([GpuType.NVIDIA_A40, GpuGroup.AMPERE_48], "AMPERE_48"),
        (
            [GpuType.NVIDIA_L4, GpuGroup.ADA_24],
            "AMPERE_24,ADA_24,-NVIDIA RTX A5000,-NVIDIA GeForce RTX 3090",
        ),
        (
            [GpuType.NVIDIA_RTX_A4000, GpuType.NVIDIA_RTX_2000_ADA_GENERATION],
            "AMPERE_16,-NVIDIA RTX A4500,-NVIDIA RTX 4000 Ada Generation",
        ),
        ([], ""),
    ],
)
def test_a_type_is_its_pool_without_the_types_that_were_not_selected(
    selection: list[GpuGroup | GpuType], gpu_ids: str
) -> None:
    assert GpuGroup.to_gpu_ids_str(selection) == gpu_ids


@pytest.mark.parametrize("wildcard", [GpuGroup.ANY, GpuType.ANY])
def test_any_anywhere_selects_every_pool_once_and_excludes_nothing(
    wildcard: GpuGroup | GpuType,
) -> None:
    pools = GpuGroup.to_gpu_ids_str([GpuType.NVIDIA_A40, wildcard]).split(",")
    assert pools[0] == "AMPERE_48"
    assert sorted(pools) == sorted(POOLS)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        (" ADA_24 , AMPERE_48 ", "ADA_24,AMPERE_48"),
        ("AMPERE_48,ADA_24,AMPERE_48", "ADA_24,AMPERE_48"),
        ("-NVIDIA L4,AMPERE_24", "AMPERE_24,-NVIDIA L4"),
        ("b,-z,A,-Y,C", "A,b,C,-Y,-z"),
        (",,", ""),
        ("", ""),
    ],
)
def test_normal_gpu_ids_are_trimmed_unique_and_sorted_with_exclusions_last(
    written: str, normal: str
) -> None:
    assert GpuGroup.normalize_gpu_ids_str(written) == normal


@pytest.mark.parametrize(
    ("gpu_ids", "selection"),
    [
        ("AMPERE_48,ADA_24", [GpuGroup.AMPERE_48, GpuGroup.ADA_24]),
        (" ADA_24 , ADA_24", [GpuGroup.ADA_24]),
        ("any", [GpuGroup.ANY]),
        ("VOLTA_16,ADA_24", [GpuGroup.ADA_24]),
        ("VOLTA_16", []),
        ("", []),
        ("AMPERE_48,-NVIDIA RTX A6000", [GpuType.NVIDIA_A40]),
        ("-NVIDIA RTX A6000,AMPERE_48", [GpuType.NVIDIA_A40]),
        ("AMPERE_48,-NVIDIA RTX A6000,-NVIDIA A40", []),
        ("AMPERE_48,-NVIDIA L4", [GpuGroup.AMPERE_48]),
        ("ADA_80_PRO,-NVIDIA H100 NVL", [GpuType.NVIDIA_H100_80GB_HBM3]),
    ],
)
def test_gpu_ids_are_read_back_as_groups_and_as_types_where_some_are_excluded(
    gpu_ids: str, selection: list[GpuGroup | GpuType]
) -> None:
    assert GpuGroup.from_gpu_ids_str(gpu_ids) == selection


@pytest.mark.parametrize("gpu", GpuType.all())
def test_each_type_survives_a_round_trip_through_gpu_ids(gpu: GpuType) -> None:
    alone = next(pool for pool, types in POOLS.items() if gpu.value in types)
    expected = [GpuGroup(alone)] if len(POOLS[alone]) == 1 else [gpu]
    assert GpuGroup.from_gpu_ids_str(GpuGroup.to_gpu_ids_str([gpu])) == expected


def test_cpu_instances_are_the_contracts() -> None:
    names = {name.upper().replace("-", "_"): name for name in CPU_INSTANCES}
    assert members(CpuInstanceType) == names


@pytest.mark.parametrize("value", CPU_INSTANCES)
def test_a_cpu_instance_tells_its_cpus_memory_and_largest_disk(value: str) -> None:
    instance = CpuInstanceType(value)
    figures = (instance.vcpu, instance.ram_gb, instance.max_container_disk_gb)
    assert figures == CPU_INSTANCES[value]
    assert instance == value


def test_the_disk_of_several_cpu_instances_is_that_of_the_smallest() -> None:
    instances = [CpuInstanceType.CPU5C_4_8, CpuInstanceType.CPU3G_2_8, CpuInstanceType.CPU5C_2_4]
    assert max_container_disk_gb(instances) == 20
    assert max_container_disk_gb(instances[:1]) == 60


def test_data_centers_are_those_of_both_generations() -> None:
    assert members(DataCenter) == {value.replace("-", "_"): value for value in DATA_CENTERS}
    assert [center.value for center in DataCenter.all()] == DATA_CENTERS


@pytest.mark.parametrize("value", DATA_CENTERS)
def test_a_data_center_is_read_in_any_case_with_hyphens_or_underscores(value: str) -> None:
    center = DataCenter(value)
    assert center == value
    for spelled in (value, value.lower(), value.replace("-", "_"), value.lower().replace("-", "_")):
        assert DataCenter.from_string(spelled) is center
    assert DataCenter.from_string(center) is center


def test_cpu_instances_are_in_one_data_center() -> None:
    assert frozenset({DataCenter.EU_RO_1}) == CPU_DATACENTERS


def test_cuda_versions_are_the_contracts() -> None:
    names = {f"V{version.replace('.', '_')}": version for version in CUDA_VERSIONS}
    assert members(CudaVersion) == names


@pytest.mark.parametrize("pool", POOLS)
def test_a_group_expands_to_its_types_and_to_the_devices_that_serve_it_as_well(pool: str) -> None:
    assert expand_gpus([GpuGroup(pool)]) == (*POOLS[pool], *ALSO.get(pool, []))


def test_a_mixed_selection_expands_in_order_of_preference_without_duplicates() -> None:
    selection: Sequence[GpuGroup | GpuType] = [
        GpuType.NVIDIA_RTX_A6000,
        GpuGroup.AMPERE_48,
        GpuGroup.ADA_24,
        GpuType.NVIDIA_A40,
    ]
    names = ("NVIDIA RTX A6000", "NVIDIA A40", "NVIDIA GeForce RTX 4090")
    assert expand_gpus(selection) == names


@pytest.mark.parametrize("wildcard", [GpuGroup.ANY, GpuType.ANY])
def test_any_anywhere_expands_to_any_alone(wildcard: GpuGroup | GpuType) -> None:
    assert expand_gpus([GpuGroup.ADA_24, wildcard]) == ("any",)


def test_nothing_selected_expands_to_nothing() -> None:
    assert expand_gpus([]) == ()


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("NVIDIA L4", "GpuType.NVIDIA_L4"),
        ("AMPERE_80", "GpuGroup.AMPERE_80"),
        ("any", "GpuGroup.ANY"),
        ("4090", "GpuType.NVIDIA_GEFORCE_RTX_4090"),
    ],
)
def test_a_gpu_given_as_text_is_refused_with_what_to_write_instead(written: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match="gpu must be a GpuGroup, a GpuType") as caught:
        expand_gpus([written])  # type: ignore[list-item]
    assert repr(written) in str(caught.value)
    assert repr(near) in str(caught.value)


def test_a_device_matches_its_exact_name_only() -> None:
    assert matches("NVIDIA L4", "NVIDIA L4")
    assert not matches("NVIDIA L40", "NVIDIA L4")
    assert not matches("NVIDIA L4", "NVIDIA L40")
    assert not matches("NVIDIA L4", "nvidia l4")


def test_every_device_matches_any_and_no_device_is_called_so() -> None:
    assert matches("Tesla T4", "any")
    assert not matches("any", "Tesla T4")


@pytest.mark.parametrize(
    ("kind", "wrong", "near"),
    [
        (GpuType, "NVIDIA_RTX_4090", ["NVIDIA_GEFORCE_RTX_4090"]),
        (GpuType, "NVIDIA_RTX4090", ["NVIDIA_GEFORCE_RTX_4090"]),
        (GpuType, "GEFORCE4090", ["NVIDIA_GEFORCE_RTX_4090"]),
        (GpuType, "RTX4090", ["NVIDIA_GEFORCE_RTX_4090"]),
        (GpuType, "A100", ["NVIDIA_A100_80GB_PCIe", "NVIDIA_A100_SXM4_80GB"]),
        (GpuType, "NVIDIA_A100_80GB_PCIE", ["NVIDIA_A100_80GB_PCIe"]),
        (GpuGroup, "AMPERE80", ["AMPERE_80"]),
        (GpuGroup, "HOPER_141", ["HOPPER_141"]),
        (CpuInstanceType, "CPU3G_1_5", ["CPU3G_1_4"]),
        (DataCenter, "US_CA_1", ["US_CA_2"]),
        (CudaVersion, "V12_10", ["V12_1"]),
    ],
)
def test_a_wrong_member_is_an_attribute_error_that_names_the_near_ones(
    kind: type[Enum], wrong: str, near: list[str]
) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(kind, wrong)
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__} has no member {wrong!r}. Did you mean ")
    assert all(repr(name) in message for name in near)


def test_a_member_like_no_other_is_refused_without_a_suggestion() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = GpuType.VOODOO  # type: ignore[attr-defined]
    assert str(caught.value) == "GpuType has no member 'VOODOO'."


def test_an_uncaught_wrong_member_shows_one_suggestion_and_not_the_interpreters_too() -> None:
    program = "from runpod_flash.hardware import GpuType; GpuType.NVIDIA_RTX_4090"
    source = Path(hardware.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.count("Did you mean") == 1


def test_probing_for_private_attributes_finds_none() -> None:
    assert not hasattr(GpuType, "__wrapped__")
    assert not hasattr(GpuType, "_repr_html_")


@pytest.mark.parametrize(
    ("kind", "wrong", "near", "allowed"),
    [
        (CpuInstanceType, "cpu3g-1-5", "cpu3g-1-4", list(CPU_INSTANCES)),
        (CpuInstanceType, "CPU3G-1-4", "cpu3g-1-4", list(CPU_INSTANCES)),
        (DataCenter, "us-ca-2", "US-CA-2", DATA_CENTERS),
        (DataCenter, "EU-RO-2", "EU-RO-1", DATA_CENTERS),
        (GpuGroup, "AMPERE_81", "AMPERE_80", list(POOLS)),
        (GpuType, "NVIDIA H100", "NVIDIA H100 80GB HBM3", list(GPU_TYPES.values())),
        (CudaVersion, "12.10", "12.1", CUDA_VERSIONS),
        (CudaVersion, 12.8, "12.8", CUDA_VERSIONS),
    ],
)
def test_a_wrong_value_is_a_value_error_with_the_value_the_near_ones_and_all_allowed(
    kind: type[Enum], wrong: object, near: str, allowed: list[str]
) -> None:
    with pytest.raises(ValueError, match=f"is not a {kind.__name__}") as caught:
        kind(wrong)
    message = str(caught.value)
    assert message.startswith(repr(wrong))
    assert repr(near) in message.partition("Did you mean")[2].partition("?")[0]
    assert ", ".join(allowed) in message


@pytest.mark.parametrize(
    ("wrong", "near"), [("us_ca_3", "US-CA-2"), ("eu-ro", "EU-RO-1"), ("mars", None), (None, None)]
)
def test_an_unknown_data_center_is_refused_as_it_was_written_with_all_valid_ids(
    wrong: str, near: str | None
) -> None:
    with pytest.raises(ValueError, match="is not a DataCenter") as caught:
        DataCenter.from_string(wrong)
    message = str(caught.value)
    assert message.startswith(repr(wrong))
    assert ", ".join(DATA_CENTERS) in message
    assert near is None or repr(near) in message


@pytest.mark.parametrize("kind", [GpuGroup, GpuType, CpuInstanceType, DataCenter, CudaVersion])
def test_members_survive_pickling_as_themselves(kind: type[Enum]) -> None:
    for member in kind:
        assert pickle.loads(pickle.dumps(member)) is member


def test_importing_the_tables_loads_nothing_heavy() -> None:
    program = (
        "import sys; before = set(sys.modules); import runpod_flash.hardware;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    source = Path(hardware.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ran.stdout.split())
    assert not loaded & {"difflib", "dataclasses", "inspect", "asyncio", "json", "platformdirs"}
