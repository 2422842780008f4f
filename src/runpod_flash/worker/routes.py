"""From an endpoint's routes to an ASGI application: FastAPI's, with bodies as Flash has them.

FastAPI is in the environments of such endpoints only. Plain parameters of a function whose method
has a body are keys of the JSON body; all else is as FastAPI users know it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import re
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Body, FastAPI, File, Form, Request, Response, UploadFile, params
from fastapi.exceptions import FastAPIError
from fastapi.routing import APIRoute
from starlette.background import BackgroundTasks
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from runpod_flash.endpoint import Endpoint

_BODIED = ("POST", "PUT", "PATCH", "DELETE")
_NATIVE = (HTTPConnection, Response, BackgroundTasks, UploadFile)
_NOTHING = object()
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def application(endpoint: Endpoint) -> FastAPI:
    """The application of an endpoint's routes. Raises what FastAPI says of a wrong one."""
    app = FastAPI(
        title=str(endpoint.name),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(endpoint._lifespan),
    )
    app.add_exception_handler(Exception, _explain)
    for route in endpoint._routes:
        _add(app, route["method"], route["path"], route["function"])
    return app


async def _explain(_: Request, error: Exception) -> Response:
    """The answer of a route whose code raised; the traceback goes to the log."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return JSONResponse({"error": text, "detail": text}, status_code=500)


def _lifespan(
    function: Callable[..., Any] | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[Any]] | None:
    if function is None:
        return None
    wrapped = (
        contextlib.asynccontextmanager(function)
        if inspect.isasyncgenfunction(function)
        else function
    )
    if inspect.signature(function).parameters:
        return wrapped
    return lambda app: wrapped()


def _add(app: FastAPI, method: str, path: str, function: Callable[..., Any]) -> None:
    if method == "WEBSOCKET":
        app.add_api_websocket_route(path, function)
        return
    signature = _signature(function)
    adapted = _streamed(function)
    whole = None
    if method in _BODIED:
        signature, whole = _with_body(signature, path)
    adapted = _with_signature(adapted, signature)
    router = app.router
    add = functools.partial(
        router.add_api_route,
        path,
        adapted,
        methods=[method],
        route_class_override=None if whole is None else _route_class(*whole),
    )
    try:
        add()
    except FastAPIError:
        if signature.return_annotation is inspect.Signature.empty:
            raise
        # The annotation is no response model; the value may be sent all the same.
        add(response_model=None)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that is there for type checkers only
        return inspect.signature(function)


# Streams


def _streamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A generator's values are sent as they come: text as it is, others as lines of JSON."""
    if inspect.isasyncgenfunction(function):

        async def stream(*args: Any, **kwargs: Any) -> Response:
            return await _streaming_response(function(*args, **kwargs))

        return functools.update_wrapper(stream, function)
    if inspect.isgeneratorfunction(function):

        def stream_here(*args: Any, **kwargs: Any) -> Response:
            values = function(*args, **kwargs)
            first = next(values, _NOTHING)
            return StreamingResponse(_resumed(first, values), media_type=_media_type(first))

        return functools.update_wrapper(stream_here, function)
    return function


async def _streaming_response(values: AsyncIterator[Any]) -> Response:
    # The first value tells the kind of the stream, and an error before it the status.
    first = await anext(values, _NOTHING)

    async def rest() -> AsyncIterator[Any]:
        async with contextlib.aclosing(values):  # type: ignore[type-var]
            if first is not _NOTHING:
                yield _chunk(first)
            async for value in values:
                yield _chunk(value)

    return StreamingResponse(rest(), media_type=_media_type(first))


def _resumed(first: Any, values: Iterator[Any]) -> Iterator[Any]:
    if first is not _NOTHING:
        yield _chunk(first)
    for value in values:
        yield _chunk(value)


def _media_type(first: Any) -> str:
    if isinstance(first, bytes):
        return "application/octet-stream"
    if isinstance(first, str):
        sse = first.startswith(("data:", "event:", "id:", "retry:", ":"))
        return "text/event-stream" if sse else "text/plain; charset=utf-8"
    return "application/x-ndjson"


def _chunk(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value
    from fastapi.encoders import jsonable_encoder

    return json.dumps(jsonable_encoder(value)) + "\n"


# Bodies


def _with_body(
    signature: inspect.Signature, path: str
) -> tuple[inspect.Signature, tuple[str, frozenset[str]] | None]:
    """Plain parameters become keys of the JSON body, or fields of a form where there are files.

    Also the parameter that a body may be as a whole, if there is one, and the names of all.
    """
    given = signature.parameters.values()
    in_path = set(re.findall(r"{(\w+)", path))
    plain = [p for p in given if p.name not in in_path and _is_plain(p)]
    files = any(_is_file(p) for p in given)
    changed = [_as_body(p, files=files) if p in plain else p for p in given]
    required = [p for p in plain if p.default is p.empty]
    single = required or plain
    bodies = [p for p in given if p in plain or _is_model(p)]
    alone = len(single) == 1 and len(bodies) == len(plain) and not files
    names = frozenset(p.name for p in plain)
    return signature.replace(parameters=changed), (single[0].name, names) if alone else None


def _is_plain(parameter: inspect.Parameter) -> bool:
    """Whether FastAPI would take it for a query parameter."""
    if parameter.kind in _VARIADIC:
        return False
    if isinstance(parameter.default, params.Param | params.Body | params.Depends):
        return False
    metadata = getattr(parameter.annotation, "__metadata__", ())
    if any(isinstance(m, params.Param | params.Body | params.Depends) for m in metadata):
        return False
    return not (_is_native(parameter.annotation) or _is_model(parameter))


def _is_class(annotation: Any) -> bool:
    """(For Python 3.10, `list[int]` is one too.)"""
    return isinstance(annotation, type) and not isinstance(annotation, GenericAlias)


def _is_native(annotation: Any) -> bool:
    return _is_class(annotation) and issubclass(annotation, _NATIVE)


def _is_model(parameter: inspect.Parameter) -> bool:
    from pydantic import BaseModel

    annotation = parameter.annotation
    return _is_class(annotation) and issubclass(annotation, BaseModel)


def _is_file(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    return annotation is bytes or (_is_class(annotation) and issubclass(annotation, UploadFile))


def _as_body(parameter: inspect.Parameter, *, files: bool) -> inspect.Parameter:
    marker: Any = Body(embed=True)
    if files:
        marker = File() if parameter.annotation is bytes else Form()
    annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
    return parameter.replace(annotation=Annotated[annotation, marker])


def _with_signature(
    function: Callable[..., Any], signature: inspect.Signature
) -> Callable[..., Any]:
    """The function as FastAPI is to see it: no variadic parameters, all by name."""
    kept = [p for p in signature.parameters.values() if p.kind not in _VARIADIC]
    by_place = [p.name for p in kept if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept]

    def split(given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        return [given.pop(name) for name in by_place], given

    def call(**given: Any) -> Any:
        args, kwargs = split(given)
        return function(*args, **kwargs)

    async def awaited(**given: Any) -> Any:
        return await call(**given)

    asynchronous = inspect.iscoroutinefunction(function)
    adapted: Any = functools.update_wrapper(awaited if asynchronous else call, function)
    del adapted.__wrapped__
    adapted.__signature__ = signature.replace(parameters=named)
    return cast("Callable[..., Any]", adapted)


def _route_class(name: str, names: frozenset[str]) -> type[APIRoute]:
    """Routes where a body with other keys than the parameters' is the one parameter."""

    class WholeBodyRequest(Request):
        async def json(self) -> Any:
            body = await super().json()
            return body if isinstance(body, dict) and body.keys() <= names else {name: body}

    class WholeBodyRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def handler(request: Request) -> Response:
                response: Response = await handle(WholeBodyRequest(request.scope, request.receive))
                return response

            return handler

    return WholeBodyRoute
