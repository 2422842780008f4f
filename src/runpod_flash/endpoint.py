"""Endpoint: declares where a function or class runs, and decorates it."""

# ruff does not see that the `overload` below is the one of typing:
# ruff: noqa: F811

from __future__ import annotations

from runpod_flash import declaration as check
from runpod_flash.dotenv import load_dotenv_once
from runpod_flash.errors import ConfigurationError, NotAvailableError
from runpod_flash.hardware import CudaVersion, GpuGroup
from runpod_flash.project.absent_packages import expect_absent_packages
from runpod_flash.scaling import ServerlessScalerType, parse_workers

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from typing import Any, Literal, NoReturn, ParamSpec, TypeVar, overload

    from runpod_flash.functions import (
        EndpointFunction,
        EndpointGenerator,
        RouteOrRequest,
        Target,
    )
    from runpod_flash.hardware import CpuInstanceType, DataCenter, GpuType
    from runpod_flash.job import EndpointJob
    from runpod_flash.spec import EndpointSpec, Entry
    from runpod_flash.template import PodTemplate
    from runpod_flash.volume import NetworkVolume

    P = ParamSpec("P")
    R = TypeVar("R")
    C = TypeVar("C")
    F = TypeVar("F", bound=Callable[..., Any])
else:

    def overload(signature: object) -> object:
        return signature


# Programs rely on it: what `.env` sets is there once Endpoint is imported.
load_dotenv_once()
expect_absent_packages()


def declared_at() -> tuple[str, int]:
    """The file and line of the code that makes an `Endpoint` now."""
    import sys

    frame = sys._getframe(1)
    while frame.f_code.co_name == "__init__" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


class Endpoint:
    """Workers that run a function or class on the hardware that it needs.

        @Endpoint(name="resize", cpu="cpu3c-1-2", workers=(0, 3), dependencies=["pillow"])
        async def resize(image: bytes, width: int) -> bytes: ...

    Args:
        name: the endpoint's name; by default the function's or class's own.
        id: an existing endpoint on a server, to call as a client.
        gpu: one `GpuType` or `GpuGroup`, or a list in order of preference. Any GPU by default.
        cpu: one `CpuInstanceType` or its name, or a list: no GPU. Not together with `gpu`.
        workers: how many may run, `(min, max)` or the maximum. `(0, 1)` by default.
        idle_timeout: seconds an idle worker is kept, 1 to 3600; "learned" goes by past idle times.
        dependencies: pip requirements of the worker's environment.
        system_dependencies: Debian packages that must be installed.
        accelerate_downloads: fetch packages and models with parallel connections.
        volume: a `NetworkVolume`, seen at `/runpod-volume`, or a list, one per data center.
        datacenter: where workers may run; one or a list.
        env: the worker's environment variables. No change of them rebuilds anything.
        gpu_count: GPUs of a worker.
        execution_timeout_ms: how long a job may run, in milliseconds; 0 for no limit.
        flashboot: have workers go on from a process that has imported the module (docs/workers.md),
            and keep compiled code; False imports it anew in each.
        image: a container image: what it runs is called by `run` or `post`, or is the place where
            the decorated function runs.
        scaler_type: `QUEUE_DELAY` (seconds a job may wait) or `REQUEST_COUNT` (jobs per worker).
        scaler_value: the scaler's seconds or jobs.
        template: a `PodTemplate`; variables of its `env` count where `env` does not set them.
        min_cuda_version: the least CUDA version that a GPU's driver must support.
        max_concurrency: jobs that a worker runs at once.
        python_version: "3.10" to "3.13"; by default the caller's where workers can run it.
        max_attempts: how many workers a job may lose before it fails; 1 means at most once.
        restartable: whether a stream that has begun may be run again.

    Raises `ConfigurationError` (a `ValueError`) that names the parameter, the value and what is
    allowed.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        id: str | None = None,
        gpu: GpuGroup | GpuType | Sequence[GpuGroup | GpuType] | None = None,
        cpu: str | CpuInstanceType | Sequence[str | CpuInstanceType] | None = None,
        workers: int | tuple[int, int] | list[int] | None = None,
        idle_timeout: int | Literal["learned"] = 60,
        dependencies: list[str] | None = None,
        system_dependencies: list[str] | None = None,
        accelerate_downloads: bool = True,
        volume: NetworkVolume | list[NetworkVolume] | None = None,
        datacenter: DataCenter | str | Sequence[DataCenter | str] | None = None,
        env: dict[str, str] | None = None,
        gpu_count: int = 1,
        execution_timeout_ms: int = 0,
        flashboot: bool = True,
        image: str | None = None,
        scaler_type: ServerlessScalerType | None = None,
        scaler_value: float = 4,
        template: PodTemplate | None = None,
        min_cuda_version: CudaVersion | str | None = CudaVersion.V12_8,
        max_concurrency: int = 1,
        python_version: str | None = None,
        max_attempts: int = 2,
        restartable: bool = False,
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            check.refuse_unknown("Endpoint", unknown, PARAMETERS)
        check.exclusive(
            "id", id is not None, "image", image is not None,
            "id= connects to an existing endpoint, image= deploys a new one",
        )  # fmt: skip
        self.name = check.parse_name(name)
        self.id = check.parse_text("id", id)
        self.image = check.parse_text("image", image)
        self._declare_hardware(gpu, cpu, gpu_count, min_cuda_version)
        self._declare_scaling(workers, idle_timeout, scaler_type, scaler_value)
        self._declare_packages(dependencies, system_dependencies, python_version)
        self.volume = check.parse_volumes(volume)
        self.datacenter = check.parse_datacenters(datacenter)
        check.check_places(self.volume, self.datacenter, self.is_cpu)
        self.env = check.parse_env(env)
        self.accelerate_downloads = check.parse_flag("accelerate_downloads", accelerate_downloads)
        self.flashboot = check.parse_flag("flashboot", flashboot)
        self._declare_jobs(execution_timeout_ms, max_concurrency, max_attempts, restartable)
        self._declare_container(template)
        self._place = declared_at() if self._container is not None else ("", 0)
        self._routes: list[dict[str, Any]] = []
        self._lifespan: Callable[..., Any] | None = None
        self._target: Target | None = None

    def _declare_hardware(self, gpu: Any, cpu: Any, gpu_count: Any, min_cuda_version: Any) -> None:
        check.exclusive("gpu", gpu is not None, "cpu", cpu is not None, "give one or neither")
        self._cpus = [] if cpu is None else check.parse_cpus(cpu)
        self._gpus = self._parse_gpus(gpu)
        self.gpu_count = check.parse_count("gpu_count", gpu_count, 1)
        self.min_cuda_version = check.parse_cuda(min_cuda_version)

    def _declare_scaling(
        self, workers: Any, idle_timeout: Any, scaler_type: Any, scaler_value: Any
    ) -> None:
        self.workers_min, self.workers_max = parse_workers(workers)
        self.idle_timeout = check.parse_idle_timeout(idle_timeout)
        self._scaler_type = check.parse_scaler(scaler_type)
        self.scaler_value = check.parse_scaler_value(scaler_value)

    def _declare_packages(
        self, dependencies: Any, system_dependencies: Any, python_version: Any
    ) -> None:
        self.dependencies = check.parse_dependencies(dependencies)
        self.system_dependencies = check.parse_texts(
            "system_dependencies", system_dependencies, "ffmpeg"
        )
        self.python_version = check.parse_python(python_version)

    def _declare_jobs(
        self,
        execution_timeout_ms: Any,
        max_concurrency: Any,
        max_attempts: Any,
        restartable: Any,
    ) -> None:
        self.execution_timeout_ms = check.parse_count(
            "execution_timeout_ms", execution_timeout_ms, 0
        )
        self._max_concurrency = check.parse_count("max_concurrency", max_concurrency, 1)
        self.max_attempts = check.parse_count("max_attempts", max_attempts, 1)
        self.restartable = check.parse_flag("restartable", restartable)

    def _declare_container(self, template: Any) -> None:
        self.template = check.parse_template(template, self._cpus)
        self._container = check.parse_container(self.image, self.template)
        if self._container is not None:
            self.image = self._container.image
            check.check_image(self, self.image)

    def _parse_gpus(self, gpu: object) -> list[GpuGroup | GpuType]:
        if gpu is not None:
            return check.parse_gpus(gpu)
        return [] if self._cpus or self.id is not None else [GpuGroup.ANY]

    # What it is

    @property
    def is_cpu(self) -> bool:
        """Whether its workers have no GPU."""
        return bool(self._cpus)

    @property
    def is_client(self) -> bool:
        """Whether this calls what is there already, a server's endpoint or an image's program."""
        return self.id is not None or (self.image is not None and not self._decorates)

    @property
    def _decorates(self) -> bool:
        return self._target is not None and self._target.endpoint is self

    @property
    def is_load_balanced(self) -> bool:
        """Whether it has routes."""
        return bool(self._routes)

    @property
    def max_concurrency(self) -> int:
        """Jobs that a worker runs at once."""
        return self._max_concurrency

    @property
    def scaler_type(self) -> ServerlessScalerType:
        """What was given; otherwise the one for a queue, or for routes once there are any."""
        if self._scaler_type is not None:
            return self._scaler_type
        if self._routes:
            return ServerlessScalerType.REQUEST_COUNT
        return ServerlessScalerType.QUEUE_DELAY

    def __repr__(self) -> str:
        where = "cpu" if self.is_cpu else "gpu"
        return f"Endpoint({self.name or self.id!r}, {where}, workers={self._bounds()})"

    def _bounds(self) -> tuple[int, int]:
        return self.workers_min, self.workers_max

    # Decorating

    @overload
    def __call__(self, target: type[C]) -> type[C]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, AsyncIterator[R]]) -> EndpointGenerator[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Iterator[R]]) -> EndpointGenerator[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, R]]) -> EndpointFunction[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, R]) -> EndpointFunction[P, R]: ...
    def __call__(self, target: Any) -> Any:
        """Make a function or class run on this endpoint's workers.

        The result of a function is awaited: `await fn(x)`; `fn.call(x)` waits in plain code,
        `fn.run(x)` gives an `EndpointJob`. Generators are iterated: `async for y in fn(x)`.
        Of a class, every public method of its instances is called so.
        """
        from runpod_flash import functions

        if self.id is not None:
            raise ConfigurationError("an Endpoint with id= is a client: it cannot decorate")
        if self._routes:
            raise ConfigurationError(
                f"endpoint {self.name!r} has routes: it cannot decorate a function as well"
            )
        check.check_decorated(target)
        if self.name is None:
            self.name = check.parse_name(target.__name__)
        self._target = functions.Target(self, target)
        return functions.decorated(self._target)

    def spec_of(self, entry: Entry, code: str) -> EndpointSpec:
        """The spec of this declaration for one function or class."""
        from runpod_flash.declared_spec import spec_of

        return spec_of(self, entry, code)

    @property
    def worker_env(self) -> dict[str, str]:
        """The variables of the workers: the template's, and over them the endpoint's own."""
        given = self.template.env if self.template else []
        return {**{pair.key: pair.value for pair in given}, **(self.env or {})}

    # Routes

    def get(self, path: str, data: Any = None, **options: Any) -> RouteOrRequest:
        """Declare a GET route; on a client, send a GET request. See `post`."""
        return self._route("GET", path, data, options)

    def post(self, path: str, data: Any = None, **options: Any) -> RouteOrRequest:
        """Declare a POST route (a decorator that returns the function unchanged).

        On a client (`id=`, `image=`) it gives the JSON that is answered, once it is awaited;
        `async for` gives the answer's lines as they come. `data` is sent as JSON, and `timeout=`
        is in seconds. Raises `httpx.HTTPStatusError` for a status of 400 and more.
        """
        return self._route("POST", path, data, options)

    def put(self, path: str, data: Any = None, **options: Any) -> RouteOrRequest:
        """Declare a PUT route; on a client, send a PUT request. See `post`."""
        return self._route("PUT", path, data, options)

    def patch(self, path: str, data: Any = None, **options: Any) -> RouteOrRequest:
        """Declare a PATCH route; on a client, send a PATCH request. See `post`."""
        return self._route("PATCH", path, data, options)

    def delete(self, path: str, data: Any = None, **options: Any) -> RouteOrRequest:
        """Declare a DELETE route; on a client, send a DELETE request. See `post`."""
        return self._route("DELETE", path, data, options)

    def websocket(self, path: str) -> RouteOrRequest:
        """Declare a WebSocket route; the function gets FastAPI's `WebSocket`."""
        return self._route("WEBSOCKET", path, None, {})

    def lifespan(self, function: F) -> F:
        """Have a worker run this around its requests: up to the `yield` before the first one.

        An async generator function, or what FastAPI takes for a lifespan, for an endpoint with
        routes. It may take the application as its parameter.
        """
        if self.is_client:
            self._refuse_declaring("lifespan()")
        check.check_decorated(function)
        if self._target is not None:
            raise ConfigurationError(f"{self!r}: lifespan is for an endpoint with routes")
        if self._lifespan is not None:
            name = self._lifespan.__name__
            raise ConfigurationError(f"endpoint {self.name!r} has the lifespan {name!r} already")
        self._lifespan = function
        return function

    def _route(self, method: str, path: str, data: Any, options: dict[str, Any]) -> RouteOrRequest:
        if self.is_client:
            from runpod_flash.client.routes import Request

            if method == "WEBSOCKET":
                self._refuse_declaring("websocket()")
            target = self._remote(f".{method.lower()}()") if self.image is not None else None
            return Request(self._client_name(), self.id, method, path, data, options, target)
        if data is not None or options:
            raise TypeError(f".{method.lower()}(path) declares a route: it takes a path only")
        from runpod_flash.declared_routes import add_route, check_route

        check_route(self, method, path)

        def register(function: F) -> F:
            check_route(self, method, path)
            add_route(self, method, path, function)
            return function

        return register  # type: ignore[return-value]  # awaited on clients only

    # Calling by input, as the queue API does

    def run(self, input: Any, *, webhook: str | None = None) -> EndpointJob:
        """Queue a job; `input` maps to the function's parameters by name. May be awaited.

        `webhook` is a URL that a server calls with the job object once the job has ended; it needs
        a target.
        """
        url = check.parse_text("webhook", webhook) or ""
        return self._called("run()").run_input(input, url)

    async def runsync(self, input: Any, timeout: float = 60.0) -> EndpointJob:
        """Queue a job and wait for its end, or at most `timeout` seconds."""
        job = self._called("runsync()").run_input(input)
        try:
            return await job.wait(timeout)
        except TimeoutError:
            return job

    async def status(self, job_id: str) -> EndpointJob:
        """A job by its id. Raises `LookupError` if it is unknown, or ended too long ago."""
        from runpod_flash.job import find_job

        return await find_job(job_id, self._called("status()"))

    async def cancel(self, job_id: str) -> EndpointJob:
        """Cancel a job by its id."""
        from runpod_flash.job import find_job

        job = await find_job(job_id, self._called("cancel()"))
        return await job.cancel()

    def _called(self, what: str) -> Target:
        if self.is_client:
            return self._remote(what)
        if self._target is None:
            raise ConfigurationError(
                f"{what} needs a function: decorate one with this endpoint first"
            )
        return self._target

    def _remote(self, what: str) -> Target:
        """An endpoint by `id=` at the target, of which only the name is known, or an image's."""
        from runpod_flash import functions
        from runpod_flash.client.chosen import chosen_target
        from runpod_flash.spec import Build, EndpointSpec, Entry
        from runpod_flash.unavailable import refuse_without_server

        if self.image is None and chosen_target() is None:
            refuse_without_server(f"{self._client_name()}: {what}")
        if self._target is None:
            if self.image is None:
                spec = EndpointSpec(str(self.id), Entry("", str(self.id)), Build(""))
                self._target = functions.Target.of_spec(spec, {})
            else:
                self._target = functions.Target.of_spec(self.image_spec(), self.worker_env)
        return self._target

    def image_spec(self, file: str = "") -> EndpointSpec:
        """The spec of this declaration for the program of its image; `file` declares it."""
        from runpod_flash.spec import Entry

        return self.spec_of(Entry("", "", kind="image", file=file), "")

    def _refuse_declaring(self, what: str) -> NoReturn:
        raise NotAvailableError(
            f"{self._client_name()}: {what} is for code of this program; leave id= and image= out"
        )

    def _client_name(self) -> str:
        given = {"id": self.id, "image": self.image}
        return f"Endpoint({', '.join(f'{key}={v!r}' for key, v in given.items() if v)})"


PARAMETERS = ("name", *(Endpoint.__init__.__kwdefaults__ or ()))
