"""What is below /oauth: addresses for programs that log in or out, and pages for their people.

POST /oauth/device_authorization, /oauth/token     RFC 8628, RFC 6749
POST /oauth/revoke                                 RFC 7009: `flash logout`
/oauth/authorize                                   a person allows a login of this machine
/oauth/device                                      a person allows a login of a terminal anywhere
/.well-known/oauth-authorization-server            all of that, as RFC 8414 has it
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.control.key import SCOPES
from runpod_flash.control.keys import LastAdminError
from runpod_flash.control.logins import Logins, TooManyLoginsError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.messages import Answer, Refusal, address_of, answer
from runpod_flash.gateway.oauth import pages
from runpod_flash.gateway.oauth.browser import Browsers
from runpod_flash.gateway.oauth.consent import ConsentPages
from runpod_flash.gateway.oauth.forms import (
    client_of,
    fields,
    form_text,
    machine_name,
)
from runpod_flash.gateway.oauth.protocol import DEVICE_GRANT, Exchange, Judged
from runpod_flash.gateway.resources import allow

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from runpod_flash.control.keys import Keys
    from runpod_flash.gateway.messages import Receive, Scope


class Login:
    """Everybody may ask; what is given away, a person has allowed."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._logins = Logins(keys)
        self._pages = ConsentPages(self._logins, Browsers(keys))

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request for one of these addresses."""
        match scope["path"]:
            case "/oauth/authorize":
                return await _shown(self._pages.authorize(scope, receive))
            case "/oauth/device":
                return await _shown(self._pages.device(scope, receive))
            case "/oauth/token":
                allow(scope, "POST")
                return await self._token(scope, await form_text(scope, receive))
            case "/oauth/revoke":
                allow(scope, "POST")
                return await self._revoke(fields(await form_text(scope, receive)))
            case "/oauth/device_authorization":
                allow(scope, "POST")
                return self._begin_device(scope, await form_text(scope, receive))
            case "/oauth/done":
                return pages.DONE
            case "/oauth/denied":
                return pages.DENIED
            case "/.well-known/oauth-authorization-server":
                return answer(200, _metadata(address_of(scope)))
        raise Refusal(404, f"nothing is served at {scope['path']}; `flash login` knows its way")

    def _begin_device(self, scope: Scope, form: str) -> Answer:
        machine = machine_name(fields(form).get("machine", ""))
        uri = f"{address_of(scope)}/oauth/device"
        try:
            return _sent(Exchange(self._logins).begin_device(uri, form, machine, client_of(scope)))
        except TooManyLoginsError as error:
            return _refused(503, "temporarily_unavailable", str(error))

    async def _token(self, scope: Scope, form: str) -> Answer:
        exchange = Exchange(self._logins)
        judged = exchange.judge_token(f"{address_of(scope)}/oauth/token", form)
        if exchange.replayed:
            await self._end_replayed(exchange.code)
        if exchange.approval is None:
            return _sent(judged)
        if exchange.device_code:
            self._logins.end_device(exchange.device_code)  # (once: its key is about to be made)
        try:
            new = await self._logins.make_key(exchange.approval)
        except ConfigurationError as error:
            return _refused(400, "invalid_grant", str(error))
        if exchange.code:
            self._logins.spend_code(exchange.code, new.key.id)
        told = {
            **json.loads(judged.body),
            "access_token": new.secret,
            "scope": new.key.scope,
        }
        if new.key.expires_at is not None:
            told["expires_in"] = int(new.key.expires_at - self._keys.ring.clock())
        return _sent(judged._replace(body=json.dumps(told)))

    async def _revoke(self, form: dict[str, str]) -> Answer:
        """Whoever has a key may end it. RFC 7009: what is no key is as good as ended."""
        key = self._keys.ring.find(form.get("token", "").encode())
        try:
            if key is not None:
                await self._keys.revoke(key.id)
        except LastAdminError as error:
            return _refused(400, "invalid_request", str(error))
        return _sent(Judged(200, {}, "{}"))

    async def _end_replayed(self, code: str) -> None:
        """RFC 6749, section 4.1.2: of two who have a code, one has stolen it."""
        key_id = self._logins.key_of_spent(code)
        if key_id is not None:
            with suppress(LastAdminError):
                await self._keys.revoke(key_id)


async def _shown(page: Awaitable[Answer]) -> Answer:
    """A page; where it may not be used like that, a person reads why."""
    try:
        return await page
    except Refusal as refusal:
        if refusal.answer.status != 403:
            raise
        return pages.told(403, "Not like this", f"{str(refusal).capitalize()}.")


def _sent(judged: Judged) -> Answer:
    headers = {"cache-control": "no-store", **{k.lower(): v for k, v in judged.headers.items()}}
    headers.pop("content-type", None)
    sent = tuple((name.encode(), value.encode("latin-1")) for name, value in headers.items())
    return Answer(judged.status, judged.body.encode(), headers=sent)


def _refused(status: int, error: str, description: str) -> Answer:
    body = json.dumps({"error": error, "error_description": description})
    return _sent(Judged(status, {}, body))


def _metadata(address: str) -> dict[str, Any]:
    return {
        "issuer": address,
        "authorization_endpoint": f"{address}/oauth/authorize",
        "device_authorization_endpoint": f"{address}/oauth/device_authorization",
        "token_endpoint": f"{address}/oauth/token",
        "revocation_endpoint": f"{address}/oauth/revoke",
        "revocation_endpoint_auth_methods_supported": ["none"],
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", DEVICE_GRANT],
        "token_endpoint_auth_methods_supported": ["none"],
        "code_challenge_methods_supported": ["S256"],
    }
