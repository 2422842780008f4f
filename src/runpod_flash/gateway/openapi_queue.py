"""The OpenAPI description of the queue API: one template for all endpoints that have a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.submission import EXECUTION_MS, TTL_MS

if TYPE_CHECKING:
    from runpod_flash.project.catalog import Catalog

    Node = dict[str, Any]

_TEXT: Node = {"type": "string"}
_COUNT: Node = {"type": "integer"}
_STATES = ("IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
_WAIT: Node = {"type": "integer", "minimum": 1000, "maximum": 300_000, "default": 90_000}
_START: Node = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
_LIMIT: Node = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
_REFUSALS = {
    "400": "The request cannot be read, or asks for something that there is not",
    "404": "There is no such endpoint or job, or its result has expired",
    "429": "It is asked too often; Retry-After says when to try again",
    "503": "There is no room for a job now, or the server stops (`stopping` is true); Retry-After "
    "says when to try again",
}


def queue_paths(catalog: Catalog) -> Node:
    """The paths below /v2/; empty where no endpoint has a queue."""
    names = [each.spec.name for each in catalog.endpoints if each.operations]
    if not names:
        return {}
    endpoint = _parameter("endpoint", {**_TEXT, "enum": names}, "path")
    paths = {**_of_endpoint(), **_of_job()}
    for methods in paths.values():
        for node in methods.values():
            node["parameters"] = [endpoint, *node.get("parameters", ())]
            node["tags"] = ["queue API"]
    return {f"/v2/{{endpoint}}/{path}": methods for path, methods in paths.items()}


def _of_endpoint() -> dict[str, Node]:
    queued = _object({"id": _TEXT, "status": _state()})
    purged = _object({"removed": _COUNT, "status": _TEXT})
    listed = _object({"requests": {"type": "array", "items": _job()}})
    run = _node("Queue a job", queued, "413", "409", body=_request())
    runsync = _node("Queue a job and wait for its end", _job(), "413", "409", body=_request())
    runsync["parameters"] = [_parameter("wait", _WAIT)]
    key = {"name": "Idempotency-Key", "in": "header", "schema": {**_TEXT, "maxLength": 255}}
    for node in (run, runsync):
        node["parameters"] = [*node.get("parameters", ()), key]
    requests = _node("The latest jobs", listed)
    requests["parameters"] = [_parameter("limit", _LIMIT)]
    return {
        "run": {"post": run},
        "runsync": {"post": runsync},
        "purge-queue": {"post": _node("Remove the jobs that wait", purged)},
        "health": {"get": _node("Counters of jobs and workers", _health())},
        "metrics": {"get": _node("Workers that are ready", _metrics())},
        "requests": {"get": requests},
    }


def _of_job() -> dict[str, Node]:
    chunk = _object({"index": _COUNT, "output": {}})
    chunks = _object({"status": _state(), "stream": {"type": "array", "items": chunk}})
    stream = _node("The chunks since the last time, or from a number on", chunks, "409")
    stream["parameters"] = [_parameter("start", _START)]
    retried = _object({"id": _TEXT, "status": _state()})
    found = {
        "status": {"get": _node("A job", _job())},
        "stream": {"get": stream},
        "cancel": {"post": _node("End a job", _job())},
        "retry": {"post": _node("Run a job again that has failed", retried, "409")},
    }
    for methods in found.values():
        for node in methods.values():
            node["parameters"] = [_parameter("id", _TEXT, "path"), *node.get("parameters", ())]
    return {f"{verb}/{{id}}": methods for verb, methods in found.items()}


def _node(said: str, schema: Node, *refused: str, body: Node | None = None) -> Node:
    more = {
        "409": "The job, or the key, is in a state that does not allow it",
        "413": "The body is larger than 10 MB (runsync: 20 MB)",
    }
    told = {**_REFUSALS, **{status: more[status] for status in refused}}
    error = _object({"error": _TEXT})
    responses = {status: _response(why, error) for status, why in told.items()}
    node: Node = {"summary": said, "responses": {"200": _response("Done", schema), **responses}}
    if body is not None:
        content = {"application/json": {"schema": body, "example": {"input": {}}}}
        node["requestBody"] = {"required": True, "content": content}
    return node


def _request() -> Node:
    policy = {
        "executionTimeout": _within(EXECUTION_MS),
        "ttl": _within(TTL_MS),
        "lowPriority": {"type": "boolean", "default": False},
    }
    fields = {
        "input": {},
        "policy": {"type": "object", "properties": policy},
        "webhook": {**_TEXT, "format": "uri"},
        "s3Config": {"type": "object"},
    }
    return {"type": "object", "required": ["input"], "properties": fields}


def _job() -> Node:
    needed = {
        "id": _TEXT,
        "status": _state(),
        "delayTime": _COUNT,
        "executionTime": _COUNT,
        "workerId": _TEXT,
    }
    more = {"output": {}, "error": _TEXT, "retries": _COUNT, "webhook": _TEXT, "waitsFor": _TEXT}
    return {**_object(needed), "properties": {**needed, **more}}


def _health() -> Node:
    jobs = ("completed", "failed", "inProgress", "inQueue", "retried")
    return _object({"jobs": _object(dict.fromkeys(jobs, _COUNT)), "workers": _workers()})


def _metrics() -> Node:
    ready = {"type": "array", "items": _TEXT}
    return _object({"readyWorkers": ready, "workers": _workers()})


def _workers() -> Node:
    kinds = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
    return _object(dict.fromkeys(kinds, _COUNT))


def _object(properties: Node) -> Node:
    return {"type": "object", "required": list(properties), "properties": properties}


def _state() -> Node:
    return {**_TEXT, "enum": list(_STATES)}


def _within(allowed: tuple[int, int]) -> Node:
    low, high = allowed
    return {"type": "integer", "minimum": low, "maximum": high}


def _parameter(name: str, schema: Node, place: str = "query") -> Node:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _response(said: str, schema: Node) -> Node:
    return {"description": said, "content": {"application/json": {"schema": schema}}}
