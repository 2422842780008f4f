"""Checks the parameters of `Endpoint` where they are given."""

from __future__ import annotations

from runpod_flash import context
from runpod_flash.errors import ConfigurationError, NotAvailableError
from runpod_flash.hardware import (
    CPU_DATACENTERS,
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    GpuGroup,
    GpuType,
)
from runpod_flash.scaling import LEARNED, ServerlessScalerType

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn, TypeVar

    from runpod_flash.endpoint import Endpoint
    from runpod_flash.spec import Container
    from runpod_flash.suggest import SuggestingEnum
    from runpod_flash.template import PodTemplate
    from runpod_flash.volume import NetworkVolume

    E = TypeVar("E", bound=SuggestingEnum)

PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
IDLE_TIMEOUT = (1, 3600)
# Workers, their tokens and their folders have names that begin with it.
_LONGEST_NAME = 80


def refuse(parameter: str, value: Any, allowed: str) -> ConfigurationError:
    """The error for a wrong value; the message names parameter, value and what is allowed."""
    return ConfigurationError(f"{parameter}={value!r}: {allowed}")


def refuse_unknown(owner: str, given: Iterable[str], allowed: Sequence[str]) -> NoReturn:
    """Raise the `TypeError` that names every parameter that `owner` does not have."""
    from runpod_flash.suggest import did_you_mean

    hints = [f"{owner} has no parameter {n!r}.{did_you_mean(n, allowed)}" for n in given]
    raise TypeError(" ".join(hints))


def check_decorated(target: Any) -> None:
    if not callable(target) or not hasattr(target, "__qualname__"):
        raise TypeError(f"an Endpoint decorates a function or a class, not {target!r}")
    if hasattr(target, "__flash_target__"):
        raise ConfigurationError(f"{target.__qualname__} is decorated by an Endpoint already")


def exclusive(first: str, given_first: bool, second: str, given_second: bool, why: str) -> None:
    if given_first and given_second:
        raise ConfigurationError(f"{first}= and {second}= are mutually exclusive: {why}")


def parse_text(parameter: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise refuse(parameter, value, "a text that is not empty")
    return None if value is None else str(value)


def parse_name(name: Any) -> str | None:
    if name is None:
        return None
    if callable(name):
        what = getattr(name, "__qualname__", repr(name))
        raise ConfigurationError(f"@Endpoint above {what}: write @Endpoint(), with parentheses")
    if not isinstance(name, str) or not name.removesuffix("-fb").strip():
        raise refuse("name", name, "an endpoint's name is a text that is not empty")
    if not name.isprintable() or set(name) & set("/\\"):
        raise refuse("name", name, "a name has no slashes and no control characters")
    if len(name) > _LONGEST_NAME:
        raise refuse("name", name, f"a name has {_LONGEST_NAME} characters at most")
    return name.removesuffix("-fb")


def _member(parameter: str, kind: type[E], value: Any) -> E:
    try:
        return kind(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{parameter}: {error}") from None


def parse_gpus(gpu: Any) -> list[GpuGroup | GpuType]:
    given = list(gpu) if isinstance(gpu, (list, tuple)) else [gpu]
    if not given:
        raise refuse("gpu", gpu, "name at least one GpuType or GpuGroup")
    for item in given:
        if not isinstance(item, (GpuGroup, GpuType)):
            raise refuse("gpu", item, _gpu_hint(item))
    return given


def _gpu_hint(item: object) -> str:
    from runpod_flash.suggest import near

    text = "give a GpuType or a GpuGroup (or a list of them), such as GpuType.NVIDIA_L4"
    if isinstance(item, str):
        kinds: tuple[type[GpuGroup] | type[GpuType], ...] = (GpuGroup, GpuType)
        written = {m.name: f"{kind.__name__}.{m.name}" for kind in kinds for m in kind}
        name = item.removeprefix("GpuType.").removeprefix("GpuGroup.")
        for found in near(name, written, 1):
            text += f". Did you mean {written[found]}?"
    return text


def parse_cpus(cpu: Any) -> list[CpuInstanceType]:
    given = list(cpu) if isinstance(cpu, (list, tuple)) else [cpu]
    if not given:
        raise refuse("cpu", cpu, "name at least one CpuInstanceType")
    for item in given:
        if not isinstance(item, str):
            raise refuse("cpu", item, 'give a CpuInstanceType or its name, such as "cpu3c-1-2"')
    return [_member("cpu", CpuInstanceType, item) for item in given]


def parse_count(parameter: str, value: Any, low: int, high: int | None = None) -> int:
    bounds = f"a whole number from {low}" + (f" to {high}" if high is not None else " up")
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse(parameter, value, bounds)
    if value < low or (high is not None and value > high):
        raise refuse(parameter, value, f"must be >= {low}" if high is None else bounds)
    return value


def parse_idle_timeout(value: Any) -> int | str:
    if value == LEARNED:
        return LEARNED
    if isinstance(value, str):
        low, high = IDLE_TIMEOUT
        raise refuse("idle_timeout", value, f"a whole number from {low} to {high}, or {LEARNED!r}")
    return parse_count("idle_timeout", value, *IDLE_TIMEOUT)


def parse_flag(parameter: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise refuse(parameter, value, "True or False")
    return value


def parse_texts(parameter: str, value: Any, example: str) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise refuse(parameter, value, f"a list of texts, such as [{example!r}]")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise refuse(parameter, item, f"each entry is a text, such as {example!r}")
    return list(value)


def parse_dependencies(value: Any) -> list[str] | None:
    found = parse_texts("dependencies", value, "numpy>=1.26")
    # A worker imports the declaration again, without the packages that a check needs.
    if found and context.current is None:
        from packaging.requirements import InvalidRequirement, Requirement

        for item in found:
            # Paths and URLs without a name are uv's to judge.
            if item.startswith(("-", ".", "/", "git+")) or "://" in item:
                continue
            try:
                Requirement(item)
            except InvalidRequirement as error:
                reason = str(error).splitlines()[0]
                text = f"not a requirement: {reason}; write it as in 'numpy>=1.26'"
                raise refuse("dependencies", item, text) from None
    return found


def parse_env(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _env_error("env", value, 'a dictionary of texts, such as {"LEVEL": "debug"}')
    for key, item in value.items():
        if not isinstance(key, str):
            raise _env_error("env: a variable's name", key, "names are texts (str)")
        if not key or "=" in key or "\0" in key:
            raise refuse("env", key.partition("=")[0], "a variable's name is a text without '='")
        if not isinstance(item, str):
            raise _env_error(f"env[{key!r}]", item, "values are texts (str)")
        if "\0" in item:
            raise ConfigurationError(f"env[{key!r}] holds a NUL character, which no variable can")
    return dict(value)


def _env_error(what: str, value: Any, allowed: str) -> ConfigurationError:
    """Says the type only: the value may be a secret."""
    return ConfigurationError(f"{what} is of type {type(value).__name__}: {allowed}")


def parse_volumes(value: Any) -> list[NetworkVolume] | None:
    from runpod_flash.volume import NetworkVolume

    if value is None:
        return None
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    if not given:
        raise refuse("volume", value, "the volume list must not be empty")
    for index, item in enumerate(given):
        if not isinstance(item, NetworkVolume):
            where = f"volume[{index}]" if isinstance(value, (list, tuple)) else "volume"
            kind = type(item).__name__
            raise ConfigurationError(f"{where} is of type {kind}: give a NetworkVolume(...)")
    places = [item.dataCenterId for item in given]
    for place in places:
        if places.count(place) > 1:
            raise ConfigurationError(f"volume: two volumes in {place.value}; one per data center")
    return given


def parse_datacenters(value: Any) -> list[DataCenter] | None:
    if value is None:
        return None
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    if not given:
        raise refuse("datacenter", value, "name at least one data center")
    for item in given:
        if not isinstance(item, str):
            raise refuse("datacenter", item, 'a DataCenter or its id, such as "EU-RO-1"')
    try:
        return [DataCenter.from_string(item) for item in given]
    except ConfigurationError as error:
        raise ConfigurationError(f"datacenter: {error}") from None


def check_places(
    volumes: Sequence[NetworkVolume] | None, places: Sequence[DataCenter] | None, is_cpu: bool
) -> None:
    for place in places or ():
        if is_cpu and place not in CPU_DATACENTERS:
            allowed = ", ".join(sorted(d.value for d in CPU_DATACENTERS))
            raise refuse("datacenter", place.value, f"CPU endpoints run in {allowed}")
    for volume in volumes or ():
        if places and volume.dataCenterId not in places:
            raise ConfigurationError(
                f"volume: {volume.mount_name!r} is in {volume.dataCenterId.value}, "
                "which datacenter= does not list"
            )


def parse_cuda(value: Any) -> CudaVersion | None:
    if value is None:
        return None
    if not isinstance(value, (str, CudaVersion)):
        raise refuse("min_cuda_version", value, 'a CudaVersion or a text, such as "12.4"')
    return _member("min_cuda_version", CudaVersion, value)


def parse_scaler(value: Any) -> ServerlessScalerType | None:
    return None if value is None else _member("scaler_type", ServerlessScalerType, value)


def parse_scaler_value(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise refuse("scaler_value", value, "seconds or jobs, more than 0")
    if not 0 < value < float("inf"):
        raise refuse("scaler_value", value, "seconds or jobs, more than 0")
    return value


def parse_python(value: Any) -> str | None:
    if isinstance(value, (int, float)):
        raise refuse("python_version", value, 'give it as text, such as "3.12"')
    if value is not None and value not in PYTHON_VERSIONS:
        allowed = ", ".join(PYTHON_VERSIONS)
        raise refuse("python_version", value, f"workers run Python {allowed}")
    return value if value is None else str(value)


def parse_template(value: Any, cpus: Sequence[CpuInstanceType]) -> PodTemplate | None:
    """A pod template; `container_of` reads what it says of containers."""
    from runpod_flash.hardware import max_container_disk_gb
    from runpod_flash.template import PodTemplate

    if value is None:
        return None
    if not isinstance(value, PodTemplate):
        raise refuse("template", value, "a PodTemplate(...)")
    if value.id is not None:
        raise NotAvailableError(
            "template: PodTemplate(id=...) names a template of a server, which this version does "
            "not have yet; give its fields instead"
        )
    disk: Any = value.containerDiskInGb
    if cpus and value.disk_declared and disk > max_container_disk_gb(cpus):
        limit = max_container_disk_gb(cpus)
        raise refuse("template.containerDiskInGb", disk, f"{cpus[0].value} has at most {limit} GB")
    return value


def parse_container(image: str | None, template: PodTemplate | None) -> Container | None:
    if image is None and template is None:
        return None
    from runpod_flash.container import container_of

    return container_of(image, template)


def check_image(endpoint: Endpoint, image: str) -> None:
    """Refuse what an endpoint with an image cannot have besides."""
    if endpoint.name is None and endpoint.id is None:
        raise ConfigurationError("image= needs a name= for the endpoint")
    if endpoint.id is not None:
        raise ConfigurationError("id= and template.imageName are mutually exclusive")
    for name in ("dependencies", "system_dependencies", "python_version"):
        if getattr(endpoint, name):
            raise ConfigurationError(
                f"{name}= is for workers without an image: {image!r} brings its own Python and "
                "packages; build them into it"
            )
