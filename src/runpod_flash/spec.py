"""EndpointSpec: what a declaration says, in three layers with a digest each.

A change in a layer causes the least work that it can: `build` a new environment and a rolling
replacement, `placement` a rolling replacement, `scaling` an update in place. Values of environment
variables are in no layer. The spec holds what was declared; what was resolved (exact Python, lock)
belongs to the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from runpod_flash.errors import ConfigurationError

L = TypeVar("L")

# What a build puts beside a project's own files: locks, and the packages that it brings.
PACKED = "__flash__"

EntryKind = Literal["function", "generator", "class", "routes", "external", "image"]


@dataclass(frozen=True)
class Entry:
    """Where the user's function or class is, or the first function of an endpoint's routes.

    A *file* entry names a module: `file` is its POSIX path below the project root, `root` and
    `search_path` (directories below the root that are on `sys.path`, nearest first) say where the
    tree lies on this machine and are in no digest. `others` are further files to import, where the
    routes of one endpoint stand in several. A *by-value* entry (REPL, notebook) carries the
    pickled function in `value`, for workers of Python `value_python` only. An *external* entry
    names nothing: the code is that of workers that are started elsewhere. An *image* entry names
    nothing either: the code is in the container's image. It has the `file` that declares it.
    """

    module: str
    qualname: str
    kind: EntryKind = "function"
    file: str = ""
    root: str = ""
    search_path: tuple[str, ...] = ()
    is_main: bool = False
    others: tuple[str, ...] = ()
    value: bytes | None = field(default=None, repr=False)
    value_python: str = ""

    @property
    def by_value(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class Container:
    """The image that workers run in, and what their containers are made like.

    `entrypoint` and `command` stand in the place of the image's own, `ports` are those of an HTTP
    server in it, and `health` is the path that answers 200 once it can take requests (empty: what
    is known of the image, else /ping). It may take `start_seconds` until then (0: the default).
    `python` is the interpreter that runs decorated functions. `allow` names what is forbidden
    otherwise. `registry_auth` names the variable with "user:password" for the image's registry.
    `digest` is the content that a release has found under the name; empty: what that names when a
    worker starts.
    """

    image: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    health: str = ""
    start_seconds: float = 0
    shm_gb: float = 0
    memory_gb: float = 0
    python: str = ""
    allow: tuple[str, ...] = ()
    registry_auth: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Build:
    """What an environment and its code are made of. `code` is the digest of the code itself.

    `lock` is the SHA-256 of the exact packages, which lie beside the code in `lock_file`; where it
    is empty, whoever starts workers chooses them. In a `container` the environment is the image's.
    """

    code: str
    dependencies: tuple[str, ...] = ()
    system_dependencies: tuple[str, ...] = ()
    python: str | None = None
    container: Container | None = None
    lock: str = ""

    @property
    def lock_file(self) -> str:
        """Its path below the project's root."""
        return f"{PACKED}/locks/{self.lock}.txt"


@dataclass(frozen=True)
class VolumeMount:
    """A network volume as declared: `size` in GB is a quota that warns.

    With an `id`, it is the server's volume of that id, whatever the rest says.
    """

    name: str
    datacenter: str
    size: int
    id: str = ""


@dataclass(frozen=True)
class Placement:
    """Where workers may run, and under what terms.

    `gpus` are device names in order of preference ("any" for any device); empty for CPU endpoints.
    Times are in milliseconds; 0 means no limit.
    """

    gpus: tuple[str, ...] = ()
    gpu_count: int = 1
    cpus: tuple[str, ...] = ()
    min_cuda: str | None = None
    volumes: tuple[VolumeMount, ...] = ()
    datacenters: tuple[str, ...] = ()
    max_concurrency: int = 1
    execution_timeout_ms: int = 0
    max_attempts: int = 2
    restartable: bool = False
    flashboot: bool = True
    accelerate_downloads: bool = True
    container_disk_gb: int = 0


@dataclass(frozen=True)
class Scaling:
    """How many workers, when: bounds, seconds an idle worker is kept, and the scaler.

    Where that is `learned`, `idle_timeout` is what a cold start is worth in such seconds.
    """

    workers_min: int = 0
    workers_max: int = 1
    idle_timeout: float = 60
    scaler: Literal["QUEUE_DELAY", "REQUEST_COUNT"] = "QUEUE_DELAY"
    scaler_value: float = 4
    learned: bool = False


@dataclass(frozen=True)
class EndpointSpec:
    """The single description of an endpoint that build, autoscaler, engine and worker consume.

    `app` is what the endpoint belongs to where a plane serves several, and is in no digest.
    """

    name: str
    entry: Entry
    build: Build
    placement: Placement = Placement()
    scaling: Scaling = Scaling()
    app: str = ""

    @cached_property
    def key(self) -> str:
        """Identity inside one plane: two functions may share a name, not a worker.

        By the file, for one file may be imported under several names. An app's code moves as it
        changes, so that its endpoints are known by the file's place in it.
        """
        entry, app = self.entry, f"{self.app}:" if self.app else ""
        if entry.kind in ("routes", "external", "image"):
            return f"{app}{self.name}:{entry.kind}"
        place = entry.module
        if not entry.by_value:
            place = entry.file if app else os.path.realpath(Path(entry.root, entry.file))
        return f"{app}{self.name}:{place}:{entry.qualname}"

    @property
    def external(self) -> bool:
        """Whether only workers from elsewhere serve it."""
        return self.entry.kind == "external"

    @property
    def is_image(self) -> bool:
        """Whether what it runs is the image's own program, and no function of the project."""
        return self.entry.kind == "image"

    @property
    def uses_gpu(self) -> bool:
        return bool(self.placement.gpus)

    @property
    def declared(self) -> EndpointSpec:
        """As its code declares it: without what a release has found under its image's name."""
        return self.pinned("")

    def pinned(self, digest: str) -> EndpointSpec:
        """With workers of that content of its image."""
        if self.build.container is None:
            return self
        container = replace(self.build.container, digest=digest)
        return replace(self, build=replace(self.build, container=container))

    @property
    def build_digest(self) -> str:
        layer = asdict(self.build)
        for unordered in ("dependencies", "system_dependencies"):
            layer[unordered] = sorted(layer[unordered])
        layer["entry"] = [self.entry.module, self.entry.qualname, self.entry.kind, self.entry.file]
        return _digest(layer)

    @property
    def placement_digest(self) -> str:
        layer = asdict(self.placement)
        layer["datacenters"] = sorted(layer["datacenters"])
        layer["volumes"] = sorted(layer["volumes"], key=lambda mount: sorted(mount.items()))
        return _digest(layer)

    @property
    def scaling_digest(self) -> str:
        return _digest(asdict(self.scaling))

    def to_wire(self) -> dict[str, Any]:
        """As JSON values, for a worker that calls this endpoint and for the control API."""
        wire = asdict(self)
        value = self.entry.value
        wire["entry"]["value"] = None if value is None else value.hex()
        return wire

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> EndpointSpec:
        """The inverse of `to_wire`.

        Raises `ConfigurationError` (a `ValueError`) for what is missing, unknown or no value of
        its field: another version of Flash may have written it.
        """
        try:
            entry = dict(wire["entry"])
            if entry["value"] is not None:
                entry["value"] = bytes.fromhex(entry["value"])
            placement = dict(wire["placement"])
            placement["volumes"] = [_layer(VolumeMount, mount) for mount in placement["volumes"]]
            build = dict(wire["build"])
            if build["container"] is not None:
                build["container"] = _layer(Container, build["container"])
            layers = {
                "entry": _layer(Entry, entry),
                "build": _layer(Build, build),
                "placement": _layer(Placement, placement),
                "scaling": _layer(Scaling, wire["scaling"]),
            }
            return _layer(cls, {**wire, **layers})
        except KeyError as error:
            raise ConfigurationError(f"an endpoint's spec lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"an endpoint's spec cannot be read: {error}") from None


def _layer(layer: type[L], values: dict[str, Any]) -> L:
    known = {f.name: str(f.type) for f in fields(layer)}  # type: ignore[arg-type]
    given = dict(values)
    if given.keys() != known.keys():
        odd = ", ".join(sorted(map(str, given.keys() ^ known.keys())))
        raise ValueError(f"{layer.__name__} lacks or does not know {odd}")
    for name, kind in known.items():
        if kind.startswith("tuple"):
            given[name] = tuple(given[name])
    return layer(**given)


def _digest(layer: dict[str, Any]) -> str:
    text = json.dumps(layer, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
