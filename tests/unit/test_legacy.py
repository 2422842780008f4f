"""`remote` and the resource classes of the hosted SDK, as endpoints."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from runpod_flash import (
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    Endpoint,
    GpuGroup,
    GpuType,
    NetworkVolume,
    PodTemplate,
    legacy,
)
from runpod_flash.errors import ConfigurationError, NotAvailableError
from runpod_flash.legacy import (
    CpuLiveLoadBalancer,
    CpuLiveServerless,
    CpuLoadBalancerSlsResource,
    CpuServerlessEndpoint,
    LiveLoadBalancer,
    LiveServerless,
    LoadBalancerSlsResource,
    ServerlessEndpoint,
    remote,
)
from runpod_flash.scaling import ServerlessScalerType, ServerlessType

LIVE: list[Any] = [LiveServerless, CpuLiveServerless, LiveLoadBalancer, CpuLiveLoadBalancer]
IMAGE: list[Any] = [
    ServerlessEndpoint,
    CpuServerlessEndpoint,
    LoadBalancerSlsResource,
    CpuLoadBalancerSlsResource,
]
VOLUME = NetworkVolume(name="models", datacenter=DataCenter.US_KS_2)
TEMPLATE = PodTemplate(containerDiskInGb=10)


async def sample(x: int) -> int:
    return x


# Fields, and what the endpoint then has.
FIELDS: list[tuple[dict[str, Any], str, Any]] = [
    ({"name": "w-fb"}, "name", "w"),
    ({}, "_gpus", [GpuGroup.ANY]),
    ({"gpus": [GpuGroup.ADA_24, GpuType.NVIDIA_L4]}, "_gpus", [GpuGroup.ADA_24, GpuType.NVIDIA_L4]),
    ({"gpuIds": "ADA_24,AMPERE_80"}, "_gpus", [GpuGroup.ADA_24, GpuGroup.AMPERE_80]),
    ({"gpuCount": 4}, "gpu_count", 4),
    ({"instanceIds": ["cpu5c-1-2"]}, "_cpus", [CpuInstanceType.CPU5C_1_2]),
    ({"workersMin": 1, "workersMax": 3}, "workers_min", 1),
    ({"workersMax": 3}, "workers_max", 3),
    ({"workersPFBTarget": 0}, "workers_max", 1),
    ({"idleTimeout": 5}, "idle_timeout", 5),
    ({"executionTimeoutMs": 500}, "execution_timeout_ms", 500),
    ({"scalerType": "REQUEST_COUNT"}, "scaler_type", ServerlessScalerType.REQUEST_COUNT),
    ({}, "scaler_type", ServerlessScalerType.QUEUE_DELAY),
    ({"scalerValue": 9}, "scaler_value", 9),
    ({"flashboot": False}, "flashboot", False),
    ({"env": {"A": "1"}}, "env", {"A": "1"}),
    ({"imageName": "runpod/flash:py3.12-latest"}, "image", None),
    ({"template": TEMPLATE}, "template", TEMPLATE),
    ({"templateId": None}, "template", None),
    ({"networkVolume": VOLUME}, "volume", [VOLUME]),
    ({"networkVolumes": [VOLUME]}, "volume", [VOLUME]),
    ({"networkVolumeId": "abc"}, "volume", [NetworkVolume(id="abc")]),
    ({"datacenter": "US-KS-2"}, "datacenter", [DataCenter.US_KS_2]),
    ({"locations": "US-KS-2, EU-RO-1"}, "datacenter", [DataCenter.US_KS_2, DataCenter.EU_RO_1]),
    ({"cudaVersions": ["12.4", CudaVersion.V11_8]}, "min_cuda_version", CudaVersion.V11_8),
    ({"allowedCudaVersions": "12.9,12.4"}, "min_cuda_version", CudaVersion.V12_4),
    ({"minCudaVersion": "13.0"}, "min_cuda_version", CudaVersion.V13_0),
    ({}, "min_cuda_version", CudaVersion.V12_8),
    ({"python_version": "3.12"}, "python_version", "3.12"),
    ({"type": "QB"}, "is_load_balanced", False),
]


@pytest.mark.parametrize(("given", "attribute", "expected"), FIELDS)
def test_every_field_reaches_the_endpoint(
    given: dict[str, Any], attribute: str, expected: object
) -> None:
    resource = LiveServerless(**{"name": "w", **given})
    assert getattr(resource.endpoint(), attribute) == expected


def test_every_field_of_the_classes_is_tried() -> None:
    assert {field for given, _, _ in FIELDS for field in given} == set(legacy.FIELDS)


@pytest.mark.parametrize("kind", [CpuLiveServerless, CpuLiveLoadBalancer])
def test_a_cpu_class_has_a_default_instance_and_takes_no_gpus(kind: Any) -> None:
    assert kind(name="w").instanceIds == [CpuInstanceType.CPU3G_2_8]
    with pytest.raises(ConfigurationError, match="gpus=: this class runs on CPUs"):
        kind(name="w", gpus=[GpuGroup.ANY])


@pytest.mark.parametrize("kind", LIVE)
def test_the_fields_can_be_read_and_name_the_resource(kind: Any) -> None:
    resource = kind(name="w", workersMax=3)
    assert (resource.name, resource.workersMax, resource.idleTimeout) == ("w", 3, 60)
    assert resource.get_resource_key() == f"{kind.__name__}:w"
    assert resource.resource_id == f"{kind.__name__}_{resource.config_hash}"
    assert repr(resource) == f"{kind.__name__}(name='w')"


def test_values_of_variables_are_in_no_digest() -> None:
    one, two, three = (LiveServerless(name="w", env=env) for env in ({"A": "1"}, {"A": "2"}, {}))
    assert one.config_hash == two.config_hash != three.config_hash


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idleTimeout": 0}, "idleTimeout=0: a whole number from 1 to 3600"),
        ({"workersMin": 3}, "workersMin, workersMax=(3, 1): min cannot exceed max; "
         "write the smaller number first."),
        ({"gpus": ["x"]}, "gpus='x': give a GpuType or a GpuGroup (or a list of them), such as "
         "GpuType.NVIDIA_L4"),
        ({"gpus": [GpuGroup.ANY], "gpuIds": "ADA_24"},
         "gpus= and gpuIds= are mutually exclusive: give one of them"),
        ({"gpuIds": "NOPE"}, "gpus=[]: name at least one GpuType or GpuGroup"),
        ({"gpus": [GpuGroup.ANY], "instanceIds": ["cpu5c-1-2"]},
         "gpus= and cpu= are mutually exclusive: give one or neither"),
        ({"networkVolume": VOLUME, "networkVolumeId": "a"},
         "give one of networkVolume=, networkVolumeId="),
        ({"datacenter": "US-KS-2", "locations": "US-KS-2"},
         "datacenter= and locations= are mutually exclusive: give one of them"),
        ({"type": "LB"}, "type='LB': this class is QB"),
        ({"name": None}, "name is required"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_under_the_fields_own_name(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^LiveServerless: {re.escape(message)}$"):
        LiveServerless(**{"name": "w", **given})


def test_an_unknown_field_is_a_type_error_with_the_near_one() -> None:
    fields: dict[str, Any] = {"name": "w", "workers_max": 3}
    with pytest.raises(TypeError, match=r"no parameter 'workers_max'. Did you mean 'workersMax'"):
        LiveServerless(**fields)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'name'"):
        LiveServerless()  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", IMAGE)
def test_the_classes_for_images_need_one(kind: Any) -> None:
    with pytest.raises(ValueError, match="Either imageName, template, or templateId must be"):
        kind(name="w")
    with pytest.raises(NotAvailableError, match="templateId='t' needs a"):
        kind(name="w", templateId="t")
    for given in ({"imageName": "vllm"}, {"template": PodTemplate(imageName="vllm")}):
        assert kind(name="w", **given).endpoint().image == "vllm"


@pytest.mark.parametrize("kind", LIVE)
def test_live_classes_take_other_images_than_those_of_the_hosted_service(kind: Any) -> None:
    assert kind(name="w", imageName="vllm").endpoint().image == "vllm"


@pytest.mark.parametrize(
    ("what", "arguments"),
    [("deploy", 0), ("undeploy", 0), ("update", 1), ("run", 1), ("runsync", 1), ("is_deployed", 0)],
)
def test_what_needs_a_server_says_so(what: str, arguments: int) -> None:
    resource = LiveServerless(name="w")
    with pytest.raises(NotAvailableError, match=rf"^LiveServerless.{what}\(\) needs a Flash"):
        getattr(resource, what)(*[{}] * arguments)
    with pytest.raises(NotAvailableError, match=r"^LiveServerless.url needs"):
        _ = resource.url
    with pytest.raises(NotAvailableError, match=r"^LiveServerless.endpoint_url needs"):
        _ = resource.endpoint_url


# remote


def test_remote_decorates_a_function_on_the_resources_endpoint() -> None:
    resource = LiveServerless(name="w", env={"A": "1"})
    decorated = remote(resource, dependencies=["numpy"], accelerate_downloads=False)(sample)
    config = decorated.__remote_config__
    assert inspect.iscoroutinefunction(decorated)
    assert decorated.__wrapped__ is sample
    assert (config["resource_config"], config["dependencies"]) == (resource, ["numpy"])


def test_remote_decorates_a_class() -> None:
    proxy = remote(resource_config=CpuLiveServerless(name="w"))(Thing)
    assert proxy._wrapped_class is Thing
    assert inspect.iscoroutinefunction(proxy().go)


def test_two_functions_of_one_resource_have_dependencies_of_their_own() -> None:
    resource = LiveServerless(name="w")
    one = remote(resource, dependencies=["numpy"])(sample)
    two = remote(resource, dependencies=["pillow"], system_dependencies=["ffmpeg"])(sample)
    assert one.__remote_config__["dependencies"] == ["numpy"]
    assert two.__remote_config__["dependencies"] == ["pillow"]
    assert two.__remote_config__["system_dependencies"] == ["ffmpeg"]


def test_local_returns_the_object_itself_with_a_mark() -> None:
    async def mine(x: int) -> int:
        return x

    assert remote(LiveServerless(name="w"), local=True)(mine) is mine
    assert vars(mine)["__flash_local__"] is True


def test_a_route_returns_the_function_and_all_routes_share_an_endpoint_and_its_packages() -> None:
    async def one(x: int) -> int:
        return x

    async def two(x: int) -> int:
        return x

    api = CpuLiveLoadBalancer(name="api")
    assert remote(api, ["numpy"], method="POST", path="/one")(one) is one
    assert remote(api, ["numpy", "pillow"], method="GET", path="/two")(two) is two
    endpoint: Endpoint = api._shared
    assert [(r["method"], r["path"]) for r in endpoint._routes] == [
        ("POST", "/one"),
        ("GET", "/two"),
    ]
    assert endpoint.dependencies == ["numpy", "pillow"]
    assert endpoint.scaler_type is ServerlessScalerType.REQUEST_COUNT
    assert vars(one)["__remote_config__"]["resource_config"] is api
    assert vars(one)["__remote_config__"]["is_lb_route_handler"] is True


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        (None, None, "is load-balanced: give method= and path= of the route"),
        ("GET", None, "is load-balanced: give method= and path= of the route"),
        ("get", "/x", "method='get': one of GET, POST, PUT, DELETE, PATCH"),
        ("GET", "x", "path='x': a route's path starts with '/'"),
        ("GET", "/ping", "path='/ping': /execute, /ping are reserved"),
    ],
)
def test_a_wrong_route_is_refused(method: Any, path: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        remote(LiveLoadBalancer(name="api"), method=method, path=path)


def test_a_route_on_a_queue_has_no_effect_and_warns() -> None:
    with pytest.warns(UserWarning, match="method= and path= have no effect on a queue") as caught:
        remote(LiveServerless(name="w"), method="GET", path="/x")
    assert caught[0].filename == __file__


def test_unknown_parameters_of_remote_are_a_type_error_that_names_each() -> None:
    options: dict[str, Any] = {"dependancies": [], "zzz": 1}
    message = (
        "remote has no parameter 'dependancies'. Did you mean 'dependencies'? "
        "remote has no parameter 'zzz'."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        remote(LiveServerless(name="w"), **options)


def test_remote_needs_a_resource() -> None:
    wrong: Any = Endpoint(name="w")
    with pytest.raises(ConfigurationError, match=r"resource_config=Endpoint.*such as LiveServerl"):
        remote(wrong)


def test_the_kind_of_a_class_is_its_type() -> None:
    assert [kind(name="w").type for kind in LIVE] == [
        ServerlessType.QB,
        ServerlessType.QB,
        ServerlessType.LB,
        ServerlessType.LB,
    ]


class Thing:
    def go(self) -> int:
        return 1
