"""What RunPod's workers are told of a job, and what they say of its end, as JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.results import NotJsonError, to_json
from runpod_flash.links.runpod_http import Ending
from runpod_flash.wire.codec import decode, encode
from runpod_flash.wire.failures import Failure

if TYPE_CHECKING:
    from runpod_flash.plane.store.base import Call, Job
    from runpod_flash.wire.codec import Payload

# "<class 'package.module.Error'>", as the package writes types.
_TYPE = re.compile(r"<class '(?:(?P<module>.+)\.)?(?P<name>[^.']+)'>")
# Names that a job's other fields may not have: the package makes attributes of them.
_RESERVED = ("id", "input", "self")


class Said(NamedTuple):
    """What a worker says of a job: its end or its progress. `leaves` asks to be replaced."""

    ending: Ending | None = None
    progress: Payload | None = None
    leaves: bool = False


def job_json(job: Job) -> bytes:
    """The job as a handler gets it. Raises `NotJsonError` for arguments that are none."""
    extras = json.loads(job.extras) if job.extras else {}
    fields = {name: value for name, value in extras.items() if name not in _RESERVED}
    if job.webhook:
        fields["webhook"] = job.webhook
    head = json.dumps({**fields, "id": job.id}, ensure_ascii=False).encode()
    return head[:-1] + b', "input": ' + _input(job.call) + b"}"


def _input(call: Call) -> bytes:
    if call.form == "input" and not call.method:
        return to_json(call.payload)
    value = _arguments(call)
    if call.method and isinstance(value, dict):
        value = {"method": call.method, **value}
    return to_json(encode(value))


def _arguments(call: Call) -> Any:
    """The arguments of a call as one value: those with names, or a single one without."""
    if call.payload.pickled:
        raise NotJsonError("its arguments are no JSON values, and its worker takes no others")
    value = decode(call.payload, trusted=False)
    if call.form == "input":
        return value
    args, kwargs = value["args"], value["kwargs"]
    if args and (kwargs or len(args) > 1):
        raise NotJsonError("its worker takes arguments by name, or a single one")
    return args[0] if args else kwargs


def read_done(body: bytes) -> Said:
    """What the body of a `job-done` says. One that cannot be read is a failure of the job's."""
    try:
        value = _parse(body)
    except Refusal as refusal:
        return Said(failed(f"the worker's result cannot be read: {refusal}"))
    if not isinstance(value, dict):
        return Said(Ending(encode(value)))
    if value.get("status") == "IN_PROGRESS":
        return Said(progress=encode(value.get("output")))
    leaves = bool(value.get("stopPod"))
    return Said(_ending(value), leaves=leaves)


def _ending(value: dict[str, Any]) -> Ending:
    # (A handler that returns {} posts {}, and one that only wants to be replaced no output either.)
    empty: Any = None if "stopPod" in value else {}
    output = encode(value["output"]) if "output" in value else None
    if value.get("error") is not None:
        return Ending(output, failure_of(value["error"]))
    return Ending(output if output is not None else encode(empty))


def _parse(body: bytes) -> Any:
    """The value of a worker's JSON, which may have NaN; raises `Refusal` for what is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None


def failure_of(error: Any) -> Failure:
    """The exception that an `error` tells of: JSON text with its type, or a text by itself."""
    try:
        told = json.loads(error)
        found = _TYPE.fullmatch(told["error_type"])
        message, traceback = str(told["error_message"]), str(told.get("error_traceback") or "")
    except (ValueError, TypeError, KeyError, RecursionError):
        return _plain(error if isinstance(error, str) else json.dumps(error))
    if found is None:
        return Failure("builtins", str(told["error_type"]), message, traceback)
    return Failure(found["module"] or "builtins", found["name"], message, traceback)


def failed(text: str) -> Ending:
    """The end of a job by a fault that its worker does not know of."""
    return Ending(failure=Failure("runpod_flash.errors", "WorkerLostError", text, origin="system"))


def _plain(text: str) -> Failure:
    """A failure of no known type; a generator's has its traceback in the text."""
    message, _, traceback = text.partition(" \ntraceback: ")
    return Failure("builtins", "", message, traceback)


def read_chunk(body: bytes) -> Payload:
    """A stream's next value. Raises `Refusal` for a body that is none."""
    value = _parse(body)
    return encode(value.get("output") if isinstance(value, dict) else value)
