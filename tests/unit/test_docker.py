"""What is asked of a container engine, and what is read from its answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runpod_flash.cli import deploy_screen
from runpod_flash.control.releases import AppEnv
from runpod_flash.engines.base import StartOrder
from runpod_flash.engines.docker.creation import Place, Program, container_body, shared_memory
from runpod_flash.engines.docker.images import Image, checked_credentials, registry_of
from runpod_flash.engines.docker.known import known
from runpod_flash.engines.docker.ports import candidates, health_path
from runpod_flash.engines.docker.watching import ended, hints
from runpod_flash.engines.local.devices.gpu_pool import GpuLease
from runpod_flash.engines.local.devices.gpus import Gpu
from runpod_flash.errors import WorkerStartError
from runpod_flash.gateway.addresses import Addresses, prefix_of
from runpod_flash.links.openai_jobs import asked_by
from runpod_flash.project.catalog import Catalog, Discovered, of_image
from runpod_flash.spec import Build, Container, EndpointSpec, Entry, Placement

FOUND = Image("web:1", "sha256:abc", (80, 9000))
GPUS = tuple(Gpu(n, f"GPU-{n}", "NVIDIA L4", 24 * 10**9, 0, "12.8") for n in range(2))
LEASE = GpuLease(GPUS, (), "it-1")


def spec(placement: Placement | None = None, **container: Any) -> EndpointSpec:
    entry = Entry("", "", kind="image")
    build = Build("", container=Container("web:1", **container))
    return EndpointSpec("it", entry, build, placement or Placement())


def body(
    which: EndpointSpec, lease: GpuLease | None = None, env: Any = None, **place: Any
) -> dict[str, Any]:
    order = StartOrder("it-1", which, env or {})
    given: dict[str, Any] = {"cores": 8, "memory": 64 << 30, "podman": False, **place}
    where = Place(plane="p1", cache=Path("/cache"), **given)
    return container_body(order, FOUND, where, lease, Program(("run",), ("x",)), {"EXTRA": "1"})


def test_a_container_may_nothing_that_is_not_named() -> None:
    found = body(spec())
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == (["CAP_DAC_OVERRIDE"] if os.geteuid() else [])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert set(host["Tmpfs"]) == {"/tmp", "/run", "/var/tmp"}
    assert host["Binds"] == ["/cache:/flash-cache"]
    assert found["Image"] == "sha256:abc"
    assert (found["Entrypoint"], found["Cmd"]) == (["run"], ["x"])
    assert found["Labels"]["flash.plane"] == "p1"

    relaxed = body(spec(allow=("CAP_CHOWN", "new-privileges", "writable-root")))["HostConfig"]
    assert "CAP_CHOWN" in relaxed["CapAdd"]
    assert not {"ReadonlyRootfs", "Tmpfs", "SecurityOpt"} & relaxed.keys()


def test_limits_are_those_of_the_instance_or_given() -> None:
    host = body(spec(Placement(cpus=("cpu3c-2-4",))), cores=1)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (1_000_000_000, 4 << 30)
    assert body(spec(memory_gb=0.5))["HostConfig"]["Memory"] == 500_000_000
    assert "Memory" not in body(spec())["HostConfig"]


def test_shared_memory_grows_with_the_devices_of_tensor_parallelism() -> None:
    def size(count: int, memory: int = 64 << 30, **container: Any) -> int:
        return shared_memory(spec(Placement(gpus=("any",), gpu_count=count), **container), memory)

    assert (size(1), size(4), size(8)) == (4 << 30, 16 << 30, 32 << 30)
    assert size(8, memory=16 << 30) == 8 << 30
    assert size(8, shm_gb=2) == 2_000_000_000


def test_devices_are_asked_for_as_the_engine_knows_them() -> None:
    docker = body(spec(Placement(gpus=("any",), gpu_count=2)), LEASE)
    request = {"DeviceIDs": ["GPU-0", "GPU-1"], "Capabilities": [["gpu"]]}
    assert docker["HostConfig"]["DeviceRequests"] == [request]
    assert "RUNPOD_GPU_COUNT=2" in docker["Env"]
    podman = body(spec(Placement(gpus=("any",), gpu_count=2)), LEASE, podman=True)
    names = [each["PathOnHost"] for each in podman["HostConfig"]["Devices"]]
    assert names == ["nvidia.com/gpu=GPU-0", "nvidia.com/gpu=GPU-1"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in body(spec())["Env"]


def test_variables_of_the_endpoint_count_last_and_its_registry_s_secret_stays_out() -> None:
    env = {"HF_HOME": "/mine", "REGISTRY": "a:b", "A": "1"}
    found = body(spec(registry_auth="REGISTRY"), env=env)["Env"]
    assert {"HF_HOME=/mine", "A=1", "EXTRA=1"} <= set(found)
    assert not any("a:b" in each for each in found)
    on_volume = body(spec(), volume=Path("/data"))
    assert "HF_HOME=/runpod-volume/huggingface-cache" in on_volume["Env"]
    assert on_volume["HostConfig"]["Binds"] == ["/data:/runpod-volume"]
    assert checked_credentials("REGISTRY", env) == "a:b"
    with pytest.raises(WorkerStartError, match="set the variable A to 'user:password' in env="):
        checked_credentials("A", env)


@pytest.mark.parametrize(
    ("image", "given", "exposed", "expected"),
    [
        ("web:1", (5000,), (80,), (5000,)),
        ("web:1", (), (80, 9000), (80, 9000)),
        ("vllm/vllm-openai:v0.9", (), (), (8000,)),
        ("vllm/vllm-openai@sha256:00", (), (22, 8000), (8000, 22)),
        ("web:1", (), (), ()),
    ],
)
def test_the_port_is_declared_or_exposed_or_known_or_found(
    image: str, given: tuple[int, ...], exposed: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    found = Image(image, "sha256:abc", exposed)
    assert candidates(Container(image, ports=given), found) == expected


def test_known_images_have_paths_and_the_longest_name_counts() -> None:
    assert health_path(Container("docker.io/vllm/vllm-openai:latest")) == "/health"
    assert health_path(Container("vllm/vllm-openai", health="/mine")) == "/mine"
    assert health_path(Container("web")) == "/ping"
    assert known("runpod/worker-v1-vllm:v2").has_queue
    assert known("example.com/vllm/vllm-openai").port == 0


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("vllm/vllm-openai", "docker.io"),
        ("ghcr.io/a/b:1", "ghcr.io"),
        ("localhost/a", "localhost"),
        ("host:5000/a", "host:5000"),
    ],
)
def test_the_registry_is_in_the_name(name: str, registry: str) -> None:
    assert registry_of(name) == registry


@pytest.mark.parametrize(
    ("state", "memory", "phrase"),
    [
        ({"ExitCode": 3}, 0, "exited with code 3"),
        ({"ExitCode": 139}, 0, "crashed with SIGSEGV"),
        ({"ExitCode": 137}, 0, "was killed by SIGKILL (out of memory?)"),
        ({"ExitCode": 137, "OOMKilled": True}, 2_000_000_000, "was killed for using more than its "
         "2 GB of memory"),
        ({"ExitCode": 137}, 2_000_000_000, "was killed by SIGKILL, as is what uses more than its "
         "2 GB of memory"),
        ({"ExitCode": 1, "OOMKilled": True}, 0, "was killed, for the machine's memory was full"),
    ],
)  # fmt: skip
def test_how_a_container_ended_is_a_phrase(state: Any, memory: int, phrase: str) -> None:
    assert ended({"State": state, "HostConfig": {"Memory": memory}}) == phrase


def test_what_is_forbidden_is_hinted_at_where_it_may_be_the_cause() -> None:
    assert "'writable-root' in template=" in hints("OSError: [Errno 30] Read-only file system: 'x'")
    assert "'CAP_CHOWN'" in hints("chown: Operation not permitted")
    assert hints("it works") == ""


def test_jobs_of_a_server_with_openai_s_api_are_its_requests() -> None:
    chat = asked_by({"messages": [], "stream": True})
    assert (chat.method, chat.route, chat.streams) == ("POST", "/v1/chat/completions", True)
    assert asked_by({"prompt": "x"}).route == "/v1/completions"
    models = asked_by({"openai_route": "/v1/models", "openai_input": {}})
    assert (models.method, models.route) == ("GET", "/v1/models")
    told = models.result(404, b'{"error": {"message": "no", "code": 404}}')
    assert told == {"object": "error", "code": 404, "error": {"message": "no", "code": 404}}
    with pytest.raises(Exception, match="answered 500: oh"):
        chat.result(500, b"oh")
    with pytest.raises(Exception, match="a job's input has 'messages' or 'prompt'"):
        asked_by({"text": 1})


def served() -> Discovered:
    entry = Entry("", "", kind="image", file="llm/serve.py")
    build = Build("", container=Container("vllm/vllm-openai:latest"))
    return of_image(EndpointSpec("v", entry, build), {}, "llm/serve.py")


def test_all_below_an_image_s_address_is_its_own() -> None:
    addresses = Addresses(Catalog("", (served(),)))
    assert prefix_of(served()) == "/llm/serve/v"
    for method in ("GET", "POST", "DELETE", "WEBSOCKET"):
        found = addresses.route("/llm/serve/v/v1/models", method)
        assert found is not None
        assert found.spec.name == "v"
    assert addresses.route("/llm/serve/other/v1", "GET") is None
    assert addresses.operations == {}
    assert list(addresses.known())


def test_a_deploy_says_what_openai_s_clients_are_to_be_told() -> None:
    rows = deploy_screen._rows(served(), "https://box:8000", AppEnv("app", "production"))
    assert rows == [
        ("v", "POST https://box:8000/v2/app-production-v/runsync"),
        ("", "ANY  https://box:8000/d/app-production/llm/serve/v/..."),
        ("", "export OPENAI_BASE_URL=https://box:8000/d/app-production/llm/serve/v/v1"),
    ]
