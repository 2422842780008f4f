"""The package's public names, and what importing it costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import runpod_flash
from runpod_flash.errors import NotAvailableError

NAMES = [
    "CPU_DATACENTERS",
    "CpuInstanceType",
    "CpuLiveLoadBalancer",
    "CpuLiveServerless",
    "CpuLoadBalancerSlsResource",
    "CpuServerlessEndpoint",
    "CudaVersion",
    "DEFAULT_WORKERS_MAX",
    "DEFAULT_WORKERS_MIN",
    "DataCenter",
    "Endpoint",
    "EndpointJob",
    "FlashApp",
    "GpuGroup",
    "GpuType",
    "LiveLoadBalancer",
    "LiveServerless",
    "LoadBalancerSlsResource",
    "NetworkVolume",
    "PodTemplate",
    "ResourceManager",
    "ServerlessEndpoint",
    "ServerlessScalerType",
    "ServerlessType",
    "remote",
]
# What the hosted SDK does not have.
OWN = ["on_start"]
DEPRECATED = {
    "CpuLiveLoadBalancer",
    "CpuLiveServerless",
    "CpuLoadBalancerSlsResource",
    "CpuServerlessEndpoint",
    "LiveLoadBalancer",
    "LiveServerless",
    "LoadBalancerSlsResource",
    "ServerlessEndpoint",
    "remote",
}
HEAVY = {"asyncio", "click", "dataclasses", "httpx", "inspect", "pydantic", "socket", "typing"}


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_all_lists_exactly_the_twenty_five_public_names_and_our_own_in_order() -> None:
    assert len(NAMES) == 25
    assert sorted(runpod_flash.__all__) == sorted([*NAMES, *OWN])
    constants = [name for name in runpod_flash.__all__ if name.isupper()]
    classes = [name for name in runpod_flash.__all__ if name[0].isupper() and not name.isupper()]
    assert runpod_flash.__all__ == [*sorted(constants), *sorted(classes), *OWN, "remote"]


@pytest.mark.parametrize("name", [name for name in [*NAMES, *OWN] if name not in DEPRECATED])
def test_every_name_that_is_not_deprecated_loads_without_a_warning(name: str) -> None:
    assert getattr(runpod_flash, name) is not None
    assert name in dir(runpod_flash)


def test_an_unknown_name_is_an_attribute_error_and_an_import_error() -> None:
    with pytest.raises(AttributeError, match="module 'runpod_flash' has no attribute 'Endpiont'"):
        _ = runpod_flash.Endpiont  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Endpiont"):
        from runpod_flash import Endpiont  # type: ignore[attr-defined]  # noqa: F401


def test_the_version_is_a_text_and_no_public_name() -> None:
    assert runpod_flash.__version__.count(".") == 2
    assert "__version__" not in runpod_flash.__all__


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import runpod_flash; "
    code += "print(*sorted(set(sys.modules) - before))"
    assert python(code).stdout.split() == ["__future__", "runpod_flash"]


def test_importing_endpoint_and_gpu_type_loads_few_modules_and_no_heavy_one() -> None:
    code = "import sys; before = set(sys.modules); from runpod_flash import Endpoint, GpuType; "
    code += "print(*sorted(set(sys.modules) - before))"
    loaded = set(python(code).stdout.split())
    assert "runpod_flash.endpoint" in loaded
    assert not loaded & HEAVY
    assert len(loaded) < 40


@pytest.mark.parametrize("name", sorted(DEPRECATED))
def test_a_deprecated_name_works_and_warns_once_at_the_users_line(name: str) -> None:
    code = f"import runpod_flash\n\nfrom runpod_flash import {name}\nrunpod_flash.{name}\n"
    code += f"from runpod_flash import {name} as again\nassert again is {name}\n"
    found = python(code, "-W", "always")
    assert found.returncode == 0
    # Newer interpreters quote the line as well.
    warned = [line for line in found.stderr.splitlines() if line.startswith("<string>")]
    assert warned == [
        f"<string>:3: DeprecationWarning: runpod_flash.{name} is deprecated. "
        "Use runpod_flash.Endpoint instead."
    ]


def test_an_attribute_of_the_package_warns_at_the_users_line_too() -> None:
    found = python("import runpod_flash\n\nrunpod_flash.remote\n", "-W", "always")
    assert found.stderr.startswith("<string>:3: DeprecationWarning: runpod_flash.remote")


def test_a_deprecated_name_keeps_failing_where_warnings_are_errors() -> None:
    code = "import runpod_flash\nfor _ in range(2):\n    try: runpod_flash.remote\n"
    code += "    except DeprecationWarning: print('refused')\n"
    assert python(code, "-W", "error").stdout.split() == ["refused", "refused"]


def test_apps_and_resources_need_a_server_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_TARGET", "")
    with pytest.raises(NotAvailableError, match=r"^FlashApp needs a Flash server: start one"):
        asyncio.run(runpod_flash.FlashApp("x").list_builds())
    manager = runpod_flash.ResourceManager()
    assert manager is runpod_flash.ResourceManager()
    with pytest.raises(NotAvailableError, match=r"^ResourceManager needs a Flash server"):
        manager.list_all_resources()
    told = asyncio.run(manager.undeploy_resource("DeployedEndpoint:x"))
    assert told["success"] is False
    assert "needs a Flash server" in told["message"]


def test_a_made_up_machine_is_among_the_tools_for_tests() -> None:
    from runpod_flash import testing

    assert {"use_node", "Gpu", "ManualClock", "ScriptedEngine"} <= set(testing.__all__)
    assert sorted(testing.__all__) == testing.__all__
    assert all(hasattr(testing, name) for name in testing.__all__)
