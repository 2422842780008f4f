"""Which person is in front of a page: by a cookie that a key has earned.

The cookie opens the pages below /oauth and nothing else: no address of programs reads it. Pages
that user code serves have the same origin as these. So that none of them allows a login in a
person's name, the pages here answer to navigation only (scripts cannot claim that), have forms that
hold a token of the session, and ask for the key again where the new one may make keys.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.control.browser_sessions import SESSION_SECONDS, BrowserSessions
from runpod_flash.gateway.messages import Refusal, header

if TYPE_CHECKING:
    from runpod_flash.control.key import Key
    from runpod_flash.control.keys import Keys
    from runpod_flash.gateway.messages import Scope

_FOLDER = "/oauth"


class Person(NamedTuple):
    """Who has signed in with a key, in this browser."""

    key: Key
    token: str

    def seal(self, action: str) -> str:
        """What a form of this session for this very action holds; no other page knows it."""
        return hmac.new(self.token.encode(), action.encode(), "sha256").hexdigest()

    def sealed(self, action: str, seal: str) -> bool:
        return hmac.compare_digest(self.seal(action).encode(), seal.encode())


class Browsers:
    """Signs people in, and knows them again."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._sessions = BrowserSessions(keys)

    async def person(self, scope: Scope) -> Person | None:
        token = _cookie(scope)
        key = await self._sessions.key_of(token) if token else None
        return None if key is None else Person(key, token)

    def proven(self, secret: str) -> Key | None:
        """The key that somebody has typed."""
        key = self._keys.ring.find(secret.strip().encode())
        return None if key is None or self._keys.ring.expired(key) else key

    async def sign_in(self, scope: Scope, key: Key) -> tuple[bytes, bytes]:
        """The header that makes the browser theirs."""
        return _set_cookie(scope, await self._sessions.begin(key), int(SESSION_SECONDS))

    async def sign_out(self, scope: Scope) -> tuple[bytes, bytes]:
        await self._sessions.end(_cookie(scope))
        return _set_cookie(scope, "", 0)


def check_navigation(scope: Scope) -> None:
    """Refuse what a script has fetched or a page has embedded; old browsers do not tell."""
    modes = header(scope, b"sec-fetch-mode"), header(scope, b"sec-fetch-dest")
    if modes[0] not in (None, "navigate") or modes[1] not in (None, "document"):
        raise Refusal(403, "this page is for a person's browser: no other page may use it")


def check_own_form(scope: Scope) -> None:
    """Refuse a form of a page that is not this server's, also of another port of this machine."""
    origin = header(scope, b"origin") or ""
    if origin.partition("://")[2].lower() != (header(scope, b"host") or "").lower():
        raise Refusal(403, "this form was not sent by a page of this server; open the page again")


def _cookie(scope: Scope) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(header(scope, b"cookie") or "")
    except CookieError:
        return ""
    found = cookies.get(_name(scope))
    return "" if found is None else found.value


def _set_cookie(scope: Scope, token: str, seconds: int) -> tuple[bytes, bytes]:
    secure = "; Secure" if scope["scheme"] == "https" else ""
    text = (
        f"{_name(scope)}={token}; Path={_FOLDER}; Max-Age={seconds}; HttpOnly; SameSite=Strict"
        f"{secure}"
    )
    return b"set-cookie", text.encode()


def _name(scope: Scope) -> str:
    # (Browsers do not tell ports apart: servers of one machine would sign each other out.)
    port = (header(scope, b"host") or "").rpartition(":")[2]
    return f"flash_{port if port.isdigit() else 'session'}"
