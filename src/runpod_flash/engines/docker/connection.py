"""The container engine that is asked: found as Docker's own tools find it, and its errors."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where engines listen that no variable names, in the order in which they are tried.
_SOCKETS = (
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "{runtime}/docker.sock",
    "{runtime}/podman/podman.sock",
    "{home}/.docker/run/docker.sock",
    "{home}/.colima/default/docker.sock",
    "{home}/.orbstack/run/docker.sock",
)
_SECONDS = 60


class EngineGoneError(OSError):
    """The container engine has answered before, and does not now."""


class Connection:
    """An engine that has answered. Its calls block: they belong on threads of their own.

    `direct`: its containers' own addresses can be reached from here. `podman` where it is one.
    """

    def __init__(self, client: Any, address: str) -> None:
        self.api = client
        self.address = address
        version = client.version()
        info = client.info()
        parts = {str(each.get("Name")) for each in version.get("Components") or ()}
        rootless = any("rootless" in each for each in info.get("SecurityOptions") or ())
        desktop = "Desktop" in str(info.get("OperatingSystem"))
        local = address.startswith(("unix://", "http+unix://"))
        self.podman = any("Podman" in name for name in parts)
        self.architecture = str(version.get("Arch") or info.get("Architecture") or "")
        self.direct = sys.platform == "linux" and local and not rootless and not desktop
        self.desktop = desktop
        self.cores = int(info.get("NCPU") or 1)
        self.memory = int(info.get("MemTotal") or 0)

    def gateway(self) -> str:
        """The address by which containers on its bridge reach this machine."""
        for name in ("bridge", "podman"):
            try:
                configuration = self.api.inspect_network(name)["IPAM"]["Config"]
            except Exception:
                continue
            for each in configuration or ():
                if each.get("Gateway") and ":" not in each["Gateway"]:
                    return str(each["Gateway"])
        return ""


def connect(address: str = "") -> Connection:
    """Connect to the engine that is there, or to that at an address.

    Raises `WorkerStartError` where there is none, or no client for it.
    """
    try:
        import docker
    except ImportError:
        raise WorkerStartError(
            "image= needs the client of container engines: pip install docker"
        ) from None
    address = address or engine_address()
    try:
        _knock(address)
        client = docker.APIClient(
            base_url=address, version="auto", timeout=_SECONDS, tls=_tls(address)
        )
        return Connection(client, address)
    except (docker.errors.DockerException, OSError) as error:
        raise WorkerStartError(_no_engine(address, error)) from None


def engine_address() -> str:
    """`DOCKER_HOST`, else the first of the usual sockets that is there."""
    named = os.environ.get("DOCKER_HOST")
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    candidates = [each.format(runtime=runtime, home=Path.home()) for each in _SOCKETS]
    found = next((each for each in candidates if Path(each).exists()), candidates[0])
    return f"unix://{found}"


def _knock(address: str) -> None:
    """Raise `OSError` where nobody listens: the client would leave a socket open."""
    if address.startswith("unix://"):
        with closing(socket.socket(socket.AF_UNIX)) as found:
            found.connect(address.removeprefix("unix://"))


def _tls(address: str) -> Any:
    if not os.environ.get("DOCKER_TLS_VERIFY") or not address.startswith("tcp://"):
        return False
    from docker.utils import kwargs_from_env

    return kwargs_from_env().get("tls", False)


def _no_engine(address: str, error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text or isinstance(error, PermissionError):
        return (
            f"the container engine at {address} may not be asked by this user: add the user to its "
            "group (Docker: `sudo usermod -aG docker $USER`), or name another one in DOCKER_HOST"
        )
    return (
        f"no container engine answers at {address}: start Docker, or Podman by `podman system "
        "service --time=0`, or name its socket in DOCKER_HOST"
    )


@contextmanager
def calls(address: str) -> Iterator[None]:
    """Turn the errors of a connection that has broken into `EngineGoneError`."""
    import docker

    try:
        _knock(address)
        yield
    except docker.errors.APIError:  # (an OSError as well: it has answered)
        raise
    except OSError as error:
        text = f"the container engine at {address} does not answer any more ({_cause(error)})"
        raise EngineGoneError(text) from None


def _cause(error: Exception) -> str:
    return type(error.args[0] if error.args else error).__name__


def explanation(error: Any) -> str:
    """What the engine says of a request that it refused."""
    return str(getattr(error, "explanation", None) or error).strip().rstrip(".")
