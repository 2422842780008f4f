"""The deprecated names of the hosted SDK: `remote` and its resource classes, as `Endpoint`s.

Field names are camelCase because programs write them so.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from runpod_flash import declaration as check
from runpod_flash.endpoint import Endpoint
from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import CpuInstanceType, CudaVersion, GpuGroup
from runpod_flash.scaling import ServerlessType
from runpod_flash.unavailable import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from runpod_flash.hardware import DataCenter, GpuType
    from runpod_flash.scaling import ServerlessScalerType
    from runpod_flash.template import PodTemplate
    from runpod_flash.volume import NetworkVolume

_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
_FLASH_IMAGES = "runpod/flash"


def warn_deprecated(name: str) -> None:
    """Warn at the line that names `runpod_flash.<name>`; the package calls this once for each."""
    # 3: this function, the package's __getattr__, then the user. (The frames of an import
    # statement itself are not counted.)
    warnings.warn(
        f"runpod_flash.{name} is deprecated. Use runpod_flash.Endpoint instead.",
        DeprecationWarning,
        stacklevel=3,
    )


def _unavailable(what: str) -> Callable[..., NoReturn]:
    def method(self: _Resource, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(f"{type(self).__name__}.{what}")

    method.__doc__ = "Needs a server: not available yet."
    return method


class _Resource:
    """A declaration with the fields of the hosted SDK; `endpoint()` is what it means.

    Allowed CUDA versions are taken as the least of them. Raises `ConfigurationError` (a
    `ValueError`) for a wrong value, `TypeError` for an unknown field, and `NotAvailableError` for
    what needs a server.
    """

    _live = True
    _cpu = False
    _type = ServerlessType.QB

    def __init__(
        self,
        *,
        name: str,
        gpus: Sequence[GpuGroup | GpuType] | None = None,
        gpuCount: int = 1,
        gpuIds: str | None = None,
        instanceIds: Sequence[CpuInstanceType | str] | None = None,
        workersMin: int = 0,
        workersMax: int = 1,
        workersPFBTarget: int = 0,
        idleTimeout: int = 60,
        executionTimeoutMs: int = 0,
        scalerType: ServerlessScalerType | str | None = None,
        scalerValue: float = 4,
        flashboot: bool = True,
        env: dict[str, str] | None = None,
        imageName: str = "",
        template: PodTemplate | None = None,
        templateId: str | None = None,
        networkVolume: NetworkVolume | None = None,
        networkVolumes: list[NetworkVolume] | None = None,
        networkVolumeId: str | None = None,
        datacenter: DataCenter | str | Sequence[DataCenter | str] | None = None,
        locations: str | None = None,
        cudaVersions: Sequence[CudaVersion | str] = (),
        allowedCudaVersions: str | None = None,
        minCudaVersion: CudaVersion | str | None = CudaVersion.V12_8,
        python_version: str | None = None,
        type: ServerlessType | str | None = None,  # noqa: A002 - the field's public name
        **unknown: NoReturn,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in FIELDS}
        if unknown:
            check.refuse_unknown(self.__class__.__name__, unknown, FIELDS)
        self._given = given
        vars(self).update(given, type=self._type)
        self._check_available()
        self._shared = self.endpoint()
        self.name = self._shared.name
        self.gpus = self._shared._gpus
        self.instanceIds = self._shared._cpus or None
        self.scalerType = self._shared.scaler_type

    def _check_available(self) -> None:
        kind = type(self).__name__
        for field in ("templateId", "workersPFBTarget"):
            if self._given[field]:
                refuse(f"{kind}: {field}={self._given[field]!r}")
        if not self._live and not self._given["imageName"] and self._given["template"] is None:
            raise ConfigurationError(
                f"{kind}: Either imageName, template, or templateId must be provided"
            )

    def endpoint(self, **more: Any) -> Endpoint:
        """The `Endpoint` that this declares, and `more` of its parameters."""
        try:
            return Endpoint(**self._options(), **more)
        except ConfigurationError as error:
            text = re.sub("^[a-z_]+", lambda m: _FIELD_OF.get(m[0], m[0]), str(error))
            raise ConfigurationError(f"{type(self).__name__}: {text}") from None

    def _options(self) -> dict[str, Any]:
        given = self._given
        if given["name"] is None:
            raise ConfigurationError("name is required")
        if given["type"] is not None and ServerlessType(given["type"]) is not self._type:
            raise check.refuse("type", given["type"], f"this class is {self._type.value}")
        return {
            **{ours: given[field] for field, ours in _SAME.items()},
            **self._hardware(),
            "image": self._image(),
            "workers": (given["workersMin"], given["workersMax"]),
            "volume": self._volume(),
            "datacenter": self._datacenter(),
            "min_cuda_version": self._least_cuda(),
        }

    def _image(self) -> str | None:
        """What the hosted service needs for functions, its own images, are none here."""
        name = self._given["imageName"]
        return None if self._live and str(name).startswith(_FLASH_IMAGES) else name or None

    def _hardware(self) -> dict[str, Any]:
        gpus, ids, cpus = (self._given[field] for field in ("gpus", "gpuIds", "instanceIds"))
        check.exclusive("gpus", gpus is not None, "gpuIds", ids is not None, "give one of them")
        if ids is not None:
            gpus = GpuGroup.from_gpu_ids_str(ids)
        if self._cpu and gpus is not None:
            raise ConfigurationError("gpus=: this class runs on CPUs")
        if self._cpu and cpus is None:
            cpus = [CpuInstanceType.CPU3G_2_8]
        return {"gpu": gpus, "cpu": cpus}

    def _volume(self) -> Any:
        from runpod_flash.volume import NetworkVolume

        names = ("networkVolume", "networkVolumes", "networkVolumeId")
        found = [name for name in names if self._given[name] is not None]
        if len(found) > 1:
            raise ConfigurationError(f"give one of {', '.join(f'{n}=' for n in found)}")
        if found == ["networkVolumeId"]:
            return NetworkVolume(id=self._given["networkVolumeId"])
        return self._given[found[0]] if found else None

    def _datacenter(self) -> Any:
        given, listed = self._given["datacenter"], self._given["locations"]
        check.exclusive(
            "datacenter", given is not None, "locations", listed is not None, "give one of them"
        )
        return given if listed is None else _split(listed)

    def _least_cuda(self) -> CudaVersion | None:
        listed = _split(self._given["allowedCudaVersions"] or "")
        versions = [CudaVersion(v) for v in (*self._given["cudaVersions"], *listed)]
        if not versions:
            return check.parse_cuda(self._given["minCudaVersion"])
        return min(versions, key=lambda v: [int(part) for part in v.value.split(".")])

    deploy = _unavailable("deploy()")
    undeploy = _unavailable("undeploy()")
    update = _unavailable("update()")
    run = _unavailable("run()")
    runsync = _unavailable("runsync()")
    is_deployed = _unavailable("is_deployed()")
    url = property(_unavailable("url"))
    endpoint_url = property(_unavailable("endpoint_url"))

    def get_resource_key(self) -> str:
        """The class and the name."""
        return f"{type(self).__name__}:{self.name}"

    @property
    def config_hash(self) -> str:
        """A digest of what was declared; values of environment variables have no part in it."""
        import hashlib

        declared = {**self._given, "env": sorted(self._given["env"] or ())}
        return hashlib.md5(repr(declared).encode(), usedforsecurity=False).hexdigest()

    @property
    def resource_id(self) -> str:
        """The class and the digest."""
        return f"{type(self).__name__}_{self.config_hash}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    if TYPE_CHECKING:

        def __getattr__(self, field: str) -> Any: ...


_code = _Resource.__init__.__code__
FIELDS = _code.co_varnames[1 : 1 + _code.co_kwonlyargcount]

# The fields that Endpoint has under another name only.
_SAME = {
    "name": "name",
    "gpuCount": "gpu_count",
    "idleTimeout": "idle_timeout",
    "executionTimeoutMs": "execution_timeout_ms",
    "scalerType": "scaler_type",
    "scalerValue": "scaler_value",
    "flashboot": "flashboot",
    "env": "env",
    "template": "template",
    "python_version": "python_version",
}
_FIELD_OF = {
    **{ours: field for field, ours in _SAME.items()},
    "gpu": "gpus",
    "cpu": "instanceIds",
    "workers": "workersMin, workersMax",
    "volume": "networkVolume",
    "min_cuda_version": "minCudaVersion",
    "image": "imageName",
}


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class LiveServerless(_Resource):
    """A queue on GPU workers. Deprecated: use `Endpoint(gpu=...)`."""


class CpuLiveServerless(_Resource):
    """A queue on CPU workers. Deprecated: use `Endpoint(cpu=...)`."""

    _cpu = True


class LiveLoadBalancer(_Resource):
    """Routes on GPU workers. Deprecated: use `Endpoint(gpu=...)` and its `get`, `post`..."""

    _type = ServerlessType.LB


class CpuLiveLoadBalancer(LiveLoadBalancer):
    """Routes on CPU workers. Deprecated: use `Endpoint(cpu=...)` and its `get`, `post`..."""

    _cpu = True


class ServerlessEndpoint(_Resource):
    """A queue on GPU workers of an image. Deprecated: use `Endpoint(image=...)`."""

    _live = False


class CpuServerlessEndpoint(ServerlessEndpoint):
    """A queue on CPU workers of an image. Deprecated: use `Endpoint(image=..., cpu=...)`."""

    _cpu = True


class LoadBalancerSlsResource(LiveLoadBalancer):
    """Routes on GPU workers of an image. Deprecated: use `Endpoint(image=...)`."""

    _live = False


class CpuLoadBalancerSlsResource(LoadBalancerSlsResource):
    """Routes on CPU workers of an image. Deprecated: use `Endpoint(image=..., cpu=...)`."""

    _cpu = True


def remote(
    resource_config: _Resource,
    dependencies: list[str] | None = None,
    system_dependencies: list[str] | None = None,
    accelerate_downloads: bool = True,
    local: bool = False,
    method: str | None = None,
    path: str | None = None,
    **unknown: NoReturn,
) -> Callable[[Any], Any]:
    """Decorate a function or class like `Endpoint` does. Deprecated: use `Endpoint`.

    On a load-balanced resource `method` and `path` declare a route, and the function is returned
    unchanged. With `local` the object is returned as it is, with `__flash_local__` set. Raises
    `ConfigurationError` (a `ValueError`) for a wrong value, `TypeError` for an unknown parameter.
    """
    if unknown:
        check.refuse_unknown("remote", unknown, _PARAMETERS)
    if not isinstance(resource_config, _Resource):
        raise check.refuse("resource_config", resource_config, "such as LiveServerless(name=...)")
    more = {
        "dependencies": check.parse_dependencies(dependencies),
        "system_dependencies": check.parse_texts(
            "system_dependencies", system_dependencies, "ffmpeg"
        ),
        "accelerate_downloads": check.parse_flag("accelerate_downloads", accelerate_downloads),
    }
    if check.parse_flag("local", local):
        return _local
    if resource_config._type is ServerlessType.LB:
        return _route(resource_config, more, method, path)
    if method is not None or path is not None:
        warnings.warn(
            "remote: method= and path= have no effect on a queue; use a load-balanced resource",
            stacklevel=2,
        )
    return _queued(resource_config, more)


_PARAMETERS = remote.__code__.co_varnames[: remote.__code__.co_argcount]


def _local(target: Any) -> Any:
    target.__flash_local__ = True
    return target


def _queued(resource: _Resource, more: dict[str, Any]) -> Callable[[Any], Any]:
    endpoint = resource.endpoint(**more)

    def decorate(target: Any) -> Any:
        decorated = endpoint(target)
        if decorated is not target:
            decorated.__remote_config__["resource_config"] = resource
        return decorated

    return decorate


def _route(
    resource: _Resource, more: dict[str, Any], method: str | None, path: str | None
) -> Callable[[Any], Any]:
    """A route of the endpoint that all routes of the resource share, their packages included."""
    if method is None or path is None:
        raise ConfigurationError(
            f"remote: {resource!r} is load-balanced: give method= and path= of the route"
        )
    if method not in _METHODS:
        raise check.refuse("method", method, f"one of {', '.join(_METHODS)}")
    endpoint = resource._shared
    register = endpoint._route(method, path, None, {})

    def decorate(function: Any) -> Any:
        found = register(function)
        function.__remote_config__["resource_config"] = resource
        _extend(endpoint, more)
        return found

    return decorate


def _extend(endpoint: Endpoint, more: dict[str, Any]) -> None:
    for field in ("dependencies", "system_dependencies"):
        listed = [*(getattr(endpoint, field) or ()), *(more[field] or ())]
        setattr(endpoint, field, list(dict.fromkeys(listed)) or None)
    endpoint.accelerate_downloads &= more["accelerate_downloads"]
