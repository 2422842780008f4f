"""The OpenAPI description of the control API: resources, and what may be done to each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.gateway.openapi import shown
from runpod_flash.gateway.serverless_bodies import (
    ENDPOINT_CREATED,
    ENDPOINT_UPDATED,
    REGISTRY_CREATED,
    TEMPLATE_CREATED,
    TEMPLATE_UPDATED,
)
from runpod_flash.gateway.volume_files_api import FILES_ASKED, UPLOAD_BEGUN, UPLOAD_COMMITTED
from runpod_flash.gateway.volumes_api import VOLUME_CREATED, VOLUME_UPDATED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    Node = dict[str, Any]

_TEXT: Node = {"type": "string"}
_PROBLEM: Node = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {"type": "array", "items": _TEXT},
    },
}
_KEY_CREATED: Node = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _TEXT,
        "scope": {**_TEXT, "enum": ["invoke", "deploy", "admin"]},
        "endpoints": {"type": "array", "items": _TEXT},
        "expiresIn": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}
_INVITATION_CREATED: Node = {
    **_KEY_CREATED,
    "properties": {**_KEY_CREATED["properties"], "validFor": {"type": "integer", "minimum": 1}},
}
_SECRET: Node = {
    "type": "object",
    "required": ["value"],
    "properties": {"value": _TEXT},
    "additionalProperties": False,
}


_BYTES = "application/octet-stream"
_ANY_BYTES: Node = {"type": "string", "format": "binary"}


class _Operation(NamedTuple):
    method: str
    path: str
    summary: str
    status: int = 200
    body: Node | None = None
    listed: str = ""
    query: tuple[str, ...] = ()
    media: str = "application/json"


_OPERATIONS = (
    _Operation("get", "serverless", "The endpoints that are deployed", listed="endpoints"),
    _Operation("post", "serverless", "Make one from an image", 201, ENDPOINT_CREATED.schema),
    _Operation("get", "serverless/{id}", "An endpoint"),
    _Operation("patch", "serverless/{id}", "Change it", body=ENDPOINT_UPDATED.schema),
    _Operation("delete", "serverless/{id}", "End it, with its jobs and workers", 204),
    _Operation("get", "serverless/{id}/releases", "What has changed it", listed="releases"),
    _Operation("get", "serverless/{id}/workers", "The workers that it has", listed="workers"),
    _Operation("get", "templates", "The templates", listed="templates"),
    _Operation("post", "templates", "Make one", 201, TEMPLATE_CREATED.schema),
    _Operation("get", "templates/{id}", "A template"),
    _Operation("patch", "templates/{id}", "Change it", body=TEMPLATE_UPDATED.schema),
    _Operation("delete", "templates/{id}", "End it", 204),
    _Operation("get", "registries", "Credentials of registries", listed="registries"),
    _Operation("post", "registries", "Keep some", 201, REGISTRY_CREATED.schema),
    _Operation("get", "registries/{id}", "Their name"),
    _Operation("delete", "registries/{id}", "Forget them", 204),
    _Operation(
        "get", "catalog/gpus", "GPUs of the nodes", listed="gpus", query=("include", "product")
    ),
    _Operation("get", "catalog/gpus/{id}", "One kind of them", query=("include", "product")),
    _Operation("get", "catalog/cpus", "Kinds of CPUs", listed="cpus", query=("include", "product")),
    _Operation("get", "catalog/cpus/{id}", "One kind of them", query=("include", "product")),
    _Operation(
        "get",
        "catalog/datacenters",
        "Data centers",
        listed="dataCenters",
        query=("include", "regions", "networkVolumeTypes", "compliance", "globalNetwork"),
    ),
    _Operation("get", "catalog/datacenters/{id}", "One of them", query=("include",)),
    _Operation("get", "catalog/templates", "Public templates: none", listed="templates"),
    _Operation("get", "network-volumes", "The volumes", listed="networkVolumes"),
    _Operation("post", "network-volumes", "Make one", 201, VOLUME_CREATED.schema),
    _Operation("get", "network-volumes/{id}", "A volume"),
    _Operation("patch", "network-volumes/{id}", "Change it", body=VOLUME_UPDATED.schema),
    _Operation("delete", "network-volumes/{id}", "Delete it, with its files", 204),
    _Operation(
        "get",
        "network-volumes/{id}/files",
        "What is in a folder of it",
        listed="files",
        query=("path", "deep", "cursor"),
    ),
    _Operation("get", "network-volumes/{id}/files/{path}", "A file of it", media=_BYTES),
    _Operation("put", "network-volumes/{id}/files/{path}", "Put a file there", 201, _ANY_BYTES),
    _Operation("delete", "network-volumes/{id}/files/{path}", "Remove a file or a folder", 204),
    _Operation(
        "post",
        "network-volumes/{id}/missing",
        "Which files are not there so",
        body=FILES_ASKED.schema,
        listed="missing",
    ),
    _Operation(
        "post",
        "network-volumes/{id}/uploads",
        "Take up a file that comes in parts",
        body=UPLOAD_BEGUN.schema,
    ),
    _Operation(
        "put", "network-volumes/{id}/uploads/{sha256}/{number}", "A part of it", 204, _ANY_BYTES
    ),
    _Operation(
        "post",
        "network-volumes/{id}/uploads/{sha256}/commit",
        "All of its parts have come",
        201,
        UPLOAD_COMMITTED.schema,
    ),
    _Operation("get", "apps", "The apps that are deployed", listed="apps"),
    _Operation("get", "apps/{app}", "An app"),
    _Operation("delete", "apps/{app}", "End it, with all that it has", 204),
    _Operation("get", "apps/{app}/environments/{env}", "An environment of an app"),
    _Operation("delete", "apps/{app}/environments/{env}", "End it, with all that it has", 204),
    _Operation("get", "apps/{app}/environments/{env}/releases", "Its releases", listed="releases"),
    _Operation("get", "apps/{app}/environments/{env}/releases/{number}", "A release"),
    _Operation(
        "post", "apps/{app}/environments/{env}/releases/{number}/activate", "Serve it again", 202
    ),
    _Operation("get", "apps/{app}/environments/{env}/secrets", "Names", listed="secrets"),
    _Operation("put", "apps/{app}/environments/{env}/secrets/{name}", "Set a secret", body=_SECRET),
    _Operation("delete", "apps/{app}/environments/{env}/secrets/{name}", "Unset it"),
    _Operation("get", "keys", "The keys of the server", listed="keys"),
    _Operation("post", "keys", "Make one: the answer alone shows it", 201, _KEY_CREATED),
    _Operation("get", "keys/{id}", "A key, but for its secret"),
    _Operation("delete", "keys/{id}", "Revoke it", 204),
    _Operation("get", "invitations", "Links that make a key", listed="invitations"),
    _Operation("post", "invitations", "Make one, which works once", 201, _INVITATION_CREATED),
    _Operation("delete", "invitations/{id}", "End it", 204),
    _Operation("get", "account", "Whose key asks"),
)


def control_paths(resources: Collection[str]) -> Node:
    """The paths of the resources that a server has, by their names below /v2."""
    paths: Node = {}
    for each in _OPERATIONS:
        if each.path.split("/")[0] in resources:
            paths.setdefault(f"/v2/{each.path}", {})[each.method] = _node(each)
    return paths


def _node(operation: _Operation) -> Node:
    schema: Node = {"type": "object"}
    if operation.listed:
        items = {"type": "array", "items": {}}
        schema |= {"required": [operation.listed], "properties": {operation.listed: items}}
    done: Node = {"description": "Done"}
    if operation.media == _BYTES:
        done["content"] = {_BYTES: {"schema": _ANY_BYTES}}
    elif operation.status != 204:
        done["content"] = {operation.media: {"schema": schema}}
    refused = {"application/problem+json": {"schema": _PROBLEM}}
    node: Node = {
        "tags": [operation.path.split("/")[0]],
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": {
            str(operation.status): done,
            "default": {"description": "Why not", "content": refused},
        },
    }
    if operation.body is not None:
        media = _BYTES if operation.body is _ANY_BYTES else "application/json"
        content = {media: {"schema": _in_words_of_openapi(operation.body)}}
        node["requestBody"] = {"required": True, "content": content}
    return node


def _parameters(operation: _Operation) -> Iterator[Node]:
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": _TEXT}
    for name in operation.query:
        yield {"name": name, "in": "query", "required": False, "schema": _TEXT}


def _in_words_of_openapi(schema: Any) -> Any:
    """OpenAPI 3.0 knows neither the type null nor patterns for names."""
    if isinstance(schema, list):
        return [_in_words_of_openapi(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "propertyNames"}
    return shown({key: _in_words_of_openapi(value) for key, value in kept.items()})
