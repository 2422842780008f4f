"""HTTP as the gateway's rooms speak it: bodies within a limit in, JSON answers out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from runpod_flash.errors import ConnectionClosedError
from runpod_flash.wire.json_text import loader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    from runpod_flash.errors import StoreFullError

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

    class Sendable(Protocol):
        """A response: whole, or one that is made as it is sent."""

        async def send(self, send: Send) -> None: ...


# Of a body that is too large, so much is read and dropped: many clients look for an answer only
# once they have sent all.
_DISCARDED = 256_000_000

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; `kept` says that no crash can take back what it tells of a job."""

    status: int
    body: bytes
    media_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    kept: bool = False

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-type", self.media_type),
            (b"content-length", str(len(self.body)).encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """Ends the handling of a request with an answer that says in a sentence why."""

    def __init__(self, status: int, sentence: str, **more: Any) -> None:
        super().__init__(sentence)
        self.answer = answer(status, {"error": sentence, **more})


def wrong_method(scope: Scope, allowed: str) -> Refusal:
    """The refusal of a method that the path does not take."""
    text = (
        f"{scope['path']} takes {allowed or 'WebSockets'}, not {scope.get('method', 'WebSockets')}"
    )
    refusal = Refusal(405, text)
    headers = ((b"allow", allowed.encode("latin-1")),)
    refusal.answer = Answer(405, refusal.answer.body, headers=headers)
    return refusal


def not_now(error: StoreFullError | ConnectionClosedError) -> Answer:
    """The answer where there is no room for a job now, or while the server stops."""
    stopping = {"stopping": True} if isinstance(error, ConnectionClosedError) else {}
    return answer(503, {"error": str(error), **stopping}, (b"retry-after", b"5"))


def answer(status: int, value: Any, *headers: tuple[bytes, bytes]) -> Answer:
    """A JSON answer."""
    return Answer(status, json.dumps(value).encode(), headers=headers)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def address_of(scope: Scope) -> str:
    """This server's address, as the client calls it."""
    return f"{scope['scheme']}://{header(scope, b'host') or 'localhost'}"


def query(scope: Scope) -> dict[str, str]:
    """The query's parameters; of several with one name, the last."""
    if not scope["query_string"]:
        return {}
    from urllib.parse import parse_qsl

    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def whole_number(
    scope: Scope, name: str, default: int, allowed: tuple[int, int], unit: str = ""
) -> int:
    """A number of the query, within what is allowed."""
    given = query(scope).get(name) if scope["query_string"] else None
    if given is None:
        return default
    low, high = allowed
    digits = given.isascii() and given.isdigit() and len(given) < 12
    if not digits or not low <= int(given) <= high:
        raise Refusal(400, f"{name}={given!r} is not from {low} to {high}{unit}")
    return int(given)


async def read_body(scope: Scope, receive: Receive, limit: int, remedy: str) -> bytes:
    """The whole body; a larger one is refused before it is kept."""
    _check_coding(scope)
    first = await receive()
    body: bytes = first.get("body", b"")
    if len(body) <= limit and first["type"] == "http.request" and not first.get("more_body"):
        return body  # as nearly all are
    pieces = [piece async for piece in _pieces(first, scope, receive, limit, remedy)]
    return b"".join(pieces)


async def body_pieces(
    scope: Scope, receive: Receive, limit: int, remedy: str
) -> AsyncIterator[bytes]:
    """The body as it comes, for whoever need not have it in one piece."""
    _check_coding(scope)
    async for piece in _pieces(await receive(), scope, receive, limit, remedy):
        yield piece


def _check_coding(scope: Scope) -> None:
    coding = header(scope, b"content-encoding")
    if coding not in (None, "", "identity"):
        raise Refusal(415, f"a body in {coding} is not taken; send it as it is")


async def _pieces(
    message: Message, scope: Scope, receive: Receive, limit: int, remedy: str
) -> AsyncIterator[bytes]:
    """What the message and the ones after it bring."""
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has left")
        piece = message.get("body", b"")
        size += len(piece)
        more = message.get("more_body", False)
        if size <= limit:
            yield piece
        elif not more or size > limit + _DISCARDED:
            raise _too_large(scope, size, limit, remedy)
        if not more:
            return
        message = await receive()


def _too_large(scope: Scope, size: int, limit: int, remedy: str) -> Refusal:
    announced = header(scope, b"content-length")
    size = int(announced) if announced is not None and announced.isdigit() else size
    text = f"the body has {size / 1e6:.1f} MB and may have {limit / 1e6:.0f} MB here; {remedy}"
    return Refusal(413, text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value; use null or a string")


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # as JSON writes one
_load = loader(parse_constant=_refuse_constant)


def parse_json(body: bytes) -> Any:
    """The body's value; 400 says where it is not JSON."""
    try:
        return _load(str(body, "utf-8"))
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refusal(400, f"the body is not JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Refusal(400, f"the body cannot be read as JSON: {error}") from None


def parse_text_json(body: bytes) -> Any:
    """As `parse_json`, for what becomes names and texts: 400 also where one is no Unicode."""
    value = parse_json(body)
    if _SURROGATE.search(body):  # (in UTF-8 itself there are none)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refusal(400, "the body has half of a surrogate pair, which is no text") from None
        except RecursionError:
            raise _too_deep() from None
    return value


def _too_deep() -> Refusal:
    return Refusal(400, "the body is nested too deeply to be read as JSON")
