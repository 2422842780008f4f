"""Refusals of the control API, as RFC 9457 has them."""

from __future__ import annotations

import json
from http import HTTPStatus

from runpod_flash.gateway.messages import Answer, Refusal

_MEDIA_TYPE = b"application/problem+json"


def problem(status: int, detail: str, *errors: str) -> Refusal:
    """A refusal; `errors` has an entry for each parameter or field that is wrong."""
    body: dict[str, object] = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = errors
    refusal = Refusal(status, detail)
    refusal.answer = Answer(status, json.dumps(body).encode(), _MEDIA_TYPE)
    return refusal


def invalid(*errors: str) -> Refusal:
    """The refusal of a body whose fields are wrong: a sentence for each."""
    return problem(422, "Request validation failed.", *errors)


def as_problem(refusal: Refusal) -> Answer:
    """What another room refused, in these words."""
    given = refusal.answer
    if given.media_type == _MEDIA_TYPE:
        return given
    worded = problem(given.status, str(refusal)).answer
    return Answer(worded.status, worded.body, worded.media_type, given.headers)
