"""Parameters of `Endpoint` have their effects after a deploy too, or are refused by it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import httpx
import pytest

from behaviour.servers import server
from e2e.shop import Shop
from integration.served import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A server whose machine has four GPUs, of which nobody knows but itself.
GPUS = """
from pathlib import Path
import runpod_flash.cli.server_session as session
from runpod_flash.engines.local.devices.gpus import Gpu
from runpod_flash.engines.local.node import made_up_node

def node(datacenter):
    gpus = [Gpu(i, f"GPU-made-up-{i}", "NVIDIA L4", 24 << 30, 0, "12.8") for i in range(4)]
    return made_up_node(gpus, Path("locks").absolute(), 8, datacenter=datacenter)

session.Node = node
"""
FILES = {
    "app.py": """
        import os, time
        from runpod_flash import Endpoint, GpuType, PodTemplate

        L4 = GpuType.NVIDIA_L4

        @Endpoint(name="two", gpu=L4, gpu_count=2)
        def two() -> list:
            return [os.environ["CUDA_VISIBLE_DEVICES"].count(","), os.environ["RUNPOD_GPU_COUNT"]]

        @Endpoint(name="brief", cpu="cpu3c-1-2", execution_timeout_ms=300)
        def brief(seconds: float) -> str:
            time.sleep(seconds)
            return "slept"

        @Endpoint(name="cold", cpu="cpu3c-1-2", flashboot=False)
        def cold() -> str | None:
            return os.environ.get("PYTHONDONTWRITEBYTECODE")

        @Endpoint(name="warm", cpu="cpu3c-1-2", system_dependencies=["dpkg"])
        def warm() -> str | None:
            return os.environ.get("PYTHONDONTWRITEBYTECODE")

        template = PodTemplate(
            env=[{"key": "BOTH", "value": "template"}, {"key": "ONE", "value": "template"}],
            containerDiskInGb=10**9,
        )

        @Endpoint(name="templated", gpu=L4, template=template, env={"BOTH": "endpoint"})
        def templated() -> list:
            return [os.environ["BOTH"], os.environ["ONE"]]
    """,
    "pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\n",
}
# What is about containers, field by field, and refused where there is no image.
REFUSED = {
    "advancedStart": "True",
    "config": "{'a': 1}",
    "containerRegistryAuthId": "'id'",
    "dockerArgs": "'--shm-size 1g'",
    "id": "'a-template'",
    "ports": "'80/http'",
    "startScript": "'run.sh'",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("server")
    with server(folder, shared_cache, "--gpu-fallback", "none", before=GPUS) as running:
        yield Shop(folder / "shop", running, FILES)


def test_what_parameters_say_holds_in_deployed_workers(shop: Shop) -> None:
    said = shop.flash("deploy")
    assert said.returncode == 0, said.stderr
    assert "template asks for 1000000000 GB of disk, and " in said.stderr
    assert shop.ask("two") == [1, "2"]
    assert shop.ask("cold") == "1"
    assert shop.ask("warm") is None
    assert shop.ask("templated") == ["endpoint", "template"]
    assert shop.ask("brief", seconds=0.01) == "slept"
    url = f"{shop.target.address}/v2/shop-production-brief/runsync"
    late = httpx.post(url, json={"input": {"seconds": 60}}, timeout=30).json()
    assert late["status"] == "TIMED_OUT"
    assert late["error"].endswith("ran longer than its execution_timeout_ms=300")


def test_every_other_field_of_a_template_is_refused_by_the_deploy(shop: Shop) -> None:
    write(
        shop.folder,
        {
            f"{field.lower()}.py": f"""
                from runpod_flash import Endpoint, PodTemplate

                @Endpoint(name="{field}", cpu="cpu3c-1-2", template=PodTemplate({field}={value}))
                def work():
                    pass
            """
            for field, value in REFUSED.items()
        },
    )
    done = shop.flash("deploy")
    assert done.returncode == 1
    for field in REFUSED:
        (shop.folder / f"{field.lower()}.py").unlink()
    for field in REFUSED:
        why = "names a template of a server" if field == "id" else "is about a container"
        assert f"PodTemplate({field}=...) {why}" in done.stdout + done.stderr, field


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no Debian packages here")
def test_a_system_dependency_that_is_absent_fails_the_release_with_its_remedy(shop: Shop) -> None:
    absent = """
        from runpod_flash import Endpoint

        @Endpoint(name="absent", cpu="cpu3c-1-2", system_dependencies=["no-such-package"])
        def absent():
            pass
    """
    write(shop.folder, {"absent.py": absent})
    done = shop.flash("deploy")
    (shop.folder / "absent.py").unlink()
    assert done.returncode == 1
    assert "installed here: sudo apt-get install no-such-package" in done.stderr
    assert shop.releases()[0][1] == "failed"
