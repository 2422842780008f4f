"""docs/compatibility.md: what of the hosted SDK works here, found out by trying it.

`FLASH_WRITE_DOCS=1 scripts/test tests/unit/test_compatibility.py` renews the page.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import runpod_flash
from runpod_flash import Endpoint, EndpointJob, GpuType, NetworkVolume, PodTemplate, legacy
from runpod_flash.client.backend import backend_for
from runpod_flash.endpoint import PARAMETERS
from runpod_flash.errors import NotAvailableError
from runpod_flash.functions import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
INTRODUCTION = """\
# Compatibility with the hosted SDK

Which names of the hosted `runpod_flash` 1.16 work here, embedded. What does not work yet raises
`NotAvailableError` with the sentence that is quoted here without its end. This page is written by
`tests/unit/test_compatibility.py`, which tries each name, and fails when the page is out of date.

The SDK itself, unmodified, [deploys to a server](control-api.md#the-hosted-sdk).
"""
IMAGE_CLASSES = [name for name in runpod_flash.__all__ if re.search("(sEndpoint|SlsR)", name)]
PARAMETER_VALUES: dict[str, Any] = {
    "name": "x",
    "id": "x",
    "gpu": GpuType.ANY,
    "cpu": "cpu3c-1-2",
    "workers": (1, 2),
    "idle_timeout": 5,
    "dependencies": ["numpy"],
    "system_dependencies": ["ffmpeg"],
    "accelerate_downloads": False,
    "volume": NetworkVolume(name="models"),
    "datacenter": "EU-RO-1",
    "env": {"A": "1"},
    "gpu_count": 2,
    "execution_timeout_ms": 1000,
    "flashboot": False,
    "image": "vllm",
    "scaler_type": "REQUEST_COUNT",
    "scaler_value": 2,
    "template": PodTemplate(containerDiskInGb=10),
    "min_cuda_version": "12.4",
    "max_concurrency": 2,
    "python_version": "3.12",
    "max_attempts": 1,
    "restartable": True,
}
TEMPLATE_VALUES: dict[str, Any] = {
    "advancedStart": True,
    "config": {"allow": ["writable-root"]},
    "ports": "8000/http",
    "imageName": "vllm",
    "containerDiskInGb": 10,
    "env": [{"key": "A", "value": "1"}],
}


def state(attempt: Callable[[], Any]) -> str:
    """Whether it works; otherwise what it says."""
    try:
        found = attempt()
        if inspect.isawaitable(found):
            asyncio.run(_awaited(found))
    except NotAvailableError as error:
        said = str(error)
        if "needs a Flash server: " in said:
            return "works at a server"
        return f"{'not yet' if ' yet' in said else 'no'}: {said.split(', which ')[0]}"
    return "works"


async def _awaited(found: Any) -> Any:
    return await found


def summary(of: Any) -> str:
    return (inspect.getdoc(of) or "").partition("\n\n")[0].replace("\n", " ")


def table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|---" * columns + "|"]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def names() -> str:
    return table("name | state | what it is", [name_row(name) for name in runpod_flash.__all__])


def name_row(name: str) -> tuple[str, str, str]:
    deprecated = runpod_flash._NAMES[name] == "legacy"
    # Not from the package: that would warn.
    found = getattr(legacy if deprecated else runpod_flash, name)
    constant = f"`{found!r}`" if isinstance(found, int) else "`{DataCenter.EU_RO_1}`"
    text = summary(found) if callable(found) else constant
    return f"`{name}`", state(name_attempt(name, found)) + ", deprecated" * deprecated, text


def name_attempt(name: str, found: Any) -> Callable[[], Any]:
    if name in IMAGE_CLASSES:
        return lambda: found(name="x", imageName="vllm")
    return lambda: found


def parameters() -> str:
    declared = inspect.signature(Endpoint).parameters
    texts = argument_texts()
    rows = []
    for name in PARAMETERS:
        given = declared[name].default
        default = str(given) if isinstance(given, Enum) else repr(given)
        rows.append((f"`{name}`", f"`{default}`", state(parameter_attempt(name)), texts[name]))
    return table("parameter | default | state | meaning", rows)


def parameter_attempt(name: str) -> Callable[[], Any]:
    def attempt() -> Any:
        if name == "image":
            return Endpoint(name="x", image="vllm")(len)
        endpoint = Endpoint(**{name: PARAMETER_VALUES[name]})
        return endpoint.run({}) if endpoint.is_client else endpoint

    return attempt


def argument_texts() -> dict[str, str]:
    listed = (inspect.getdoc(Endpoint) or "").split("Args:\n")[1].split("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def members(of: type) -> list[str]:
    return [name for name in vars(of) if not name.startswith("_")]


def endpoint_members() -> str:
    rows = []
    for name in members(Endpoint):
        found = vars(Endpoint)[name]
        if isinstance(found, property):
            rows.append((f"`.{name}`", "works", "works", summary(found)))
        elif name not in ("spec_of", "image_spec"):
            rows.append((f"`.{name}()`", "works", state(client_attempt(name)), summary(found)))
    return table("member | on an endpoint of your own | on a client | what it does", rows)


def attributes() -> list[str]:
    return [name for name in vars(Endpoint("x")) if not name.startswith("_")]


def client_attempt(name: str) -> Callable[[], Any]:
    return lambda: getattr(Endpoint(id="x"), name)("/x")


def job_members() -> str:
    rows = []
    for name in members(EndpointJob):
        shown = f"`.{name}`" if isinstance(vars(EndpointJob)[name], property) else f"`.{name}()`"
        rows.append((shown, "works", summary(vars(EndpointJob)[name])))
    return table("member | state | what it does", rows)


def template_fields() -> str:
    fields = [n for n in inspect.signature(PodTemplate).parameters if n != "unknown"]
    rows = [(f"`{name}`", state(template_attempt(name))) for name in fields]
    return table("field | state", rows)


def template_attempt(field: str) -> Callable[[], Any]:
    given = {field: TEMPLATE_VALUES.get(field, "x")}
    if field == "advancedStart":
        given["dockerArgs"] = '{"cmd": ["serve"]}'
    return lambda: Endpoint("x", image="vllm", template=PodTemplate(**given))


def legacy_fields() -> str:
    rows = []
    values = {"templateId": "x", "imageName": "vllm", "workersPFBTarget": 1}
    for name in legacy.FIELDS:
        given = {"name": "x"} | ({name: values[name]} if name in values else {})
        rows.append((f"`{name}`", state(legacy_attempt(given))))
    resource = legacy.LiveServerless(name="x")
    for name in ("deploy", "undeploy", "update", "run", "runsync", "is_deployed"):
        rows.append((f"`.{name}()`", state(getattr(resource, name))))
    return table("field or method | state", rows)


def legacy_attempt(given: dict[str, Any]) -> Callable[[], Any]:
    return lambda: legacy.LiveServerless(**given)


def page() -> str:
    return "\n".join(
        [
            INTRODUCTION,
            "## Public names\n",
            names(),
            "## Parameters of `Endpoint`\n",
            parameters(),
            f"With `FLASH_TARGET` set: {state(at_a_target)}.\n",
            "## Members of `Endpoint`\n",
            "A client is an `Endpoint` with `id=`, or with an `image=` that decorates nothing.\n"
            "With `FLASH_TARGET` set, one with `id=` asks that server; of an image all works.\n",
            endpoint_members(),
            f"Attributes: {', '.join(f'`.{name}`' for name in attributes())}.\n",
            f"`.run(input, webhook=...)`: {state(webhook)}.\n",
            "## Members of `EndpointJob`\n",
            job_members(),
            "## Fields of `PodTemplate`\n",
            template_fields(),
            "## Deprecated resource classes\n",
            legacy_fields(),
        ]
    )


def at_a_target() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_TARGET", "http://localhost:1")
        return backend_for(Target(Endpoint(name="x"), None))


def webhook() -> Any:
    endpoint = Endpoint(name="x")
    endpoint(webhook)
    return endpoint.run({}, webhook="https://example.com")


def test_the_page_on_compatibility_says_what_trying_everything_shows() -> None:
    found = page()
    if os.environ.get("FLASH_WRITE_DOCS"):
        PAGE.write_text(found, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == found, __doc__
