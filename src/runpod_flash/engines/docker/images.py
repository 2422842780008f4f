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
    from collections.abc import Callable, Iterable, Mapping

    from runpod_flash.engines.docker.connection import Connection

# Lines of progress come at most so often.
_LINE_SECONDS = 5.0
_DENIED = re.compile(r"unauthorized|denied|authentication required|no basic auth|\b40[13]\b")
_ABSENT = re.compile(r"not found|manifest unknown|name unknown|does not exist|\b404\b")


@dataclass(frozen=True)
class Image:
    """An image that is here. `id` changes with its content; `ports` are those that it exposes.

    `digest` is what its content is called elsewhere too, or `id` where it came from nowhere.
    """

    name: str
    id: str
    ports: tuple[int, ...]
    digest: str = ""


class Images:
    """Those of the engine of a connection. Every method blocks."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._lock = threading.Lock()
        self._pulls: dict[str, threading.Lock] = {}

    def ensure(
        self, name: str, credentials: str, report: Callable[[str], None], digest: str = ""
    ) -> Image:
        """The image, pulled if it is not here; `credentials` are "user:password" or empty.

        With a digest, it has that content, whatever its name means by now. Raises
        `WorkerStartError` where it cannot be had, or is for other machines.
        """
        wanted = f"{_split(name)[0]}@{digest}" if digest else name
        with self._lock:
            lock = self._pulls.setdefault(wanted, threading.Lock())
        with lock:
            found = self.find(name, digest)
            if found is None:
                self._pull(wanted, credentials, report)
                found = self.find(name, digest)
        if found is None:
            raise WorkerStartError(f"the image {wanted!r} was pulled and is not there")
        return found

    def find(self, name: str, digest: str = "") -> Image | None:
        """The image, if it is here. Raises `WorkerStartError` if it is for other machines."""
        # (What was built here and never pushed is known by its id alone.)
        wanted = (f"{_split(name)[0]}@{digest}", digest) if digest else (name,)
        found = next(filter(None, map(self._look, wanted)), None)
        if found is None:
            return None
        self._check_architecture(name, found)
        exposed = (found.get("Config") or {}).get("ExposedPorts") or {}
        ports = [int(port.partition("/")[0]) for port in exposed if not port.endswith("/udp")]
        return Image(name, found["Id"], tuple(sorted(ports)), digest or content(name, found))

    def _look(self, name: str) -> Any:
        import docker

        with calls(self.connection.address):
            try:
                return self.connection.api.inspect_image(name)
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError as error:
                # (Podman takes a short name that several registries might have for an error.)
                if error.status_code is not None and error.status_code < 500:
                    raise WorkerStartError(_wrong(name, explanation(error))) from None
                return None

    def _check_architecture(self, name: str, found: Any) -> None:
        own, its = self.connection.architecture, found.get("Architecture") or ""
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
        with calls(self.connection.address):
            try:
                told = self.connection.api.pull(
                    repository, tag=tag, stream=True, decode=True, auth_config=_auth(credentials)
                )
                size = _follow(name, told, report)
            except docker.errors.APIError as error:
                raise WorkerStartError(_wrong(name, explanation(error))) from None
            except docker.errors.DockerException as error:  # of the client itself
                raise WorkerStartError(_not_asked(name, str(error))) from None
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


def _not_asked(name: str, told: str) -> str:
    """Why the client itself could not pull it, with what to do."""
    remedy = (
        "; install the helper that credsStore or credHelpers in ~/.docker/config.json names, or "
        "take it out there, or name a variable with 'user:password' in "
        "template=PodTemplate(containerRegistryAuthId=...)"
    )
    about_helper = told.startswith("Credentials store")
    return f"the image {name!r} could not be pulled: {told}{remedy if about_helper else ''}"


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


def content(name: str, found: Mapping[str, Any]) -> str:
    """The digest by which a registry has what an engine has found; else what the engine calls it.

    (An image may have several of one registry: of itself, and of a list with other machines'.)
    """
    own = _canonical(_split(name)[0])
    digests = (each.rpartition("@") for each in found.get("RepoDigests") or ())
    return min((d for of, _, d in digests if _canonical(of) == own), default=str(found["Id"]))


def _canonical(repository: str) -> str:
    """One name for each repository: engines may leave out or add what is Docker's own."""
    return repository.removeprefix("docker.io/").removeprefix("library/")


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
