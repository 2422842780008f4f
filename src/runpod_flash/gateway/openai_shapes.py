"""What OpenAI's clients expect around text that a function yields or returns."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

_RAW = ("data:", "event:", ":")
DONE = b"data: [DONE]\n\n"


class Asked(NamedTuple):
    """A request: its route below /openai, its body, and the job that answers it."""

    route: str
    body: dict[str, Any]
    job_id: str
    created: int

    @property
    def chats(self) -> bool:
        return self.route.endswith("/chat/completions")

    @property
    def completes(self) -> bool:
        return self.route.endswith("/completions")


def whole(asked: Asked, values: list[Any]) -> Any:
    """The answer from all that the function gave: text as a completion, the rest as it is."""
    if asked.completes and values and all(isinstance(value, str) for value in values):
        text = "".join(values)
        return _around(asked, "", {"message": _message(text)} if asked.chats else {"text": text})
    return values[0] if len(values) == 1 else values


def event(asked: Asked, value: Any) -> bytes:
    """One value of a stream as a server-sent event; text that is one already stays as it is."""
    if isinstance(value, str):
        if value.lstrip().startswith(_RAW):
            return f"{value.rstrip()}\n\n".encode()
        if asked.completes:
            value = _piece(asked, {"content": value} if asked.chats else value)
    return _data(value)


def last_event(asked: Asked) -> bytes:
    """The event that says why a completion has ended."""
    return _data(_piece(asked, {} if asked.chats else "", "stop"))


def failure(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def failure_event(message: str, kind: str) -> bytes:
    return _data(failure(message, kind))


def status_of(value: Any) -> int:
    """The HTTP status that a worker's own error object asks for, else 200."""
    code = value.get("code") if isinstance(value, dict) and value.get("object") == "error" else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def _data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _piece(asked: Asked, given: Any, finish: str | None = None) -> dict[str, Any]:
    choice = {"delta": given} if asked.chats else {"text": given}
    return _around(asked, ".chunk", choice, finish)


def _around(
    asked: Asked, suffix: str, choice: dict[str, Any], finish: str | None = "stop"
) -> dict[str, Any]:
    kind = f"chat.completion{suffix}" if asked.chats else "text_completion"
    return {
        "id": f"{'chatcmpl' if asked.chats else 'cmpl'}-{asked.job_id}",
        "object": kind,
        "created": asked.created,
        "model": asked.body.get("model", ""),
        "choices": [{"index": 0, **choice, "finish_reason": finish, "logprobs": None}],
    }
