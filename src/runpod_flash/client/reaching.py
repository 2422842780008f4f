"""Why an address did not answer as a Flash server does, and what to do about it."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


def why_unreachable(
    origin: str, error: Exception, otherwise: str, *, answered: bool = False
) -> str:
    """The end of a sentence: the reason, and its remedy, or else what `otherwise` says.

    `origin` is `scheme://host:port`, `error` what its client raised. One that has `answered` before
    is what it should be, and is away.
    """
    reason, remedy = _known(origin, error, answered)
    return f"{reason or str(error).rstrip('.') or type(error).__name__}; {remedy or otherwise}"


def _known(origin: str, error: Exception, answered: bool) -> tuple[str, str]:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message})",
                "name the certificate of who signed it in SSL_CERT_FILE",
            )
        if isinstance(cause, ssl.SSLError) and origin.startswith("https:"):
            plain = origin.replace("https:", "http:", 1)
            return f"TLS fails ({cause.reason})", f"use {plain} where it has no certificate"
        if isinstance(cause, socket.gaierror):
            return "there is no host of that name", "check the address"
    if origin.startswith("http:") and _hung_up(error) and not answered:
        secure = origin.replace("http:", "https:", 1)
        return "it ends connections unanswered", f"use {secure} where it has a certificate"
    return "", ""


def _hung_up(error: Exception) -> bool:
    if "disconnected without" in str(error):  # httpx has no class of its own for that
        return True
    return any(isinstance(cause, ConnectionResetError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def json_of(name: str, response: httpx.Response) -> Any:
    """What a success says; None where it says nothing.

    Raises `ConfigurationError`, which calls the server `name`, where that is no JSON.
    """
    try:
        return response.json() if response.content else None
    except ValueError:
        raise ConfigurationError(f"{name}: {_no_server(response)}") from None


def words_of(response: httpx.Response) -> str:
    """Why the server refused, in its own words."""
    return words_in(response.content) or _no_server(response)


def words_in(body: bytes) -> str:
    """The words of a refusal's body; empty where they are none of a Flash server."""
    given = fields_in(body)
    said = given.get("errors") or given.get("detail") or given.get("error")
    if isinstance(said, list):
        said = "; ".join(str(each).removeprefix("$: ") for each in said)
    return str(said or "")


def fields_in(body: bytes) -> dict[str, Any]:
    """What a body has that is a JSON object; empty where it is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _no_server(response: httpx.Response) -> str:
    return (
        f"what answers there (HTTP status {response.status_code}) is no Flash server; "
        "check the address"
    )
