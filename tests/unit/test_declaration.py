"""The parameters of `Endpoint`: what each takes, and what it says to anything else."""

from __future__ import annotations

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
    ServerlessScalerType,
    on_start,
)
from runpod_flash.declaration import refuse
from runpod_flash.endpoint import PARAMETERS
from runpod_flash.errors import ConfigurationError, NotAvailableError

A = NetworkVolume(name="a", datacenter=DataCenter.EU_RO_1)
B = NetworkVolume(name="b", datacenter=DataCenter.US_KS_2)
TEMPLATE = PodTemplate(containerDiskInGb=10)
CPUS = ", ".join(cpu.value for cpu in CpuInstanceType)
CUDAS = ", ".join(cuda.value for cuda in CudaVersion)
PLACES = ", ".join(place.value for place in DataCenter)

# Parameters, and the attribute that shows what was taken.
RIGHT: list[tuple[dict[str, Any], str, Any]] = [
    ({"name": "resize"}, "name", "resize"),
    ({"name": "resize-fb"}, "name", "resize"),
    ({"id": "abc"}, "id", "abc"),
    ({"id": "abc"}, "_gpus", []),
    ({}, "_gpus", [GpuGroup.ANY]),
    ({"gpu": GpuType.NVIDIA_L4}, "_gpus", [GpuType.NVIDIA_L4]),
    ({"gpu": [GpuGroup.ADA_24, GpuType.ANY]}, "_gpus", [GpuGroup.ADA_24, GpuType.ANY]),
    ({"gpu": (GpuGroup.ADA_24,)}, "_gpus", [GpuGroup.ADA_24]),
    ({"cpu": "cpu3c-1-2"}, "_cpus", [CpuInstanceType.CPU3C_1_2]),
    ({"cpu": CpuInstanceType.CPU5C_1_2}, "_cpus", [CpuInstanceType.CPU5C_1_2]),
    ({"cpu": ["cpu3c-1-2", CpuInstanceType.CPU5C_1_2]}, "is_cpu", True),
    ({"cpu": "cpu3c-1-2"}, "_gpus", []),
    ({}, "workers_max", 1),
    ({"workers": 5}, "workers_max", 5),
    ({"workers": 0}, "workers_max", 0),
    ({"workers": (2, 10)}, "workers_min", 2),
    ({"workers": [1, 3]}, "workers_max", 3),
    ({}, "idle_timeout", 60),
    ({"idle_timeout": 1}, "idle_timeout", 1),
    ({"idle_timeout": 3600}, "idle_timeout", 3600),
    ({"idle_timeout": "learned"}, "idle_timeout", "learned"),
    ({"dependencies": ["numpy>=1.24", "pillow"]}, "dependencies", ["numpy>=1.24", "pillow"]),
    ({"dependencies": ("numpy",)}, "dependencies", ["numpy"]),
    ({"dependencies": []}, "dependencies", []),
    ({"dependencies": ["git+https://u:t@host/x", "./w.whl"]}, "name", None),
    ({"system_dependencies": ["ffmpeg"]}, "system_dependencies", ["ffmpeg"]),
    ({"accelerate_downloads": False}, "accelerate_downloads", False),
    ({"volume": A}, "volume", [A]),
    ({"volume": [A, B]}, "volume", [A, B]),
    ({"volume": None}, "volume", None),
    ({"datacenter": "us_ks_2"}, "datacenter", [DataCenter.US_KS_2]),
    ({"datacenter": DataCenter.US_GA_2}, "datacenter", [DataCenter.US_GA_2]),
    ({"datacenter": ["US-KS-2", DataCenter.EU_RO_1], "volume": B}, "volume", [B]),
    ({"cpu": "cpu3c-1-2", "datacenter": "EU-RO-1"}, "datacenter", [DataCenter.EU_RO_1]),
    ({"env": {"LEVEL": "debug"}}, "env", {"LEVEL": "debug"}),
    ({"env": {}}, "env", {}),
    ({"gpu_count": 4}, "gpu_count", 4),
    ({"execution_timeout_ms": 300_000}, "execution_timeout_ms", 300_000),
    ({"flashboot": False}, "flashboot", False),
    ({"image": "vllm/vllm-openai", "name": "v"}, "is_client", True),
    ({}, "scaler_type", ServerlessScalerType.QUEUE_DELAY),
    ({"scaler_type": "REQUEST_COUNT"}, "scaler_type", ServerlessScalerType.REQUEST_COUNT),
    ({"scaler_value": 3}, "scaler_value", 3),
    ({"scaler_value": 0.5}, "scaler_value", 0.5),
    ({"template": TEMPLATE}, "template", TEMPLATE),
    ({}, "min_cuda_version", CudaVersion.V12_8),
    ({"min_cuda_version": "12.4"}, "min_cuda_version", CudaVersion.V12_4),
    ({"min_cuda_version": None}, "min_cuda_version", None),
    ({"max_concurrency": 10}, "max_concurrency", 10),
    ({"python_version": "3.12"}, "python_version", "3.12"),
    ({"max_attempts": 1}, "max_attempts", 1),
    ({"restartable": True}, "restartable", True),
]

TEXTS = "a text that is not empty"
GPU = "give a GpuType or a GpuGroup (or a list of them), such as GpuType.NVIDIA_L4"
CPU = 'give a CpuInstanceType or its name, such as "cpu3c-1-2"'

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name='': an endpoint's name is a text that is not empty"),
    ({"name": "-fb"}, "name='-fb': an endpoint's name is a text that is not empty"),
    ({"name": 3}, "name=3: an endpoint's name is a text that is not empty"),
    ({"name": "a/b"}, "name='a/b': a name has no slashes and no control characters"),
    ({"name": "a\u200bb"}, "name='a\\u200bb': a name has no slashes and no control characters"),
    ({"name": "a" * 81}, f"name='{'a' * 81}': a name has 80 characters at most"),
    ({"id": ""}, f"id='': {TEXTS}"),
    ({"id": 7}, f"id=7: {TEXTS}"),
    ({"image": 7, "name": "x"}, f"image=7: {TEXTS}"),
    ({"gpu": "ROCK"}, f"gpu='ROCK': {GPU}"),
    ({"gpu": "RTX_4090"}, f"gpu='RTX_4090': {GPU}. "
     "Did you mean GpuType.NVIDIA_GEFORCE_RTX_4090?"),
    ({"gpu": ["GpuGroup.AMPERE80"]}, f"gpu='GpuGroup.AMPERE80': {GPU}. "
     "Did you mean GpuGroup.AMPERE_80?"),
    ({"gpu": 4090}, f"gpu=4090: {GPU}"),
    ({"gpu": []}, "gpu=[]: name at least one GpuType or GpuGroup"),
    ({"cpu": "cpu3c-1-3"}, "cpu: 'cpu3c-1-3' is not a CpuInstanceType. Did you mean "
     f"'cpu3c-1-2', 'cpu5c-1-2' or 'cpu3g-1-4'? Allowed: {CPUS}."),
    ({"cpu": 2}, f"cpu=2: {CPU}"),
    ({"cpu": []}, "cpu=[]: name at least one CpuInstanceType"),
    ({"gpu": GpuType.NVIDIA_L4, "cpu": "cpu3c-1-2"},
     "gpu= and cpu= are mutually exclusive: give one or neither"),
    ({"id": "a", "image": "b"}, "id= and image= are mutually exclusive: id= connects to an "
     "existing endpoint, image= deploys a new one"),
    ({"image": "b"}, "image= needs a name= for the endpoint"),
    ({"workers": "3"}, "workers must be an int or a (min, max) tuple of ints, not '3'."),
    ({"workers": (1, 2, 3)},
     "workers must be an int or a (min, max) tuple of ints, not (1, 2, 3)."),
    ({"workers": -1}, "workers=-1: workers cannot be negative; use 0 or more."),
    ({"workers": (3, 1)}, "workers=(3, 1): min cannot exceed max; write the smaller number first."),
    ({"idle_timeout": 0}, "idle_timeout=0: a whole number from 1 to 3600"),
    ({"idle_timeout": 3601}, "idle_timeout=3601: a whole number from 1 to 3600"),
    ({"idle_timeout": "60"}, "idle_timeout='60': a whole number from 1 to 3600, or 'learned'"),
    ({"idle_timeout": 1.5}, "idle_timeout=1.5: a whole number from 1 to 3600"),
    ({"idle_timeout": True}, "idle_timeout=True: a whole number from 1 to 3600"),
    ({"dependencies": "numpy"}, "dependencies='numpy': a list of texts, such as ['numpy>=1.26']"),
    ({"dependencies": [3]}, "dependencies=3: each entry is a text, such as 'numpy>=1.26'"),
    ({"system_dependencies": "ffmpeg"},
     "system_dependencies='ffmpeg': a list of texts, such as ['ffmpeg']"),
    ({"system_dependencies": [" "]},
     "system_dependencies=' ': each entry is a text, such as 'ffmpeg'"),
    ({"accelerate_downloads": 1}, "accelerate_downloads=1: True or False"),
    ({"volume": []}, "volume=[]: the volume list must not be empty"),
    ({"volume": "models"}, "volume is of type str: give a NetworkVolume(...)"),
    ({"volume": [A, "b"]}, "volume[1] is of type str: give a NetworkVolume(...)"),
    ({"volume": [A, A]}, "volume: two volumes in EU-RO-1; one per data center"),
    ({"volume": B, "datacenter": "EU-RO-1"},
     "volume: 'b' is in US-KS-2, which datacenter= does not list"),
    ({"datacenter": []}, "datacenter=[]: name at least one data center"),
    ({"datacenter": 3}, 'datacenter=3: a DataCenter or its id, such as "EU-RO-1"'),
    ({"datacenter": "MARS"}, f"datacenter: 'MARS' is not a DataCenter. Allowed: {PLACES}."),
    ({"datacenter": "US-KS-2", "cpu": "cpu3c-1-2"},
     "datacenter='US-KS-2': CPU endpoints run in EU-RO-1"),
    ({"gpu_count": 0}, "gpu_count=0: must be >= 1"),
    ({"gpu_count": "2"}, "gpu_count='2': a whole number from 1 up"),
    ({"execution_timeout_ms": -1}, "execution_timeout_ms=-1: must be >= 0"),
    ({"flashboot": "no"}, "flashboot='no': True or False"),
    ({"scaler_type": "DELAY"}, "scaler_type: 'DELAY' is not a ServerlessScalerType. Did you mean "
     "'QUEUE_DELAY'? Allowed: QUEUE_DELAY, REQUEST_COUNT."),
    ({"scaler_value": 0}, "scaler_value=0: seconds or jobs, more than 0"),
    ({"scaler_value": "4"}, "scaler_value='4': seconds or jobs, more than 0"),
    ({"scaler_value": float("nan")}, "scaler_value=nan: seconds or jobs, more than 0"),
    ({"scaler_value": float("inf")}, "scaler_value=inf: seconds or jobs, more than 0"),
    ({"template": {"containerDiskInGb": 5}},
     "template={'containerDiskInGb': 5}: a PodTemplate(...)"),
    ({"template": PodTemplate(containerDiskInGb=100), "cpu": "cpu3c-1-2"},
     "template.containerDiskInGb=100: cpu3c-1-2 has at most 10 GB"),
    ({"min_cuda_version": 12.4}, 'min_cuda_version=12.4: a CudaVersion or a text, such as "12.4"'),
    ({"min_cuda_version": "9"}, f"min_cuda_version: '9' is not a CudaVersion. Allowed: {CUDAS}."),
    ({"max_concurrency": 0}, "max_concurrency=0: must be >= 1"),
    ({"python_version": "3.9"}, "python_version='3.9': workers run Python 3.10, 3.11, 3.12, 3.13"),
    ({"python_version": 3.12}, 'python_version=3.12: give it as text, such as "3.12"'),
    ({"name": len}, "@Endpoint above len: write @Endpoint(), with parentheses"),
    ({"max_attempts": 0}, "max_attempts=0: must be >= 1"),
    ({"restartable": None}, "restartable=None: True or False"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "on_start: write @on_start above a function, without parentheses"),
        ((5,), "on_start: write @on_start above a function, without parentheses"),
        (
            (refuse,),
            "@on_start above refuse: missing a required argument: 'parameter', but workers call "
            "it without any",
        ),
    ],
)
def test_on_start_is_for_what_can_be_called_without_arguments(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        on_start(*given)
    assert str(refused.value) == said


@pytest.mark.parametrize(("given", "attribute", "expected"), RIGHT)
def test_a_right_value_is_taken(given: dict[str, Any], attribute: str, expected: object) -> None:
    assert getattr(Endpoint(**given), attribute) == expected


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_a_wrong_value_is_refused_with_parameter_value_and_what_is_allowed(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$") as caught:
        Endpoint(**given)
    assert type(caught.value) is ConfigurationError


def test_every_parameter_is_tried_with_right_values_and_with_wrong_ones() -> None:
    declared = set(PARAMETERS)
    assert {key for given, _, _ in RIGHT for key in given} == declared
    assert {key for given, _ in WRONG for key in given} == declared - {"env"}


def test_a_dependency_that_is_no_requirement_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"^dependencies='numpy=>1': not a requirement: "):
        Endpoint(dependencies=["torch", "numpy=>1"])


SECRET = "hf_secret"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ([{"key": "TOKEN", "value": SECRET}],
         'env is of type list: a dictionary of texts, such as {"LEVEL": "debug"}'),
        (f"TOKEN={SECRET}",
         'env is of type str: a dictionary of texts, such as {"LEVEL": "debug"}'),
        ({f"TOKEN={SECRET}": ""}, "env='TOKEN': a variable's name is a text without '='"),
        ({"": SECRET}, "env='': a variable's name is a text without '='"),
        ({3: SECRET}, "env: a variable's name is of type int: names are texts (str)"),
        ({"TOKEN": [SECRET]}, "env['TOKEN'] is of type list: values are texts (str)"),
        ({"TOKEN": f"{SECRET}\0"}, "env['TOKEN'] holds a NUL character, which no variable can"),
    ],
)  # fmt: skip
def test_a_wrong_env_is_refused_and_its_values_are_never_shown(env: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$") as caught:
        Endpoint(env=env)
    assert SECRET not in str(caught.value)


def test_the_repr_of_an_endpoint_shows_no_value_of_its_variables() -> None:
    endpoint = Endpoint(name="x", env={"TOKEN": SECRET})
    assert repr(endpoint) == "Endpoint('x', gpu, workers=(0, 1))"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 1}, "Endpoint has no parameter 'gpus'. Did you mean 'gpu'?"),
        ({"idleTimeout": 1}, "Endpoint has no parameter 'idleTimeout'. "
         "Did you mean 'idle_timeout'?"),
        ({"worker": 1, "zzz": 2}, "Endpoint has no parameter 'worker'. Did you mean 'workers'? "
         "Endpoint has no parameter 'zzz'."),
    ],
)  # fmt: skip
def test_an_unknown_parameter_is_a_type_error_with_the_near_one(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Endpoint(**given)


def test_only_the_name_may_be_positional() -> None:
    assert Endpoint("resize").name == "resize"
    with pytest.raises(TypeError, match="positional"):
        Endpoint("resize", "abc")  # type: ignore[call-arg]


def test_a_template_of_a_server_is_not_available_yet() -> None:
    with pytest.raises(NotAvailableError, match=r"PodTemplate\(id=...\) names a template of a"):
        Endpoint(template=PodTemplate(id="t1"))


def test_lists_and_dictionaries_are_copied_so_that_later_changes_have_no_effect() -> None:
    dependencies, env = ["numpy"], {"A": "1"}
    endpoint = Endpoint(dependencies=dependencies, env=env)
    dependencies.append("torch")
    env["A"] = "2"
    assert (endpoint.dependencies, endpoint.env) == (["numpy"], {"A": "1"})


@pytest.mark.parametrize("text", ["", "  ", "numpy !! 2", "numpy>=", "a b c", "six\nnumpy", 17])
def test_a_dependency_that_is_no_requirement_is_refused_with_its_text(text: Any) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Endpoint(name="x", dependencies=[text])
    assert repr(text) in str(refusal.value)
