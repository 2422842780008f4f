"""From an image and a template to what containers are made like."""

from __future__ import annotations

from typing import Any

import pytest

from runpod_flash import Endpoint, PodTemplate
from runpod_flash.container import container_of
from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Container

IMAGE = "vllm/vllm-openai:latest"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ({}, {}),
        ({"dockerArgs": "--model 'a b' -x"}, {"command": ("--model", "a b", "-x")}),
        ({"startScript": "a && b"}, {"entrypoint": ("/bin/sh", "-c"), "command": ("a && b",)}),
        (
            {"dockerArgs": '{"entrypoint": ["python3"], "cmd": ["a.py"]}'},
            {"entrypoint": ("python3",), "command": ("a.py",)},
        ),
        ({"dockerArgs": '{"cmd": ["a"]}', "advancedStart": True}, {"command": ("a",)}),
        ({"ports": "8000/http,22/tcp"}, {"ports": (8000,)}),
        ({"ports": "5000/tcp, 5001"}, {"ports": (5000, 5001)}),
        ({"containerRegistryAuthId": "GHCR"}, {"registry_auth": "GHCR"}),
        ({"config": {"health": "/health"}}, {"health": "/health"}),
        ({"config": {"start_seconds": 30}}, {"start_seconds": 30}),
        ({"config": {"shm_gb": 8, "memory_gb": 1.5}}, {"shm_gb": 8, "memory_gb": 1.5}),
        ({"config": {"python": "/opt/bin/python"}}, {"python": "/opt/bin/python"}),
        (
            {"config": {"allow": ["writable-root", "CAP_CHOWN"]}},
            {"allow": ("CAP_CHOWN", "writable-root")},
        ),
    ],
)
def test_each_field_of_a_template_has_its_effect(
    template: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert container_of(IMAGE, PodTemplate(**template)) == Container(IMAGE, **expected)


def test_the_image_of_an_endpoint_counts_before_that_of_its_template() -> None:
    template = PodTemplate(imageName="other")
    assert container_of(IMAGE, template) == Container(IMAGE)
    assert container_of(None, template) == Container("other")
    assert Endpoint("x", template=template).image == "other"
    assert container_of(None, PodTemplate(containerDiskInGb=5)) is None


@pytest.mark.parametrize(
    ("image", "template", "message"),
    [
        ("VLLM Image", {}, "image='VLLM Image' is no image's name; write it as a registry has it"),
        ("a:", {}, "image='a:' is no image's name"),
        (IMAGE, {"dockerArgs": "'a"}, "cannot be split into words: No closing quotation"),
        (IMAGE, {"dockerArgs": "a", "startScript": "b"}, "give dockerArgs= or startScript=, not"),
        (IMAGE, {"dockerArgs": "a", "advancedStart": True}, "with advancedStart it is a JSON"),
        (IMAGE, {"dockerArgs": '{"x": 1}'}, "with advancedStart it is a JSON object such as"),
        (IMAGE, {"ports": "web/http"}, "'web/http' is no port; write them as '8000/http,22/tcp'"),
        (IMAGE, {"ports": "70000"}, "'70000' is no port"),
        (IMAGE, {"ports": "80/udp"}, "'80/udp' is neither /http nor /tcp"),
        (IMAGE, {"config": {"helth": "/x"}}, "has no field 'helth'. Did you mean 'health'?"),
        (IMAGE, {"config": {"health": "x"}}, "is no path: it starts with /"),
        (IMAGE, {"config": {"shm_gb": "8"}}, "template.config['shm_gb']='8' is no number"),
        (IMAGE, {"config": {"shm_gb": -1}}, "template.config['shm_gb']=-1 is less than nothing"),
        (IMAGE, {"config": {"allow": ["CAP_SYS_ADMIN"]}}, "has 'CAP_SYS_ADMIN': there are writ"),
        (None, {"ports": "80"}, "PodTemplate(ports=...) is about a container; give the endpoint"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    image: str | None, template: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        container_of(image, PodTemplate(**template))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "given",
    [
        {"dependencies": ["numpy"]},
        {"system_dependencies": ["ffmpeg"]},
        {"python_version": "3.12"},
    ],
)
def test_what_an_image_brings_itself_is_not_declared(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="brings its own Python and packages; build them"):
        Endpoint("x", image=IMAGE, **given)


def test_a_function_may_name_an_image_as_its_place() -> None:
    endpoint = Endpoint("x", image=IMAGE)
    before = endpoint.is_client
    decorated: Any = endpoint(container_of)
    assert (before, endpoint.is_client) == (True, False)
    assert decorated.__remote_config__["resource_config"] is endpoint
