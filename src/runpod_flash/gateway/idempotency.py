"""Requests that may be sent twice: the header `Idempotency-Key` makes the job's id.

The store gives the job that is there for an id that it has, also after a restart, so that nothing
else has to be remembered. A key is known as long as its job is kept.
"""

from __future__ import annotations

import os
import re
import uuid
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Refusal, header

if TYPE_CHECKING:
    from runpod_flash.gateway.messages import Scope
    from runpod_flash.plane.store.base import Job, NewJob

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_NAMESPACE = uuid.UUID("5f1a1d52-6e0c-4f43-9d6c-3c1d4b9a2f70")


def new_id() -> str:
    """A UUID of random bits (version 4), in a third of the time that `uuid.uuid4` takes."""
    random = os.urandom(16).hex()
    variant = "89ab"[int(random[16], 16) & 3]
    return f"{random[:8]}-{random[8:12]}-4{random[13:16]}-{variant}{random[17:20]}-{random[20:]}"


def job_id(scope: Scope, endpoint: str, verb: str) -> str:
    """The id of a job that `run` or `runsync` submits; of a key's, always the same."""
    key = header(scope, b"idempotency-key")
    if key is None:
        unique = new_id()
    elif _KEY.fullmatch(key):
        unique = str(uuid.uuid5(_NAMESPACE, f"{endpoint}\n{verb}\n{key}"))
    else:
        raise Refusal(400, "Idempotency-Key has 1 to 255 visible ASCII characters")
    return f"sync-{unique}" if verb == "runsync" else f"{unique}-u1"


def check_same(scope: Scope, new: NewJob, job: Job) -> None:
    """Refuse (409) a request whose key is that of another one's job."""
    asked = (new.call.payload, new.call.method, new.webhook, new.extras)
    if asked != (job.call.payload, job.call.method, job.webhook, job.extras):
        key = header(scope, b"idempotency-key")
        raise Refusal(
            409, f"the Idempotency-Key {key!r} is that of another request; give this one its own"
        )
