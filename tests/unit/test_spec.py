"""The three digests: each follows its own layer, and nothing that means nothing."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Build, Container, EndpointSpec, Entry, Placement, Scaling, VolumeMount

names = st.text("abcdefghij-.", min_size=1, max_size=8)
some_names = st.lists(names, max_size=4).map(tuple)
counts = st.integers(0, 5)

entries = st.builds(
    Entry,
    module=names,
    qualname=names,
    kind=st.sampled_from(["function", "generator", "class"]),
    file=names,
    root=names,
    search_path=some_names,
    is_main=st.booleans(),
    value=st.none() | st.binary(max_size=8),
    value_python=st.sampled_from(["", "3.11"]),
)
builds = st.builds(
    Build,
    code=names,
    dependencies=some_names,
    system_dependencies=some_names,
    python=st.none() | names,
    container=st.none() | st.builds(Container, names),
)
volumes = st.lists(st.builds(VolumeMount, names, names, counts), max_size=3).map(tuple)
placements = st.builds(
    Placement,
    gpus=some_names,
    gpu_count=counts,
    cpus=some_names,
    min_cuda=st.none() | names,
    volumes=volumes,
    datacenters=some_names,
    max_concurrency=counts,
    execution_timeout_ms=counts,
    max_attempts=counts,
    restartable=st.booleans(),
)
scalings = st.builds(
    Scaling,
    workers_min=counts,
    workers_max=counts,
    idle_timeout=counts,
    scaler=st.sampled_from(["QUEUE_DELAY", "REQUEST_COUNT"]),
    scaler_value=st.sampled_from([0.5, 1, 4]),
)
specs = st.builds(EndpointSpec, names, entries, builds, placements, scalings)


def digests(spec: EndpointSpec) -> tuple[str, str, str]:
    return spec.build_digest, spec.placement_digest, spec.scaling_digest


@given(specs)
def test_a_spec_survives_the_wire(spec: EndpointSpec) -> None:
    assert EndpointSpec.from_wire(json.loads(json.dumps(spec.to_wire()))) == spec
    assert EndpointSpec.from_wire(spec.to_wire()) == spec


@given(specs, st.randoms())
def test_no_digest_depends_on_an_order_that_means_nothing(spec: EndpointSpec, random: Any) -> None:
    def shuffled(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(random.sample(values, len(values)))

    build, placement = spec.build, spec.placement
    other = replace(
        spec,
        build=replace(
            build,
            dependencies=shuffled(build.dependencies),
            system_dependencies=shuffled(build.system_dependencies),
        ),
        placement=replace(
            placement,
            datacenters=shuffled(placement.datacenters),
            volumes=shuffled(placement.volumes),
        ),
    )
    assert digests(other) == digests(spec)


@given(specs, names, some_names, st.booleans())
def test_no_digest_depends_on_the_machine(
    spec: EndpointSpec, root: str, search_path: tuple[str, ...], is_main: bool
) -> None:
    entry = replace(spec.entry, root=root, search_path=search_path, is_main=is_main)
    assert digests(replace(spec, entry=entry)) == digests(spec)


@given(specs, builds, placements, scalings)
def test_each_digest_follows_its_own_layer_and_no_other(
    spec: EndpointSpec, build: Build, placement: Placement, scaling: Scaling
) -> None:
    before = digests(spec)
    assert digests(replace(spec, build=build))[1:] == before[1:]
    assert digests(replace(spec, placement=placement))[::2] == before[::2]
    assert digests(replace(spec, scaling=scaling))[:2] == before[:2]


def other_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, tuple):
        return (*value, VolumeMount("v", "d", 1) if value else "more")
    return f"{value} changed"


FULL = EndpointSpec(
    "name",
    Entry("module", "function", file="module.py"),
    Build("code", ("a",), ("b",), "3.11", Container("image")),
    Placement(("gpu",), 1, ("cpu",), "12.8", (VolumeMount("v", "d", 1),), ("eu",), 1),
    Scaling(),
)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (layer, field.name)
        for layer in ("build", "placement", "scaling")
        for field in fields(getattr(FULL, layer))
    ],
)
def test_every_field_of_a_layer_is_in_its_digest(layer: str, name: str) -> None:
    values = getattr(FULL, layer)
    value = getattr(values, name)
    changed = (*value, "more") if isinstance(value, tuple) else other_value(value)
    if name == "volumes":
        changed = (*value, VolumeMount("other", "d", 1))
    other = replace(FULL, **{layer: replace(values, **{name: changed})})
    assert getattr(other, f"{layer}_digest") != getattr(FULL, f"{layer}_digest")


@pytest.mark.parametrize("name", ["module", "qualname", "kind", "file"])
def test_where_the_function_is_counts_as_build(name: str) -> None:
    changed: dict[str, Any] = {name: "class"}
    other = replace(FULL, entry=replace(FULL.entry, **changed))
    assert other.build_digest != FULL.build_digest


def test_the_order_of_gpus_is_a_preference_and_counts() -> None:
    first = replace(FULL, placement=replace(FULL.placement, gpus=("a", "b")))
    second = replace(FULL, placement=replace(FULL.placement, gpus=("b", "a")))
    assert first.placement_digest != second.placement_digest


def test_environment_values_are_in_no_spec() -> None:
    assert "env" not in json.dumps(FULL.to_wire())


def without(wire: dict[str, Any], layer: str, name: str) -> dict[str, Any]:
    part = wire[layer] if layer else wire
    del part[name]
    return wire


@pytest.mark.parametrize(
    ("layer", "name"),
    [("", "name"), ("", "entry"), ("", "scaling"), ("entry", "value"), ("placement", "volumes"),
     ("build", "code"), ("scaling", "workers_max")],
)  # fmt: skip
def test_a_missing_field_is_refused_by_name(layer: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        EndpointSpec.from_wire(without(FULL.to_wire(), layer, name))


@pytest.mark.parametrize("layer", ["", "entry", "build", "placement", "scaling"])
def test_an_unknown_field_is_refused_by_name(layer: str) -> None:
    wire = FULL.to_wire()
    (wire[layer] if layer else wire)["novelty"] = 1
    with pytest.raises(ConfigurationError, match="novelty"):
        EndpointSpec.from_wire(wire)


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [("entry", "value", "not hex"), ("placement", "volumes", [1]), ("build", "dependencies", 5)],
)
def test_a_value_that_cannot_be_one_is_refused(layer: str, name: str, value: Any) -> None:
    wire = FULL.to_wire()
    wire[layer][name] = value
    with pytest.raises(ConfigurationError, match="cannot be read"):
        EndpointSpec.from_wire(wire)


def test_two_functions_of_one_name_have_different_keys() -> None:
    other = replace(FULL, entry=replace(FULL.entry, qualname="other"))
    assert other.key != FULL.key
