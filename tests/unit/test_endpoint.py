"""Endpoint: properties, routes, what a decorated object shows, and clients."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from typing import Any

import pytest

from runpod_flash import (
    Endpoint,
    EndpointJob,
    PodTemplate,
    context,
)
from runpod_flash.errors import ConfigurationError, ConnectionClosedError, NotAvailableError
from runpod_flash.scaling import ServerlessScalerType

CPU = "cpu3c-1-2"
WHY_NOT = "needs a Flash server: start one with `flash server`"

double_endpoint = Endpoint(name="double", cpu=CPU, dependencies=["numpy"], max_concurrency=3)


@double_endpoint
async def double(x: int, *, times: int = 2) -> int:
    """Twice the number."""
    return x * times


@Endpoint(cpu=CPU)
def plain(x: int) -> int:
    return x


@Endpoint(name="count", cpu=CPU)
def count(n: int) -> Any:
    yield from range(n)


@Endpoint(name="model", cpu=CPU, system_dependencies=["ffmpeg"])
class Model:
    """Scales numbers."""

    kind = "scale"

    def __init__(self, factor: int, *, offset: int = 0) -> None:
        self.factor = factor
        self.offset = offset

    def scale(self, x: int) -> int:
        """One number."""
        return self.factor * x + self.offset

    def series(self, n: int) -> Any:
        yield from range(n)

    @staticmethod
    def negate(x: int) -> int:
        return -x

    @classmethod
    def named(cls, text: str) -> str:
        return cls.__name__ + text


async def sample(text: str = "") -> str:
    return text


@Endpoint(name="single", cpu=CPU)
class Single:
    async def go(self, x: int = 1) -> int:
        return x


# Properties


def test_what_kind_of_endpoint_it_is_follows_from_what_was_given() -> None:
    gpu, cpu = Endpoint(name="a"), Endpoint(name="b", cpu=CPU)
    assert (gpu.is_cpu, gpu.is_client, gpu.is_load_balanced) == (False, False, False)
    assert cpu.is_cpu
    assert Endpoint(id="abc").is_client
    assert Endpoint(name="v", image="vllm").is_client


def test_routes_make_an_endpoint_load_balanced_and_scale_it_by_requests() -> None:
    api = Endpoint(name="api", cpu=CPU)
    api.get("/health")(sample)
    assert api.is_load_balanced
    assert api.scaler_type is ServerlessScalerType.REQUEST_COUNT
    assert Endpoint(name="queue").scaler_type is ServerlessScalerType.QUEUE_DELAY


def test_the_variables_of_a_template_count_where_env_does_not_set_them() -> None:
    template = PodTemplate(env=[{"key": "A", "value": "1"}, {"key": "B", "value": "2"}])
    assert Endpoint(template=template, env={"B": "3"}).worker_env == {"A": "1", "B": "3"}


# Decorated functions


def test_a_decorated_function_is_a_coroutine_function_with_the_originals_data() -> None:
    assert inspect.iscoroutinefunction(double)
    assert inspect.iscoroutinefunction(plain)
    assert (double.__name__, double.__doc__) == ("double", "Twice the number.")
    assert list(inspect.signature(double).parameters) == ["x", "times"]
    assert double.__wrapped__ is double.__flash_target__  # type: ignore[attr-defined]


def test_a_decorated_generator_is_an_async_generator_function() -> None:
    assert inspect.isasyncgenfunction(count)
    assert count.__name__ == "count"


def test_the_original_can_be_called_here_through_wrapped() -> None:
    assert plain.__wrapped__(3) == 3
    assert asyncio.run(double.__wrapped__(4)) == 8


def test_an_endpoint_without_a_name_takes_the_functions_or_the_classs() -> None:
    assert remote_config(plain)["resource_config"].name == "plain"
    endpoint = Endpoint(cpu=CPU)
    endpoint(type("Thing", (), {"__module__": __name__}))
    assert endpoint.name == "Thing"


def test_a_name_that_is_the_functions_own_is_checked_as_a_given_one() -> None:
    def work() -> None: ...

    work.__name__ = "a" * 81
    with pytest.raises(ConfigurationError, match="a name has 80 characters at most"):
        Endpoint()(work)
    work.__name__ = "a" * 80
    endpoint = Endpoint()
    endpoint(work)
    assert endpoint.name == "a" * 80


def test_tools_find_decorated_functions_by_their_remote_config() -> None:
    assert remote_config(double) == {
        "resource_config": double_endpoint,
        "method": None,
        "path": None,
        "dependencies": ["numpy"],
        "system_dependencies": None,
        "max_concurrency": 3,
    }
    assert "max_concurrency" not in remote_config(plain)


def test_a_call_that_cannot_be_is_a_type_error_before_any_worker_starts() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        asyncio.run(double())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        plain.call(1, y=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many positional"):
        plain.run(1, 2)  # type: ignore[call-arg]


def test_waiting_in_plain_code_is_refused_inside_a_running_event_loop() -> None:
    async def main() -> int:
        return plain.call(1)

    with pytest.raises(RuntimeError, match=r"plain.call\(\) would block the running event loop"):
        asyncio.run(main())


# Decorated classes


def test_a_decorated_class_keeps_name_docstring_and_the_class_itself() -> None:
    original = Model._wrapped_class  # type: ignore[attr-defined]
    assert (Model.__name__, Model.__doc__) == ("Model", "Scales numbers.")
    assert Model.__module__ == __name__
    assert original(2).scale(3) == 6
    assert Model(2)._class_type is original  # type: ignore[attr-defined]
    assert remote_config(Model)["system_dependencies"] == ["ffmpeg"]


def test_an_instance_is_made_here_without_running_the_constructor_but_checks_its_arguments() -> (
    None
):
    assert not hasattr(Model(2, offset=1), "_factor")
    with pytest.raises(TypeError, match=r"^Model\(\): missing a required argument: 'factor'"):
        Model()  # type: ignore[call-arg]


def test_methods_are_like_decorated_functions() -> None:
    scale = Model(2).scale
    assert inspect.iscoroutinefunction(scale)
    assert inspect.isasyncgenfunction(Model(2).series)
    assert (scale.__name__, scale.__doc__) == ("scale", "One number.")
    assert list(inspect.signature(scale).parameters) == ["x"]


@pytest.mark.parametrize("method", ["scale", "negate", "named"])
def test_arguments_of_methods_static_methods_and_class_methods_are_checked(method: str) -> None:
    with pytest.raises(TypeError, match=rf"^Model\.{method}\(\): too many positional"):
        getattr(Model(2), method).run(1, 2)


def test_only_public_methods_of_an_instance_can_be_used() -> None:
    with pytest.raises(AttributeError, match=r"Model has no method 'scal'.*Did you mean 'scale'"):
        _ = Model(2).scal  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"'kind' is not a method of Model: only public"):
        _ = Model(2).kind
    with pytest.raises(AttributeError, match="_hidden"):
        _ = Model(2)._hidden  # type: ignore[attr-defined]


def test_a_pickled_instance_arrives_with_its_arguments() -> None:
    copy = pickle.loads(pickle.dumps(Model(2, offset=1)))
    assert copy._flash_arguments == ((2,), {"offset": 1})
    assert copy._flash_declared.name == "model"


def test_an_input_for_one_of_several_methods_names_it() -> None:
    endpoint: Endpoint = remote_config(Model)["resource_config"]
    with pytest.raises(TypeError, match="key 'method': one of scale, series, negate, named"):
        endpoint.run({"x": 1})


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (Model, {"method": "scale", "x": 1}, ("scale", {"x": 1})),
        (Single, {"x": 1}, ("go", {"x": 1})),
        (Single, {"method": "go", "x": 1}, ("go", {"x": 1})),
        (Single, {"method": "other"}, ("go", {"method": "other"})),
        (Single, 3, ("go", 3)),
    ],
)
def test_a_single_method_needs_no_name(target: Any, value: Any, expected: object) -> None:
    assert target._flash_declared.split_input(value) == expected


# Wrong decorations


def test_a_client_cannot_decorate() -> None:
    with pytest.raises(ConfigurationError, match="is a client: it cannot decorate"):
        Endpoint(id="abc")(sample)


def test_an_endpoint_with_routes_cannot_decorate_and_a_decorating_one_has_no_routes() -> None:
    api = Endpoint(name="api", cpu=CPU)
    api.get("/x")(sample)
    with pytest.raises(ConfigurationError, match="'api' has routes: it cannot decorate"):
        api(sample)
    with pytest.raises(ConfigurationError, match="'double' decorates a function: it cannot have"):
        double_endpoint.get("/x")


@pytest.mark.parametrize("target", [3, "text", None])
def test_what_is_neither_function_nor_class_is_not_decorated(target: Any) -> None:
    with pytest.raises(TypeError, match=f"decorates a function or a class, not {target!r}"):
        Endpoint(name="x")(target)


@pytest.mark.parametrize("target", [double, Model])
def test_nothing_is_decorated_twice(target: Any) -> None:
    with pytest.raises(ConfigurationError, match="is decorated by an Endpoint already"):
        Endpoint(name="x")(target)


# Clients


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch"])
def test_a_clients_request_says_when_awaited_that_it_needs_a_server(method: str) -> None:
    async def main() -> None:
        await getattr(Endpoint(id="abc"), method)("/v1/models", {"a": 1}, timeout=3)

    with pytest.raises(NotAvailableError, match=rf"Endpoint\(id='abc'\).{method}\(\) {WHY_NOT}"):
        asyncio.run(main())


def test_a_clients_request_used_as_a_decorator_says_that_it_is_a_client() -> None:
    with pytest.raises(TypeError, match=r"Endpoint\(image='vllm'\) is a client"):
        Endpoint(name="v", image="vllm").get("/x")(sample)


def test_a_clients_jobs_need_a_server() -> None:
    client = Endpoint(id="abc")
    with pytest.raises(NotAvailableError, match=rf"Endpoint\(id='abc'\): run\(\) {WHY_NOT}"):
        client.run({})
    for call in (client.runsync({}), client.status("j"), client.cancel("j")):
        with pytest.raises(NotAvailableError, match=WHY_NOT):
            asyncio.run(call)


def test_in_a_worker_that_knows_no_server_the_remedy_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context, "current", object())
    why = "needs a Flash server, and this worker knows of none: .* in its endpoint's env="
    with pytest.raises(NotAvailableError, match=rf"^Endpoint\(id='abc'\): run\(\) {why}"):
        Endpoint(id="abc").run({})

    async def main() -> None:
        await Endpoint(id="abc").get("/v1/models")

    with pytest.raises(NotAvailableError, match=rf"^Endpoint\(id='abc'\).get\(\) {why}"):
        asyncio.run(main())


def test_a_client_declares_nothing_that_workers_run() -> None:
    for declared in (
        lambda: Endpoint(id="abc").websocket("/x"),
        lambda: Endpoint(id="abc").lifespan(sample),
    ):
        with pytest.raises(NotAvailableError, match=r"for code of this program; leave id= "):
            declared()


def test_a_webhook_needs_a_server() -> None:
    why = "^webhook= is called even after this program's end, which "
    with pytest.raises(NotAvailableError, match=why + WHY_NOT):
        double_endpoint.run({"x": 1}, webhook="https://example.com")


def test_a_webhook_is_refused_for_a_job_that_a_worker_gives_its_own_plane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context, "current", object())
    monkeypatch.setenv("FLASH_TARGET", "http://localhost:1")
    why = r"calls 'double' over its own link: await the job, or call Endpoint\(id='double'\)$"
    with pytest.raises(NotAvailableError, match=why):
        double_endpoint.run({"x": 1}, webhook="https://example.com")


@pytest.mark.parametrize("url", ["", 3])
def test_a_webhook_is_a_text(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^webhook={url!r}: a text that is not empty$"):
        double_endpoint.run({"x": 1}, webhook=url)


def test_jobs_need_a_decorated_function() -> None:
    with pytest.raises(ConfigurationError, match=r"run\(\) needs a function: decorate one"):
        Endpoint(name="x").run({})


def test_a_target_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_TARGET", "localhost")
    with pytest.raises(ConfigurationError, match="'localhost' is no address of a server"):
        asyncio.run(double(1))


def test_a_target_where_nobody_listens_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_TARGET", "http://localhost:1")
    with pytest.raises(ConnectionClosedError, match=r"localhost:1 .* cannot be reached.*unset"):
        asyncio.run(double(1))


# Jobs


def test_a_job_shows_what_its_data_say() -> None:
    data = {"id": "j1", "status": "COMPLETED", "output": {"error": "a result"}, "error": None}
    job = EndpointJob(data, double_endpoint)
    assert (job.id, job.done, job.output, job.error) == ("j1", True, {"error": "a result"}, None)
    assert job._data == data
    assert repr(job) == "EndpointJob(id='j1', status='COMPLETED')"


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ("IN_QUEUE", False),
        ("IN_PROGRESS", False),
        ("COMPLETED", True),
        ("FAILED", True),
        ("CANCELLED", True),
        ("TIMED_OUT", True),
        ("UNKNOWN", False),
    ],
)
def test_a_job_is_done_in_its_four_final_states(status: str, done: bool) -> None:
    assert EndpointJob({"status": status}, None).done is done


def test_a_job_without_data_is_empty_and_connected_to_nothing() -> None:
    job = EndpointJob({}, None)
    assert (job.id, job.output, job.error, job.exception, job.waits_for) == (
        "",
        None,
        None,
        None,
        "",
    )
    assert repr(job) == "EndpointJob(id='', status='UNKNOWN')"
    for call in (job.status(), job.wait(), job.cancel()):
        with pytest.raises(ConfigurationError, match="not connected to any endpoint"):
            asyncio.run(call)


def test_awaiting_a_job_gives_the_job() -> None:
    async def main() -> EndpointJob:
        job = EndpointJob({"id": "j"}, None)
        assert await job is job
        return job

    assert asyncio.run(main()).id == "j"


def remote_config(target: Any) -> dict[str, Any]:
    found: dict[str, Any] = target.__remote_config__
    return found
