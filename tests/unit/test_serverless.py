"""From an endpoint's declaration to REST v2's fields, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runpod_flash.control.gpu_pools import devices_of, pools_of
from runpod_flash.control.serverless import differences, edited, settings, values
from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import GpuGroup
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement, Scaling

POOLS = [group.value for group in GpuGroup if group is not GpuGroup.ANY]
GPU = EndpointSpec("e", Entry("m", "f", file="m.py"), Build("code"), Placement(gpus=("any",)))
CPU = replace(GPU, placement=Placement(cpus=("cpu3c-1-2",)))
ROUTES = replace(
    CPU, entry=replace(CPU.entry, kind="routes"), scaling=Scaling(scaler="REQUEST_COUNT")
)


def endpoint(spec: EndpointSpec, **env: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps({"spec": spec.to_wire(), "env": env}))
    return kept


def spec_of(kept: dict[str, Any]) -> EndpointSpec:
    return EndpointSpec.from_wire(kept["spec"])


# Scaling is all that a changed number of workers changes


@pytest.mark.parametrize(
    "fields",
    [
        {"workers": {"min": 1, "max": 4, "idleTimeout": 9}},
        {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5}},
        {"scaling": {"type": "REQUEST_COUNT", "requestCount": 2}},
    ],
)
def test_scaling_fields_change_the_scaling_layer_alone(fields: dict[str, Any]) -> None:
    changed = spec_of(edited(endpoint(GPU), fields))
    assert changed.scaling_digest != GPU.scaling_digest
    assert changed.placement_digest == GPU.placement_digest
    assert changed.build_digest == GPU.build_digest


def test_an_idle_timeout_that_is_set_counts_instead_of_a_learned_one() -> None:
    learned = replace(GPU, scaling=Scaling(idle_timeout=300, learned=True))
    changed = spec_of(edited(endpoint(learned), {"workers": {"idleTimeout": 9}}))
    assert (changed.scaling.idle_timeout, changed.scaling.learned) == (9, False)
    kept = spec_of(edited(endpoint(learned), {"workers": {"max": 2}}))
    assert kept.scaling.learned


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": 5},
        {"disk": 7},
        {"flashboot": "OFF"},
        {"dataCenterIds": ["EU-RO-1"]},
        {"gpu": {"count": 2}},
        {"gpu": {"pools": ["ADA_24"]}},
        {"gpu": {"minCudaVersion": "12.4"}},
    ],
)
def test_placement_fields_change_the_placement_layer_alone(fields: dict[str, Any]) -> None:
    changed = spec_of(edited(endpoint(GPU), fields))
    assert changed.placement_digest != GPU.placement_digest
    assert changed.scaling_digest == GPU.scaling_digest
    assert changed.build_digest == GPU.build_digest


def test_variables_are_in_no_layer_and_their_values_in_no_catalog() -> None:
    fields = {"env": {"A": "********", "B": "secret"}}
    changed = edited(endpoint(GPU, A=""), fields)
    assert changed == {**endpoint(GPU), "env": {"A": "", "B": ""}}
    assert values(fields) == {"B": "secret"}
    assert settings(changed)["env"] == {"A": "********", "B": "********"}


@pytest.mark.parametrize(
    ("spec", "fields", "said"),
    [
        (ROUTES, {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 1}}, "REQUEST_COUNT"),
        (GPU, {"cpu": [{"id": "cpu3c", "vcpuCount": 2}]}, "runs on GPUs"),
        (GPU, {"gpu": {}, "cpu": []}, "not both"),
        (GPU, {"gpu": {"excludedTypes": ["NVIDIA L4"]}}, "name the pools"),
        (GPU, {"gpu": {"pools": ["ADA_42"]}}, "'ADA_42' is no pool of GPUs"),
        (GPU, {"gpu": {"pools": ["ADA_24"], "excludedTypes": ["NVIDIA L4"]}}, "in none of the"),
        (GPU, {"gpu": {"allowedCudaVersions": ["12.4"]}}, "minCudaVersion only"),
        (GPU, {"networkVolumes": ["x"]}, "has none of its own"),
    ],
)
def test_fields_that_contradict_are_refused(
    spec: EndpointSpec, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        edited(endpoint(spec), fields)


# Pools of GPUs


@given(st.lists(st.sampled_from(POOLS), min_size=1, unique=True), st.data())
def test_pools_and_exclusions_come_back_as_they_were_sent(pools: list[str], data: Any) -> None:
    names = devices_of(pools)
    if names != ("any",):
        excluded = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names) - 1))
        left = devices_of(pools, excluded)
        assert set(left) == set(names) - set(excluded)
        back = pools_of(left)
        assert devices_of(*back) == left
        assert set(back[0]) <= set(pools)
    else:
        assert set(pools) == set(POOLS)


def test_any_gpu_is_all_pools() -> None:
    assert devices_of(POOLS) == devices_of(["any"]) == ("any",)
    assert pools_of(["any"]) == (POOLS, [])
    assert "NVIDIA L4" not in devices_of(["any"], ["NVIDIA L4"])


# Any update that has the right kinds of fields


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "workers": st.fixed_dictionaries(
            {},
            optional={
                "min": st.integers(0, 9),
                "max": st.integers(0, 9),
                "idleTimeout": st.integers(1, 3600),
            },
        ),
        "scaling": st.one_of(
            st.builds(lambda n: {"type": "QUEUE_DELAY", "queueDelay": n}, st.floats(0.5, 99)),
            st.builds(lambda n: {"type": "REQUEST_COUNT", "requestCount": n}, st.integers(1, 99)),
        ),
        "gpu": st.fixed_dictionaries(
            {},
            optional={
                "pools": st.lists(st.sampled_from([*POOLS, "any", "odd"]), min_size=1),
                "count": st.integers(1, 8),
                "minCudaVersion": st.sampled_from(["", "12.4"]),
            },
        ),
        "cpu": st.just([{"id": "cpu5c", "vcpuCount": 8}]),
        "env": st.dictionaries(st.sampled_from("AB"), st.sampled_from(["1", "********"])),
        "timeout": st.integers(0, 2**31),
        "dataCenterIds": st.lists(st.sampled_from(["EU-RO-1", "US-KS-2", "odd"])),
        "flashboot": st.sampled_from(["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"]),
        "image": st.sampled_from(["", "vllm"]),
    },
)


@given(st.sampled_from([GPU, CPU, ROUTES]), FIELDS)
def test_any_update_is_served_as_it_was_sent_or_refused(
    spec: EndpointSpec, fields: dict[str, Any]
) -> None:
    before = endpoint(spec, A="")
    try:
        changed = edited(before, fields)
    except ConfigurationError:
        return
    assert before == endpoint(spec, A="")
    shown = settings(changed)
    for name in ("timeout", "flashboot", "scaling", "dataCenterIds"):
        assert name not in fields or shown[name] == fields[name]
    assert shown["workers"].items() >= fields.get("workers", {}).items()
    assert json.loads(json.dumps(changed)) == changed
    assert bool(differences(before, changed)) == (changed != before)
