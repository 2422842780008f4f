"""Images: pulled once, with progress, and looked into before a container is made of one."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.docker.connection import calls, explanation
from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.errors import WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runpod_flash.engines.docker.connection import Connection

# Lines of progress come at most so often.
_LINE_SECONDS = 5.0
_DENIED = re.compile(r"unauthorized|denied|authentication required|no basic auth|\b40[13]\b")
_ABSENT = re.compile(r"not found|manifest unknown|name unknown|does not exist|\b404\b")


@dataclass(frozen=True)
class Image:
    """An image that is here. `id` changes with its content; `ports` are those that it exposes."""

    name: str
    id: str
    ports: tuple[int, ...]
    digest: str = ""


class Images:
    """Every method blocks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._pulls: dict[str, threading.Lock] = {}

    def ensure(self, name: str, credentials: str, report: Callable[[str], None]) -> Image:
        """The image, pulled if it is not here; `credentials` are "user:password" or empty.

        Raises `WorkerStartError` where it cannot be had, or is for other machines.
        """
        with self._lock:
            lock = self._pulls.setdefault(name, threading.Lock())
        with lock:
            found = self._look(name)
            if found is None:
                self._pull(name, credentials, report)
                found = self._look(name)
        if found is None:
            raise WorkerStartError(f"the image {name!r} was pulled and is not there")
        self._check_architecture(name, found)
        exposed = (found.get("Config") or {}).get("ExposedPorts") or {}
        ports = [int(port.partition("/")[0]) for port in exposed if not port.endswith("/udp")]
        digest = next(iter(found.get("RepoDigests") or ()), "").rpartition("@")[2]
        return Image(name, found["Id"], tuple(sorted(ports)), digest or found["Id"])

    def _look(self, name: str) -> Any:
        import docker

        with calls(self._connection.address):
            try:
                return self._connection.api.inspect_image(name)
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError as error:
                # (Podman takes a short name that several registries might have for an error.)
                if error.status_code is not None and error.status_code < 500:
                    raise WorkerStartError(_wrong(name, explanation(error))) from None
                return None

    def _check_architecture(self, name: str, found: Any) -> None:
        own, its = self._connection.architecture, found.get("Architecture") or ""
        if _common(its) and _common(own) and _common(its) != _common(own):
            raise WorkerStartError(
                f"the image {name!r} is for {its}, and this machine is {own}: build or name one "
                f"for linux/{_common(own)}"
            )

    def _pull(self, name: str, credentials: str, report: Callable[[str], None]) -> None:
        import docker

        repository, tag = _split(name)
        report(f"pulls {name}")
        began = time.monotonic()
        with calls(self._connection.address):
            try:
                told = self._connection.api.pull(
                    repository, tag=tag, stream=True, decode=True, auth_config=_auth(credentials)
                )
                size = _follow(name, told, report)
            except docker.errors.APIError as error:
                raise WorkerStartError(_wrong(name, explanation(error))) from None
            except ValueError as error:
                raise WorkerStartError(_wrong(name, str(error))) from None
        took = time.monotonic() - began
        report(f"pulled {name}{f', {human_bytes(size)}' if size else ''} in {took:.0f} s")


def _follow(name: str, told: Iterable[dict[str, Any]], report: Callable[[str], None]) -> int:
    """Report the progress of a pull; the bytes that it has brought, where that is told."""
    layers: dict[str, tuple[int, int]] = {}
    said = time.monotonic()
    for step in told:
        if problem := step.get("error"):
            raise WorkerStartError(_wrong(name, str(problem)))
        progress = step.get("progressDetail") or {}
        if step.get("status") == "Downloading" and progress.get("total"):
            layers[str(step.get("id"))] = progress.get("current", 0), progress["total"]
            if time.monotonic() - said > _LINE_SECONDS:
                said = time.monotonic()
                done, total = (sum(each) for each in zip(*layers.values(), strict=True))
                report(f"pulls {name}: {human_bytes(done)} of {human_bytes(total)}")
    return sum(total for _, total in layers.values())


def _wrong(name: str, told: str) -> str:
    """Why there is no such image, with what to do."""
    lower = told.lower().replace(name, "")
    first = told.splitlines()[0][:300] if told else "no reason given"
    if _DENIED.search(lower):
        registry = registry_of(name)
        return (
            f"the registry {registry} gives {name!r} to nobody without credentials, or has none of "
            f"that name: `docker login {registry}`, or name a variable with 'user:password' in "
            "template=PodTemplate(containerRegistryAuthId=...)"
        )
    if _ABSENT.search(lower):
        return f"there is no image {name!r}: check its name and tag ({first})"
    return f"the image {name!r} could not be pulled: {first}"


def registry_of(name: str) -> str:
    """The registry of an image's name; Docker's own where it names none."""
    first, slash, _ = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else "docker.io"


def _split(name: str) -> tuple[str, str]:
    """Repository, and tag or digest."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def _auth(credentials: str) -> dict[str, str] | None:
    """What the engine is given; None has the client look where `docker login` writes."""
    if not credentials:
        return None
    user, _, password = credentials.partition(":")
    return {"username": user, "password": password}


def _common(architecture: str) -> str:
    """One name for each architecture, as images have them."""
    names = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
    return names.get(architecture, architecture)


def checked_credentials(variable: str, env: Any) -> str:
    """The credentials that a variable holds. Raises `WorkerStartError` where it is not set."""
    if not variable:
        return ""
    value = str(env.get(variable, ""))
    if ":" not in value:
        raise WorkerStartError(
            f"containerRegistryAuthId={variable!r}: set the variable {variable} to 'user:password' "
            "in env=, or by `flash secret set`"
        )
    return value
