"""PodTemplate and KeyValuePair: fields, defaults, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from runpod_flash import Endpoint
from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Entry
from runpod_flash.template import KeyValuePair, PodTemplate

DEFAULTS: dict[str, Any] = {
    "advancedStart": False,
    "config": {},
    "containerDiskInGb": 64,
    "containerRegistryAuthId": "",
    "dockerArgs": "",
    "env": [],
    "imageName": "",
    "ports": "",
    "startScript": "",
    "id": None,
}
OTHERS: dict[str, Any] = {
    "advancedStart": True,
    "config": {"a": 1},
    "containerDiskInGb": 100,
    "containerRegistryAuthId": "auth",
    "dockerArgs": "--flag",
    "env": [KeyValuePair(key="K", value="V")],
    "imageName": "vllm/vllm-openai:latest",
    "ports": "8000/http",
    "startScript": "echo hello",
    "id": "t1",
}


def without_name(template: PodTemplate) -> dict[str, Any]:
    return {field: getattr(template, field) for field in DEFAULTS}


def test_an_empty_template_has_the_documented_defaults() -> None:
    assert without_name(PodTemplate()) == DEFAULTS


def test_every_field_is_kept_as_given() -> None:
    assert without_name(PodTemplate(**OTHERS)) == OTHERS


def test_the_name_gets_the_resource_id_appended() -> None:
    template = PodTemplate(name="big-disk")
    assert template.name == f"big-disk__{template.resource_id}"
    assert PodTemplate().name == f"__{PodTemplate().resource_id}"


def test_equal_declarations_have_one_resource_id_and_each_field_changes_it() -> None:
    plain = PodTemplate().resource_id
    assert PodTemplate().resource_id == plain
    variants = [PodTemplate(**{field: value}).resource_id for field, value in OTHERS.items()]
    assert len({plain, PodTemplate(name="x").resource_id, *variants}) == len(OTHERS) + 2


def test_the_value_of_an_environment_variable_has_no_part_in_the_resource_id() -> None:
    ids = {PodTemplate(env=[{"key": "K", "value": value}]).resource_id for value in ("a", "b")}
    assert len(ids) == 1


def test_env_takes_pairs_and_mappings_of_key_and_value() -> None:
    pair = KeyValuePair(key="A", value="1")
    template = PodTemplate(env=[pair, {"key": "B", "value": "2"}])
    assert template.env == [pair, KeyValuePair(key="B", value="2")]


def test_an_env_given_empty_is_told_from_one_not_given() -> None:
    assert PodTemplate(env=[]).env_declared
    assert not PodTemplate().env_declared


def test_it_knows_whether_a_disk_was_asked_for() -> None:
    assert PodTemplate(containerDiskInGb=64).disk_declared
    template = PodTemplate(env=[{"key": "A", "value": "1"}])
    assert not template.disk_declared
    entry = Entry("module", "function")
    spec = Endpoint("x", template=template).spec_of(entry, "0")
    assert spec.placement.container_disk_gb == 0
    asked = Endpoint("x", template=PodTemplate(containerDiskInGb=64)).spec_of(entry, "0")
    assert asked.placement.container_disk_gb == 64


def test_defaults_are_not_shared_between_templates() -> None:
    first = PodTemplate()
    first.config["a"] = 1
    first.env.append(KeyValuePair(key="A", value="1"))
    assert PodTemplate().config == {}
    assert PodTemplate().env == []


def test_templates_compare_by_their_fields() -> None:
    assert PodTemplate(**OTHERS) == PodTemplate(**OTHERS)
    assert PodTemplate() != PodTemplate(containerDiskInGb=65)
    assert PodTemplate() != "PodTemplate"


def test_the_repr_shows_what_differs_from_the_defaults() -> None:
    template = PodTemplate(name="x", containerDiskInGb=100)
    assert repr(template) == f"PodTemplate(containerDiskInGb=100, name='{template.name}')"


def test_no_repr_shows_the_value_of_an_environment_variable() -> None:
    template = PodTemplate(env=[{"key": "TOKEN", "value": "hunter2"}])
    assert "TOKEN" in repr(template)
    assert "hunter2" not in repr(template)


def test_pairs_are_made_from_a_dictionary_in_its_order() -> None:
    pairs = KeyValuePair.from_dict({"B": "2", "A": "1"})
    assert [(pair.key, pair.value) for pair in pairs] == [("B", "2"), ("A", "1")]
    assert KeyValuePair.from_dict({}) == []


def test_pairs_compare_by_key_and_value() -> None:
    assert KeyValuePair(key="A", value="1") == KeyValuePair(key="A", value="1")
    assert KeyValuePair(key="A", value="1") != KeyValuePair(key="A", value="2")
    assert len({KeyValuePair(key="A", value="1"), KeyValuePair(key="A", value="1")}) == 1


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("container_disk_in_gb", "containerDiskInGb"),
        ("image", "imageName"),
        ("startscript", "startScript"),
        ("docker_args", "dockerArgs"),
    ],
)
def test_an_unknown_field_is_refused_with_the_near_one_and_all_fields(
    wrong: str, near: str
) -> None:
    options: dict[str, Any] = {wrong: "x"}
    with pytest.raises(ConfigurationError, match=f"no field '{wrong}'") as caught:
        PodTemplate(**options)
    assert f"Did you mean '{near}'?" in str(caught.value)
    assert "containerRegistryAuthId" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("advancedStart", "yes"),
        ("config", [1]),
        ("containerDiskInGb", "100"),
        ("containerDiskInGb", 64.0),
        ("containerDiskInGb", True),
        ("containerDiskInGb", 0),
        ("containerDiskInGb", -1),
        ("containerRegistryAuthId", None),
        ("dockerArgs", ["--flag"]),
        ("imageName", 1),
        ("name", None),
        ("ports", 8000),
        ("startScript", b"echo"),
        ("id", 1),
    ],
)
def test_a_value_of_another_type_is_refused_with_field_and_value(field: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PodTemplate(**{field: wrong})
    assert str(caught.value).startswith(f"PodTemplate.{field} must be a ")
    assert repr(wrong) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_env_dictionary_is_refused_with_the_way_to_convert_it() -> None:
    env: Any = {"TOKEN": "hunter2"}
    with pytest.raises(ConfigurationError, match=r"KeyValuePair\.from_dict") as caught:
        PodTemplate(env=env)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["TOKEN=hunter2", {"hunter2"}, 3])
def test_an_env_that_is_no_list_is_refused_without_showing_it(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"PodTemplate\.env must be a list") as caught:
        PodTemplate(env=wrong)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["TOKEN=hunter2", {"TOKEN": "hunter2"}, ("TOKEN", "hunter2")])
def test_a_wrong_item_of_env_is_refused_with_its_index_and_without_showing_it(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"PodTemplate\.env\[1\]") as caught:
        PodTemplate(env=[{"key": "A", "value": "1"}, wrong])
    assert "hunter2" not in str(caught.value)


def test_a_further_field_in_an_item_of_env_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"PodTemplate\.env\[0\] has no field 'secret'"):
        PodTemplate(env=[{"key": "A", "value": "1", "secret": "yes"}])


def test_a_variables_value_must_be_text_and_only_its_type_is_shown() -> None:
    value: Any = 271828
    with pytest.raises(ConfigurationError, match="'PIN' must be a str, not int") as caught:
        KeyValuePair(key="PIN", value=value)
    assert "271828" not in str(caught.value)


def test_a_variables_key_must_be_text() -> None:
    key: Any = 1
    with pytest.raises(ConfigurationError, match=r"KeyValuePair\.key must be a str, not 1"):
        KeyValuePair(key=key, value="x")


def test_an_unknown_field_of_a_pair_is_refused() -> None:
    options: dict[str, Any] = {"key": "A", "value": "1", "kee": "B"}
    with pytest.raises(ConfigurationError, match=r"no field 'kee'\. Did you mean 'key'"):
        KeyValuePair(**options)
