"""/v2/invitations: an admin makes, lists and ends links that make one key each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.access import require
from runpod_flash.gateway.keys_api import (
    FIELDS,
    NO_STORE,
    is_span,
    making_key,
    time_of,
    wrong_fields,
)
from runpod_flash.gateway.messages import Answer, address_of, answer, wrong_method
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.resources import allow, read_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.invitations import Invitation, Invitations
    from runpod_flash.gateway.messages import Receive, Scope

_WEEK = 7 * 86_400


class InvitationsApi:
    """A `Resource`."""

    def __init__(self, invitations: Invitations) -> None:
        self._invitations = invitations

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        require(scope, "admin")
        match [each for each in rest if each]:
            case []:
                if scope["method"] == "GET":
                    found = [_shown(each) for each in await self._invitations.pending()]
                    return answer(200, {"invitations": found, "pagination": {"hasNextPage": False}})
                if scope["method"] == "POST":
                    return await self._create(scope, receive)
                raise wrong_method(scope, "GET, POST")
            case [invitation_id]:
                allow(scope, "DELETE")
                if await self._invitations.revoke(invitation_id):
                    return Answer(204, b"")
                raise problem(404, f"there is no invitation {invitation_id!r}")
        raise problem(404, f"nothing is at {scope['path']}; one is at /v2/invitations/ID")

    async def _create(self, scope: Scope, receive: Receive) -> Answer:
        fields = await read_fields(scope, receive, (*FIELDS, "validFor"))
        wrong = list(wrong_fields(fields))
        seconds = fields.get("validFor", _WEEK)
        if not is_span(seconds):
            wrong.append(f"$.validFor: {seconds!r} is no number of seconds")
        if wrong:
            raise invalid(*wrong)
        with making_key():
            new = await self._invitations.create(
                fields["name"],
                fields.get("scope", "invoke"),
                seconds,
                tuple(dict.fromkeys(fields.get("endpoints", ()))),
                fields.get("expiresIn"),
            )
        link = f"{address_of(scope)}/setup?token={new.token}"
        return answer(201, {**_shown(new.invitation), "link": link}, NO_STORE)


def _shown(invitation: Invitation) -> dict[str, Any]:
    """One as answers have it: all but the link."""
    return {
        "id": invitation.id,
        "name": invitation.name,
        "scope": invitation.scope,
        "endpoints": list(invitation.endpoints),
        "keyExpiresIn": invitation.key_seconds,
        "createdAt": time_of(invitation.created_at),
        "expiresAt": time_of(invitation.expires_at),
    }
