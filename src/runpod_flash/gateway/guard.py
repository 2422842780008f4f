"""Who may talk to the gateway: Host and Origin are checked, for no key protects a loopback port.

Without it, any page in the user's browser could run the user's functions: by a request across
origins, or by a name that it makes resolve to this machine (DNS rebinding).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Answer, Refusal, header
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runpod_flash.gateway.messages import Headers, Message, Scope, Send

_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:/@\[\]]*)(?::\d{1,5})?")
_REMEMBERED = 64


class Guard:
    """`allowed` are further host names, with or without a port; "*" allows every host."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = {name.lower() for name in allowed}
        self._known: set[tuple[str | None, str | None]] = set()

    def check(self, scope: Scope) -> None:
        """Raise the 403 of a request that comes from elsewhere."""
        host, origin = header(scope, b"host"), header(scope, b"origin")
        if (host, origin) not in self._known:
            self._check_host(host or "")
            if origin is not None:
                self._check_origin(origin, host or "")
            if len(self._known) < _REMEMBERED:
                self._known.add((host, origin))
        if origin is None and header(scope, b"sec-fetch-site") == "cross-site":
            _check_navigation(scope)

    def _check_host(self, host: str) -> None:
        name = host_name(host)
        if not is_loopback(name) and not self._allows(host, "*"):
            raise Refusal(
                403,
                f"the Host {host!r} is not this server's: use localhost or 127.0.0.1, or have the "
                "name allowed where the server is started",
            )

    def _check_origin(self, origin: str, host: str) -> None:
        scheme, _, authority = origin.partition("://")
        if scheme in ("http", "https") and (
            authority.lower() == host.lower()
            or is_loopback(host_name(authority))
            or self._allows(authority, origin.lower())
        ):
            return
        raise Refusal(
            403,
            f"a page of {origin} may not use this server: only pages of this machine may, and of "
            "hosts that are allowed where the server is started",
        )

    def _allows(self, authority: str, *more: str) -> bool:
        names = {host_name(authority), authority.lower(), *more} - {""}
        return not self._allowed.isdisjoint(names)


def can_be_read(scope: Scope) -> bool:
    """Whether others on the network can read what is sent: plain http, beyond this machine."""
    host = host_name(header(scope, b"host") or "localhost")
    return scope["scheme"] == "http" and not is_loopback(host)


def kept_to_its_folder(scope: Scope, send: Send) -> Send:
    """User code may have a service worker, but none that stands before the server's own pages."""
    if header(scope, b"service-worker") is None:
        return send

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", [])
            kept = [each for each in headers if each[0].lower() != b"service-worker-allowed"]
            message = {**message, "headers": kept}
        await send(message)

    return sent


def host_name(authority: str) -> str:
    """The host of "host:port", in small letters; empty for what is none."""
    match = _AUTHORITY.fullmatch(authority)
    return match[1].lower() if match is not None else ""


def _check_navigation(scope: Scope) -> None:
    """A person may follow a link to here; a page may not fetch or embed what is here."""
    followed = (
        scope.get("method") == "GET"
        and header(scope, b"sec-fetch-mode") == "navigate"
        and header(scope, b"sec-fetch-dest") in (None, "document")
    )
    if not followed:
        raise Refusal(
            403, "this request comes from a page of another site, which may not use this server"
        )


def cors_headers(scope: Scope) -> Headers:
    """What a page of this machine at another port needs, to read the answer."""
    origin = header(scope, b"origin")
    if origin is None:
        return []
    authority = origin.partition("://")[2]
    if authority == header(scope, b"host") or not is_loopback(host_name(authority)):
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]


def preflight(scope: Scope) -> Answer | None:
    """The answer to a browser that asks whether a page may send; None for other requests."""
    if scope["method"] != "OPTIONS":
        return None
    asked = header(scope, b"access-control-request-method")
    if asked is None:
        return None
    headers = [
        (b"access-control-allow-methods", asked.encode("latin-1")),
        (b"access-control-max-age", b"600"),
    ]
    wanted = header(scope, b"access-control-request-headers")
    if wanted:
        headers.append((b"access-control-allow-headers", wanted.encode("latin-1")))
    if header(scope, b"access-control-request-private-network") == "true":
        headers.append((b"access-control-allow-private-network", b"true"))
    return Answer(204, b"", headers=tuple(headers))
