"""The OpenAPI document of a catalog, with the functions' own types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import runpod_flash
from runpod_flash.gateway.addresses import Addresses, prefix_of
from runpod_flash.gateway.openapi_queue import queue_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.gateway.addresses import Bound
    from runpod_flash.project.catalog import Catalog, Discovered, Route

Node = dict[str, Any]

_BODIED = ("POST", "PUT", "PATCH", "DELETE")
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
_EXAMPLES: Node = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def document(catalog: Catalog, described: Mapping[str, Node]) -> Node:
    """`described` are the documents of routes that their workers made, by build digest."""
    addresses = Addresses(catalog)
    paths: Node = {}
    components: Node = {}
    for path, bound in addresses.operations.items():
        if path == bound.path:
            paths |= _operation(bound)
    for endpoint in catalog.endpoints:
        own = described.get(endpoint.spec.build_digest)
        if endpoint.routes and own is not None:
            _merge(endpoint, own, paths, components)
        shown = own is None and not endpoint.spec.is_image
        for route in endpoint.routes if shown else ():
            if route.method != "WEBSOCKET":
                path = prefix_of(endpoint) + re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
                paths.setdefault(path, {})[route.method.lower()] = _route(endpoint, route)
    return {
        "openapi": "3.0.3",
        "info": {"title": "Flash", "version": runpod_flash.__version__},
        "paths": {**paths, **queue_paths(catalog)},
        "components": {"schemas": components},
    }


def example(schema: Node) -> Any:
    """A value of the schema, to start from."""
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("anyOf"):
        return example(schema["anyOf"][0])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        required = schema.get("required", ())
        return {name: example(schema["properties"].get(name, {})) for name in required}
    if kind == "array" and schema.get("items"):
        return [example(schema["items"])]
    return _EXAMPLES.get(kind, "text") if isinstance(kind, str) else "text"


def shown(schema: Any) -> Any:
    """A schema in OpenAPI 3.0's words, which has no type null."""
    if isinstance(schema, list):
        return [shown(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: shown(value) for key, value in schema.items() if key != "contentEncoding"}
    choices = result.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        others = [choice for choice in choices if choice != {"type": "null"}]
        result.pop("anyOf")
        result |= others[0] if len(others) == 1 else {"anyOf": others}
        result["nullable"] = True
    return result


# Functions


def _operation(bound: Bound) -> Node:
    path, operation = bound.path, bound.operation
    head = {
        "tags": [_tag(bound.endpoint)],
        "summary": operation.doc or operation.name,
        "operationId": f"{bound.endpoint.spec.name}.{operation.name}",
    }
    output = {"type": "array", "items": operation.output} if operation.streams else operation.output
    body = _body(
        {"type": "object", "required": ["input"], "properties": {"input": shown(operation.input)}},
        {"input": example(operation.input)},
    )
    done = _responses(_envelope(shown(output)), {"422": "The input does not fit the function"})
    queued = _responses(_envelope({}), {})
    verbs: Node = {
        f"{path}/runsync": {"post": {**head, "requestBody": body, "responses": done}},
        f"{path}/run": {"post": {**_named(head, "run"), "requestBody": body, "responses": queued}},
    }
    for verb, method in (("status", "get"), ("stream", "get"), ("cancel", "post")):
        answers = {**queued, "404": _response(_ERROR, "No such job")}
        verbs[f"{path}/{verb}/{{id}}"] = {
            method: {**_named(head, verb), "parameters": [_ID], "responses": answers}
        }
    return verbs


def _named(head: Node, verb: str) -> Node:
    summary = f"{head['summary']} ({verb})"
    return {**head, "summary": summary, "operationId": f"{head['operationId']}.{verb}"}


def _envelope(output: Node) -> Node:
    properties = {
        "id": {"type": "string"},
        "status": {"type": "string"},
        "output": output,
        "error": {"type": "string"},
    }
    return {"type": "object", "properties": properties}


def _tag(endpoint: Discovered) -> str:
    return prefix_of(endpoint).lstrip("/")


def _body(schema: Node, start: Any) -> Node:
    content = {"application/json": {"schema": schema, "example": start}}
    return {"required": True, "content": content}


def _responses(schema: Node, more: Mapping[str, str]) -> Node:
    found: Node = {"200": _response(schema, "What the function returned")}
    for status, said in {**more, "500": "The function failed"}.items():
        found[status] = _response(_ERROR, said)
    return found


def _response(schema: Node, said: str) -> Node:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


# Routes


def _route(endpoint: Discovered, route: Route) -> Node:
    properties: Node = route.input.get("properties", {})
    required = route.input.get("required", ())
    in_path = re.findall(r"{(\w+)", route.path)
    rest = {name: schema for name, schema in properties.items() if name not in in_path}
    parameters = [_parameter("path", name, properties.get(name, {}), True) for name in in_path]
    node: Node = {
        "tags": [_tag(endpoint)],
        "summary": route.doc or route.function,
        "operationId": f"{endpoint.spec.name}.{route.function}",
        "responses": _responses(shown(route.output), {"422": "A parameter is missing or wrong"}),
    }
    if route.method in _BODIED and rest:
        needed = [name for name in rest if name in required]
        schema = {"type": "object", "properties": rest, "required": needed}
        if not needed:
            schema.pop("required")
        node["requestBody"] = _body(shown(schema), example(schema))
    elif route.method not in _BODIED:
        parameters += [_parameter("query", n, s, n in required) for n, s in rest.items()]
    return {**node, "parameters": parameters}


def _parameter(place: str, name: str, schema: Node, required: bool) -> Node:
    return {"name": name, "in": place, "required": required, "schema": shown(schema)}


def _merge(endpoint: Discovered, own: Node, paths: Node, components: Node) -> None:
    """Take over what a worker says of its routes; models get names of their endpoint's own."""
    prefix = f"{endpoint.spec.name}."
    for name, schema in own.get("components", {}).get("schemas", {}).items():
        components[f"{prefix}{name}"] = _renamed(shown(schema), prefix)
    for path, methods in own.get("paths", {}).items():
        target = paths.setdefault(f"{prefix_of(endpoint)}{path}", {})
        for method, node in methods.items():
            node = {**node, "operationId": f"{prefix}{node.get('operationId', method)}"}
            target[method] = {**_renamed(shown(node), prefix), "tags": [_tag(endpoint)]}


def _renamed(node: Any, prefix: str) -> Any:
    if isinstance(node, list):
        return [_renamed(item, prefix) for item in node]
    if not isinstance(node, dict):
        return node
    start = "#/components/schemas/"
    return {
        key: f"{start}{prefix}{value.removeprefix(start)}"
        if key == "$ref" and isinstance(value, str)
        else _renamed(value, prefix)
        for key, value in node.items()
    }
