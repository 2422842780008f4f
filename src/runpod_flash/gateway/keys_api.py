"""/v2/keys: an admin lists, makes and revokes the keys of the server."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from runpod_flash.control.key import KeyScope
from runpod_flash.control.keys import LastAdminError, NameTakenError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.messages import Answer, answer, wrong_method
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.resources import page, read_fields
from runpod_flash.gateway.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runpod_flash.control.key import Key
    from runpod_flash.control.keys import Keys
    from runpod_flash.gateway.messages import Receive, Refusal, Scope

FIELDS = ("name", "scope", "endpoints", "expiresIn")
_LONGEST_SECONDS = 10 * 366 * 86_400
# An answer that holds a key is for one reader.
NO_STORE = (b"cache-control", b"no-store")


class KeysApi:
    """A `Resource`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        require(scope, "admin")
        method = scope["method"]
        if not rest or list(rest) == [""]:
            if method == "GET":
                return self._list()
            if method == "POST":
                return await self._create(scope, receive)
            raise wrong_method(scope, "GET, POST")
        if len(rest) > 1:
            raise problem(404, f"nothing is at {scope['path']}; keys are at /v2/keys/ID")
        if method == "GET":
            return answer(200, shown(self._keys, self._key(rest[0])))
        if method == "DELETE":
            return await self._revoke(rest[0])
        raise wrong_method(scope, "GET, DELETE")

    def _list(self) -> Answer:
        return answer(200, page("keys", (shown(self._keys, key) for key in self._keys.ring)))

    async def _create(self, scope: Scope, receive: Receive) -> Answer:
        fields = await read_fields(scope, receive, FIELDS)
        wrong = list(wrong_fields(fields))
        if wrong:
            raise invalid(*wrong)
        with making_key():
            new = await self._keys.create(
                fields["name"],
                fields.get("scope", "invoke"),
                tuple(dict.fromkeys(fields.get("endpoints", ()))),
                fields.get("expiresIn"),
            )
        return answer(201, {**shown(self._keys, new.key), "key": new.secret}, NO_STORE)

    async def _revoke(self, key_id: str) -> Answer:
        try:
            revoked = await self._keys.revoke(key_id)
        except LastAdminError as error:
            raise problem(409, str(error)) from None
        if not revoked:
            raise _no_key(key_id)
        return Answer(204, b"")

    def _key(self, key_id: str) -> Key:
        key = self._keys.ring.get(key_id)
        if key is None:
            raise _no_key(key_id)
        return key


def shown(keys: Keys, key: Key) -> dict[str, Any]:
    """A key as answers have it: all but the key."""
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "endpoints": list(key.endpoints),
        "masked": key.masked,
        "createdAt": time_of(key.created_at),
        "expiresAt": time_of(key.expires_at),
        "lastUsedAt": time_of(keys.ring.used_at(key.id)),
    }


def _no_key(key_id: str) -> Refusal:
    return problem(404, f"there is no key {key_id!r}; GET /v2/keys lists them")


def wrong_fields(fields: dict[str, Any]) -> Iterator[str]:
    """A sentence for each field that is of another kind than it has to be."""
    if not isinstance(fields.get("name"), str):
        yield "$.name: a name is needed, as a string"
    if "scope" in fields and fields["scope"] not in get_args(KeyScope):
        yield f"$.scope: {fields['scope']!r} is none of {', '.join(get_args(KeyScope))}"
    endpoints = fields.get("endpoints", [])
    if not isinstance(endpoints, list) or not all(isinstance(name, str) for name in endpoints):
        yield "$.endpoints: a list of endpoints' names is needed, or none for all endpoints"
    seconds = fields.get("expiresIn")
    if seconds is not None and not is_span(seconds):
        yield f"$.expiresIn: {seconds!r} is not from 1 to {_LONGEST_SECONDS} seconds"


@contextmanager
def making_key() -> Iterator[None]:
    """Answers why a key cannot be made as it was asked for."""
    try:
        yield
    except NameTakenError as error:
        raise problem(409, str(error)) from None
    except ConfigurationError as error:
        raise invalid(f"$: {error}") from None


def is_span(value: object) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 1 <= value <= _LONGEST_SECONDS  # type: ignore[operator]


def time_of(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)
