"""The lists in docs/ are those of the code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from runpod_flash.engines.base import StartOrder
from runpod_flash.engines.local import variables
from runpod_flash.engines.local.devices import gpu_pool
from runpod_flash.links import framed
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")

ROOT = Path(__file__).parents[2]
WORKERS = (ROOT / "docs" / "workers.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text()

_ENTRY = Entry(module="m", qualname="f", file="m.py")


def section(text: str, heading: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, set[str]]:
    """A table's first two columns: names in backticks."""
    found = {}
    for line in text.splitlines():
        cells = line.split("|")[1:-1]
        names = re.findall(r"`([^`]+)`", cells[0]) if cells else []
        for name in names:
            found[name] = set(re.findall(r"`(\w+)`", cells[1]))
    return found


# workers.md


def listed(mark: str) -> set[str]:
    part = WORKERS.split(f"<!-- {mark} -->")[1].split("<!-- end -->")[0]
    if mark == "set":
        return set(rows(part))
    return set(re.findall(r"`([^`]+)`", part))


def worker_sees(placement: Placement, caller: dict[str, str]) -> set[str]:
    spec = EndpointSpec("e", _ENTRY, Build("code"), placement)
    order = StartOrder("e-1", spec, {})
    return set(variables.worker_variables(spec, order, caller, Path("/environment")))


def test_the_passed_variables_are_those_that_are_listed() -> None:
    names = listed("passed")
    prefixes = {name.removesuffix("*") for name in names if name.endswith("*")}
    assert names == {*variables._PASSED, *(f"{prefix}*" for prefix in variables._PASSED_PREFIXES)}
    caller = dict.fromkeys([*names, *(f"{prefix}ANY" for prefix in prefixes), "SECRET"], "x")
    assert "SECRET" not in worker_sees(Placement(), caller)


def test_the_variables_that_flash_sets_are_those_that_are_listed() -> None:
    cpu = Placement(cpus=("cpu3c-1-2",), datacenters=("EU-RO-1",), flashboot=False)
    gpu = Placement(gpus=("any",))
    lease = gpu_pool.GpuLease.__new__(gpu_pool.GpuLease)
    object.__setattr__(lease, "devices", ())
    found = worker_sees(cpu, {}) | worker_sees(gpu, {})
    found |= gpu_pool.visible_devices(None).keys() | gpu_pool.visible_devices(lease).keys()
    engine = (ROOT / "src/runpod_flash/engines/local/engine.py").read_text()
    found |= set(re.findall(r'\{"(FLASH_\w+)":', engine))
    assert listed("set") == found


# protocol.md


def constants(source: str, call: str, place: int = 0) -> set[str]:
    """The first arguments, where they are texts, of calls by that name in a source file."""
    tree = ast.parse((ROOT / "src/runpod_flash" / source).read_text())
    return {
        str(cast("ast.Constant", node.args[place]).value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) == call
        and len(node.args) > place
        and isinstance(node.args[place], ast.Constant)
    }


def test_the_frame_types_are_those_that_are_listed() -> None:
    assert set(rows(section(PROTOCOL, "From the worker"))) == set(framed._HANDLERS)
    parts = constants("plane/exchange.py", "Part", 1)
    sent = constants("links/framed.py", "Frame") | constants("wire/carried.py", "carrying")
    sent |= constants("links/framed.py", "of_job") | {f"asgi_{kind}" for kind in parts}
    sent |= constants("wire/shared_memory.py", "Frame")
    assert set(rows(section(PROTOCOL, "From the plane"))) == sent


def test_no_reserved_frame_type_is_in_use() -> None:
    reserved = set(rows(section(PROTOCOL, "Reserved")))
    assert reserved
    assert not reserved & (set(framed._HANDLERS) | constants("links/framed.py", "Frame"))


RECORDER = """
import asyncio, json, sys, threading
from runpod_flash import Endpoint

@Endpoint(name="inner", cpu="cpu3c-1-2")
def inner(n):
    yield from range(n)

@Endpoint(name="plain", cpu="cpu3c-1-2", workers=2)
class Plain:
    def __init__(self, base):
        self.base = base
    def add(self, x):
        if x < 0:
            raise ValueError(x)
        return self.base + x
    async def never(self):
        await asyncio.sleep(60)

@Endpoint(name="outer", cpu="cpu3c-1-2")
async def outer():
    print("asks")
    breakpoint()
    values = [v async for v in inner(3)]
    job = Plain(1).add.run(2)
    await job.wait()
    await job.status()
    other = Plain(1).never.run()
    await other.cancel()
    try:
        await Plain(1).add(-1)
    except ValueError:
        return values

async def main():
    await outer()
    [v async for v in inner(200)]
    job = Plain(1).never.run()
    while await job.status() != "IN_PROGRESS":
        await asyncio.sleep(0.01)
    await job.cancel()
    await Plain(1).add(1)
    try:
        await Plain(1).add(-1)
    except ValueError:
        pass

if __name__ == "__main__":
    from runpod_flash.client.console import TerminalConsole
    from runpod_flash.links.framed import FramedLink
    from runpod_flash.wire import frames
    TerminalConsole.available = lambda self: True
    TerminalConsole.ask = lambda self, prompt, on_line: on_line("c")
    sent, arrived, calls = {}, {}, {}
    send, dispatch = FramedLink._send_pieces, FramedLink._dispatch

    def recorded_send(self, pieces, fds):
        for frame in frames.decode(b"".join(pieces)):
            if frame.type != "answer":
                sent.setdefault(frame.type, set()).update(frame.fields)
        return send(self, pieces, fds)

    def recorded_dispatch(self, frame):
        if frame.type == "call":
            calls.setdefault(frame.fields["operation"], set()).update(frame.fields)
        else:
            arrived.setdefault(frame.type, set()).update(frame.fields)
        return dispatch(self, frame)

    FramedLink._send_pieces, FramedLink._dispatch = recorded_send, recorded_dispatch
    asyncio.run(main())
    json.dump([{k: sorted(v) for k, v in d.items()} for d in (sent, arrived, calls)], sys.stdout)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    """The fields of every frame of a run: those of the plane, of the worker, of its calls."""
    program = tmp_path_factory.mktemp("recorder") / "recorder.py"
    program.write_text(RECORDER)
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, list[str]]] = json.loads(ended.stdout)
    return found


def documented(heading: str, seen: dict[str, Any], general: set[str]) -> dict[str, list[str]]:
    table = rows(section(PROTOCOL, heading))
    return {name: sorted(table.get(name, set()) | general) for name in seen}


@pytest.mark.parametrize(("index", "heading"), [(0, "From the plane"), (1, "From the worker")])
def test_the_fields_of_frames_are_those_that_are_listed(
    recorded: list[dict[str, list[str]]], index: int, heading: str
) -> None:
    assert recorded[index] == documented(heading, recorded[index], set())
    assert len(recorded[index]) >= 4


def test_the_operations_of_calls_and_their_fields_are_those_that_are_listed(
    recorded: list[dict[str, list[str]]],
) -> None:
    calls = recorded[2]
    listed_operations = set(rows(section(PROTOCOL, "Operations of `call`")))
    assert set(calls) == listed_operations
    assert calls == documented("Operations of `call`", calls, {"call", "operation", "parent"})


# dependencies.md


def distributions(heading: str) -> set[str]:
    lines = section(DEPENDENCIES, heading).splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| ")]
    return {name.strip() for cell in cells[1:] for name in cell.split(",")}


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return names_of(
        [n for own in project["project"]["optional-dependencies"].values() for n in own]
    )


def declared() -> tuple[set[str], set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run_time = project["project"]["dependencies"]
    development = project["dependency-groups"]["dev"]
    return names_of(run_time), names_of(development)


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~ ;\[]", line)[0] for line in requirements}


def test_every_dependency_has_its_line() -> None:
    run_time, development = declared()
    assert distributions("At run time") == run_time
    assert distributions("Extras") == extras()
    assert distributions("For development") == development


IMPORT_NAMES = {
    "nvidia-ml-py": "pynvml",
    "prometheus-client": "prometheus_client",
    "python-dotenv": "dotenv",
    "swagger-ui-bundle": "swagger_ui_bundle",
}
OF_UVICORN = {"httptools"}  # which imports it, where it is


def test_every_dependency_is_imported_and_nothing_else_is() -> None:
    imported = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"runpod_flash"}
    of_workers = {"numpy", "fastapi", "starlette", "pydantic"}  # there where they are needed
    run_time = declared()[0] | extras()
    assert third_party - of_workers == {IMPORT_NAMES.get(n, n) for n in run_time - OF_UVICORN}
