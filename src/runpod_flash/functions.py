"""What a decorated function or class becomes: something that calls its endpoint."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from runpod_flash import context
from runpod_flash.suggest import did_you_mean

if TYPE_CHECKING:
    import inspect
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
    from typing import ParamSpec

    from runpod_flash.endpoint import Endpoint
    from runpod_flash.job import EndpointJob
    from runpod_flash.spec import EndpointSpec

    P = ParamSpec("P")
    R_co = TypeVar("R_co", covariant=True)

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

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R_co]:
            """Run on a worker; iterate with `async for`."""

        def run(self, *args: P.args, **kwargs: P.kwargs) -> EndpointJob:
            """Queue a job and go on; `job.stream()` gives its chunks."""

        def call(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R_co]:
            """Run on a worker; iterate in code without an event loop."""


class Target:
    """A decorated function or class together with its endpoint: what jobs are made of."""

    def __init__(self, endpoint: Endpoint | None, original: Any) -> None:
        self.endpoint = endpoint
        self.original = original
        self._spec: EndpointSpec | None = None
        self._env: Mapping[str, str] = {}
        self._signature: inspect.Signature | None = None

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

    def signature(self) -> inspect.Signature:
        """The original's signature, looked at once."""
        if self._signature is None:
            import inspect

            self._signature = inspect.signature(self.original)
        return self._signature

    @property
    def env(self) -> Mapping[str, str]:
        return self._env if self.endpoint is None else self.endpoint.worker_env

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

    def reference(self) -> tuple[Any, tuple[Any, ...]]:
        """How a pickle of the decorated object is read in a worker."""
        return _from_reference, (self.spec.to_wire(), dict(self.env))

    def run_input(self, value: Any) -> EndpointJob:
        """Queue a job whose `input` is mapped to parameters by name."""
        from runpod_flash.calls import submit_input

        return submit_input(self, value)


def _from_reference(wire: dict[str, Any], env: dict[str, str]) -> Any:
    from runpod_flash.spec import EndpointSpec

    return decorated(Target.of_spec(EndpointSpec.from_wire(wire), env))


def decorated(target: Target) -> Any:
    """The object that stands for the decorated one.

    In a worker of this very endpoint that is the original: calls there are local.
    """
    worker = context.current
    original = target.original
    if worker is not None and original is not None and worker.endpoint == target.name:
        return original
    kind = target.spec.entry.kind if original is None else _kind(original)
    if kind == "class":
        return _proxy_class(target)
    return _generator(target) if kind == "generator" else _function(target)


def _kind(original: Any) -> str:
    from runpod_flash.project.entry import entry_kind

    return entry_kind(original)


def _function(target: Target) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        return await calls.value(target, args, kwargs)

    def call_here(*args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        return calls.value_here(target, args, kwargs)

    return _dressed(target, call, call_here)


def _generator(target: Target) -> Any:
    async def call(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        from runpod_flash import calls

        async for item in calls.stream(target, args, kwargs):
            yield item

    def call_here(*args: Any, **kwargs: Any) -> Iterator[Any]:
        from runpod_flash import calls

        return calls.stream_here(target, args, kwargs)

    return _dressed(target, call, call_here)


def _dressed(target: Target, call: Any, call_here: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> EndpointJob:
        from runpod_flash import calls

        return calls.submit(target, args, kwargs)

    if target.original is not None:
        functools.update_wrapper(call, target.original)
    call.call, call.run = call_here, run
    call.__flash_target__ = target.original
    call.__flash_reference__ = target.reference
    call.__remote_config__ = remote_config(target)
    return call


def remote_config(target: Target) -> dict[str, Any]:
    """The attribute by which tools find decorated objects."""
    endpoint = target.endpoint
    return {
        "resource_config": endpoint,
        "method": None,
        "path": None,
        "dependencies": endpoint.dependencies if endpoint else None,
        "system_dependencies": endpoint.system_dependencies if endpoint else None,
    }


# Classes


class _Method:
    """A public method of a remote object: called like a decorated function."""

    def __init__(self, instance: RemoteInstance, name: str, generator: bool) -> None:
        self._instance = instance
        self._name = name
        self._generator = generator

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        call = calls.stream if self._generator else calls.value
        return call(self._target, args, kwargs, self._name, self._instance)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        from runpod_flash import calls

        call = calls.stream_here if self._generator else calls.value_here
        return call(self._target, args, kwargs, self._name, self._instance)

    def run(self, *args: Any, **kwargs: Any) -> EndpointJob:
        from runpod_flash import calls

        return calls.submit(self._target, args, kwargs, self._name, self._instance)

    @property
    def _target(self) -> Target:
        return self._instance._flash_declared


class RemoteInstance:
    """Stands for an object on the workers. Making one is cheap: it keeps the arguments."""

    _flash_declared: Target

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        original = self._flash_declared.original
        if original is not None:
            import inspect

            inspect.signature(original).bind(*args, **kwargs)
        self._flash_arguments = (args, kwargs)

    @property
    def _class_type(self) -> Any:
        return self._flash_declared.original

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        original = self._flash_declared.original
        if original is None:
            return _Method(self, name, generator=False)
        found = getattr(original, name, None)
        if not callable(found):
            methods = [m for m in dir(original) if not m.startswith("_")]
            raise AttributeError(
                f"{original.__name__} has no method {name!r}; only public methods of an object on "
                f"a worker can be used.{did_you_mean(name, methods)}"
            )
        return _Method(self, name, _kind(found) == "generator")

    def __flash_reference__(self) -> tuple[Any, tuple[Any, ...]]:
        spec_wire, env = self._flash_declared.reference()[1]
        args, kwargs = self._flash_arguments
        return _instance_from_reference, (spec_wire, env, args, kwargs)

    def __reduce__(self) -> Any:
        return self.__flash_reference__()


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
