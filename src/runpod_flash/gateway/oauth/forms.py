"""Requests below /oauth, as programs and browsers send them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from runpod_flash.gateway.messages import Answer, Refusal, read_body

if TYPE_CHECKING:
    from runpod_flash.gateway.messages import Receive, Scope

_BODY_LIMIT = 16_384
_LONGEST_MACHINE = 60
_SOME_MACHINE = "a machine"


async def form_text(scope: Scope, receive: Receive) -> str:
    """The form that was sent, encoded as it came."""
    body = await read_body(scope, receive, _BODY_LIMIT, "it holds a few fields")
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not a form: send it as x-www-form-urlencoded") from None


def fields(text: str) -> dict[str, str]:
    """The fields of a form; of several with one name, the last."""
    return dict(parse_qsl(text, keep_blank_values=True))


def client_of(scope: Scope) -> str:
    """The network address that the request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def machine_name(text: str) -> str:
    """What a machine calls itself, fit to be read: it may be anything."""
    kept = "".join(each for each in " ".join(text.split()) if each.isprintable())
    return kept[:_LONGEST_MACHINE].strip() or _SOME_MACHINE


def redirect(location: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Sends a browser on, by GET."""
    more = ((b"location", location.encode("ascii", "ignore")), (b"cache-control", b"no-store"))
    return Answer(303, b"", b"text/plain", (*more, *headers))
