"""What a decorated function or class becomes: something that calls its endpoint."""

from __future__ import annotations

import functools
import types

from runpod_flash import context
from runpod_flash.suggest import did_you_mean

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    import inspect
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
    from typing import Any, ParamSpec, Protocol, TypeVar

    from runpod_flash.endpoint import Endpoint
    from runpod_flash.job import EndpointJob
    from runpod_flash.project.catalog import Discovered
    from runpod_flash.spec import EndpointSpec

    P = ParamSpec("P")
    R_co = TypeVar("R_co", covariant=True)
    F = TypeVar("F", bound=Callable[..., Any])

    class EndpointFunction(Protocol[P, R_co]):
        """A decorated function."""

        __name__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
            """Run on a worker; await the result."""

        def run(self, *args: P.args, **kwargs: P.kwargs) -> EndpointJob:
            """Queue a job and go on."""

        def call(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
            """Run on a worker and wait for the result; for code without an event loop."""

    class EndpointGenerator(Protocol[P, R_co]):
        """A decorated generator."""

        __name__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R_co, None]:
            """Run on a worker; iterate with `async for`."""

        def run(self, *args: P.args, **kwargs: P.kwargs) -> EndpointJob:
            """Queue a job and go on; `job.stream()` gives its chunks."""

        def call(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R_co]:
            """Run on a worker; iterate in code without an event loop."""

    class RouteOrRequest(Protocol):
        """What `.get(path)` gives: on a client a request to await, otherwise a decorator."""

        def __call__(self, function: F, /) -> F:
            """Register the function, and return it unchanged."""

        def __await__(self) -> Generator[Any, None, Any]:
            """Send the request; the answer's JSON."""


# Of calls that were found to be possible, so many shapes are remembered.
_MOST_SHAPES = 1000


class Target:
    """A decorated function or class together with its endpoint: what jobs are made of."""

    def __init__(self, endpoint: Endpoint | None, original: Any) -> None:
        self.endpoint = endpoint
        self.original = original
        self._spec: EndpointSpec | None = None
        self._env: Mapping[str, str] | None = None
        self._signatures: dict[str, inspect.Signature | None] = {}
        self._bound: set[tuple[str | int, ...]] = set()

    @classmethod
    def of_spec(cls, spec: EndpointSpec, env: Mapping[str, str], original: Any = None) -> Target:
        """A target known by its spec only, in a worker that got it by value."""
        target = cls(None, original)
        target._spec, target._env = spec, env
        return target

    @property
    def name(self) -> str:
        endpoint = self.endpoint
        if endpoint is None:
            assert self._spec is not None
            return self._spec.name
        return endpoint.name or str(self.original.__name__)

    @property
    def by_id(self) -> bool:
        """Whether only the id is known, of an endpoint at a server."""
        entry = None if self._spec is None else self._spec.entry
        return entry is not None and not (entry.file or entry.by_value)

    def check(self, args: Any, kwargs: Any, method: str = "") -> None:
        """Raise the `TypeError` of a call that cannot be, here and not on a worker."""
        # (Whether it can be bound depends on how many there are, and on the names.)
        shape = (method, len(args), *kwargs)
        if self.original is None or shape in self._bound:
            return
        if method not in self._signatures:
            self._signatures[method] = _signature(self.original, method)
        signature = self._signatures[method]
        if signature is not None:
            self._bind(signature, args, kwargs, method)
        if len(self._bound) < _MOST_SHAPES:
            self._bound.add(shape)

    def _bind(self, signature: inspect.Signature, args: Any, kwargs: Any, method: str) -> None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            called = f"{self.original.__name__}.{method}" if method else self.original.__name__
            raise TypeError(f"{called}(): {error}") from None

    @property
    def env(self) -> Mapping[str, str]:
        """What the workers get, as the endpoint says when it is first called."""
        if self._env is None:
            assert self.endpoint is not None
            self._env = self.endpoint.worker_env
        return self._env

    @property
    def spec(self) -> EndpointSpec:
        """The spec, made at the first call. A REPL's function may have changed since the last."""
        spec = self._spec
        if spec is not None and (self.endpoint is None or not spec.entry.by_value):
            return spec
        from runpod_flash.project.entry import code_digest, locate

        assert self.endpoint is not None
        entry = locate(self.original, self.name)
        code = code_digest(self.original, entry)
        if spec is None or spec.build.code != code:
            spec = self._spec = self.endpoint.spec_of(entry, code)
        return spec

    def discovered(self) -> Discovered:
        """What a server has to know of it, without what only people read."""
        from runpod_flash.project.catalog import Discovered, Operation, of_image

        spec, original = self.spec, self.original
        if spec.is_image:
            return of_image(spec, dict(self.env), f"{spec.name}.py")
        operations: tuple[Operation, ...] = (Operation(spec.entry.qualname),)
        if isinstance(original, type):
            operations = tuple(Operation(name, name) for name in public_methods(original))
        return Discovered(
            spec=spec,
            env=dict(self.env),
            file=spec.entry.file or f"{spec.name}.py",
            owner=original.__name__ if isinstance(original, type) else "",
            operations=operations,
        )

    def split_input(self, value: Any) -> tuple[str, Any]:
        """Which method of a class an `input` means, and what is left for its parameters."""
        if not isinstance(self.original, type):
            return "", value
        from runpod_flash.project.catalog import choose_method

        return choose_method(self.original.__name__, public_methods(self.original), value)

    def reference(self) -> tuple[Any, tuple[Any, ...]]:
        """How a pickle of the decorated object is read in a worker."""
        return _from_reference, (self.spec.to_wire(), dict(self.env))

    def run_input(self, value: Any, webhook: str = "") -> EndpointJob:
        """Queue a job whose `input` is mapped to parameters by name.

        A server calls the `webhook` when the job has ended. Raises `NotAvailableError` for one
        where no server has the job.
        """
        from runpod_flash.calls import submit_input

        if webhook:
            from runpod_flash.webhook import check_server

            check_server(self)
        return submit_input(self, value, webhook)


def _signature(original: Any, method: str) -> inspect.Signature | None:
    import inspect

    function = bound_method(original, method, original) if method else original
    try:
        return inspect.signature(function)
    except ValueError:  # some written in C have none
        return None


def bound_method(owner: type, name: str, instance: Any) -> Any:
    """The method as instances have it: its signature does not show `self`."""
    import inspect

    found = getattr(owner, name)
    plain = isinstance(inspect.getattr_static(owner, name), types.FunctionType)
    return types.MethodType(found, instance) if plain else found


def public_methods(owner: type) -> list[str]:
    """The methods that jobs can name: public ones that the class itself defines, in its order."""
    return [n for n in vars(owner) if not n.startswith("_") and callable(getattr(owner, n))]


def _from_reference(wire: dict[str, Any], env: dict[str, str]) -> Any:
    from runpod_flash.spec import EndpointSpec

    return decorated(Target.of_spec(EndpointSpec.from_wire(wire), env))


def decorated(target: Target) -> Any:
    """The object that stands for the decorated one.

    In a worker of this very endpoint calls are local: a class is itself there.
    """
    worker = context.current
    original = target.original
    kind = target.spec.entry.kind if original is None else _kind(original)
    if worker is not None and original is not None and worker.endpoint == target.name:
        return original if kind == "class" else _local(target)
    if kind == "class":
        return _proxy_class(target)
    return _dressed(target, _generator(target) if kind == "generator" else _function(target))


def _local(target: Target) -> Any:
    """The decorated function in its own endpoint's workers: it runs in place, once they run."""
    import inspect

    from runpod_flash.client.backend import refuse_while_importing

    original = target.original

    def here(*args: Any, **kwargs: Any) -> Any:
        refuse_while_importing(target.name)
        return original(*args, **kwargs)

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await here(*args, **kwargs)

    def submit(*args: Any, **kwargs: Any) -> EndpointJob:
        from runpod_flash import calls

        return calls.submit(calls.Invocation(target, args, kwargs))

    def call_here(*args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        return calls.value_here(calls.Invocation(target, args, kwargs))

    asynchronous = inspect.iscoroutinefunction(original)
    local: Any = functools.update_wrapper(awaited if asynchronous else here, original)
    local.run, local.call = submit, call_here if asynchronous else here
    local.__flash_target__ = original
    local.__flash_reference__ = target.reference
    local.__remote_config__ = remote_config(target)
    return local


def _kind(original: Any) -> str:
    from runpod_flash.project.entry import entry_kind

    return entry_kind(original)


def _function(target: Target, method: str = "", instance: RemoteInstance | None = None) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        return await calls.value(calls.Invocation(target, args, kwargs, method, instance))

    def call_here(*args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        return calls.value_here(calls.Invocation(target, args, kwargs, method, instance))

    return _with_verbs(call, call_here, target, method, instance)


def _generator(target: Target, method: str = "", instance: RemoteInstance | None = None) -> Any:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        from contextlib import aclosing

        from runpod_flash import calls

        # Leaving the loop early cancels the job at once, not when memory is next collected.
        async with aclosing(
            calls.stream(calls.Invocation(target, args, kwargs, method, instance))
        ) as items:
            async for item in items:
                yield item

    def call_here(*args: Any, **kwargs: Any) -> Iterator[Any]:
        from runpod_flash import calls

        return calls.stream_here(calls.Invocation(target, args, kwargs, method, instance))

    return _with_verbs(call, call_here, target, method, instance)


def _with_verbs(
    call: Any, call_here: Any, target: Target, method: str, instance: RemoteInstance | None
) -> Any:
    def run(*args: Any, **kwargs: Any) -> EndpointJob:
        from runpod_flash import calls

        return calls.submit(calls.Invocation(target, args, kwargs, method, instance))

    call.call, call.run = call_here, run
    return call


def _dressed(target: Target, call: Any) -> Any:
    if target.original is not None:
        functools.update_wrapper(call, target.original)
    call.__flash_target__ = target.original
    call.__flash_reference__ = target.reference
    call.__remote_config__ = remote_config(target)
    return call


def remote_config(target: Target) -> dict[str, Any]:
    """The attribute by which tools find decorated objects."""
    endpoint = target.endpoint
    if endpoint is None:
        return {}
    config = _config(endpoint, None, None)
    if endpoint.max_concurrency > 1:
        config["max_concurrency"] = endpoint.max_concurrency
    return config


def route_config(endpoint: Endpoint, method: str, path: str) -> dict[str, Any]:
    """The attribute by which tools find the functions of routes."""
    return {**_config(endpoint, method, path), "is_lb_route_handler": True}


def _config(endpoint: Endpoint, method: str | None, path: str | None) -> dict[str, Any]:
    return {
        "resource_config": endpoint,
        "method": method,
        "path": path,
        "dependencies": endpoint.dependencies,
        "system_dependencies": endpoint.system_dependencies,
    }


# Classes


class RemoteInstance:
    """Stands for an object on the workers. Making one is cheap: it keeps the arguments."""

    _flash_declared: Target

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._flash_declared.check(args, kwargs)
        self._flash_arguments = (args, kwargs)

    @property
    def _class_type(self) -> Any:
        return self._flash_declared.original

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        target = self._flash_declared
        original = target.original
        if original is None:
            return _function(target, name, self)
        found = getattr(original, name, None)
        if not callable(found):
            raise AttributeError(_no_method(original, name))
        make = _generator if _kind(found) == "generator" else _function
        return functools.update_wrapper(
            make(target, name, self), bound_method(original, name, self)
        )

    def __flash_reference__(self) -> tuple[Any, tuple[Any, ...]]:
        spec_wire, env = self._flash_declared.reference()[1]
        args, kwargs = self._flash_arguments
        return _instance_from_reference, (spec_wire, env, args, kwargs)

    def __reduce__(self) -> Any:
        return self.__flash_reference__()


def _no_method(original: type, name: str) -> str:
    only = "only public methods of an object on a worker can be used"
    if hasattr(original, name):
        return f"{name!r} is not a method of {original.__name__}: {only}"
    methods = [m for m in dir(original) if m[0] != "_" and callable(getattr(original, m))]
    hint = did_you_mean(name, methods)
    return f"{original.__name__} has no method {name!r}; {only}.{hint}"


def _instance_from_reference(
    wire: dict[str, Any], env: dict[str, str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return _from_reference(wire, env)(*args, **kwargs)


class _RemoteClass(type):
    """The type of proxy classes: a pickle of one is a reference to its endpoint."""

    def __flash_reference__(cls) -> Any:
        declared: Target = cls._flash_declared  # type: ignore[attr-defined]
        return declared.reference()


def _proxy_class(target: Target) -> Any:
    original = target.original
    attributes = {
        "_flash_declared": target,
        "_wrapped_class": original,
        "__flash_target__": original,
        "__remote_config__": remote_config(target),
    }
    name = target.name
    if original is not None:
        name = original.__name__
        attributes |= {
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__doc__": original.__doc__,
        }
    return _RemoteClass(name, (RemoteInstance,), attributes)
