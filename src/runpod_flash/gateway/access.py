"""Who may do what: the key of a request, and what it lets its holder do.

Two policies have one interface. `Keyless` is for the loopback: anybody on this machine may call
functions and routes, and a key makes its holder more than that. `Keyed` is for any other bind:
without a key there are only the pages that say nothing.

Nothing slows down who tries keys: 256 random bits are not found by trying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from runpod_flash.gateway.messages import Answer, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.control.key import Key, KeyRing, KeyScope
    from runpod_flash.gateway.messages import Headers, Scope
    from runpod_flash.project.catalog import Discovered

# In the place of Authorization, where that is the business of the user's code.
KEY_HEADER = b"x-flash-key"
_CARRIERS = (KEY_HEADER, b"authorization")
# Where a request's identity is in its ASGI scope.
_PLACE = "flash.identity"
# Whether it is for another app than those that the outermost gateway serves.
_INNER = "flash.inner"
# Liveness, and pages without a word about what is served here.
# And what lets somebody get a key: it judges by itself whom.
_PUBLIC = ("/", "/ping", "/health", "/setup", "/docs", "/.well-known/oauth-authorization-server")
_PUBLIC_FOLDERS = ("/docs/", "/oauth/")

_ABSENT = (
    "this needs a key of this server, as `Authorization: Bearer KEY`; `flash key create NAME` "
    "makes one, and programs take it from FLASH_API_KEY"
)
_UNKNOWN = (
    "this server's keys do not include the one that was sent; `flash key list` shows those that "
    "there are, to an admin"
)


class Identity(NamedTuple):
    """Whose request it is: a key's, or nobody's in particular.

    `refused` is why there is no key: none was sent, or it does not count.
    """

    key: Key | None = None
    refused: str = _ABSENT

    @property
    def owner(self) -> bool:
        """Whether the caller may have the server's workers unpickle what it sends."""
        return self.key is not None and self.key.may("deploy")


_NOBODY = Identity()


class Access(Protocol):
    """A policy; `ring` has the keys that count."""

    ring: KeyRing

    def identify(self, scope: Scope) -> Identity:
        """Whose request it is; raises the 401 of one that may not even call, or the 400 of one
        that cannot be told."""


class Keyless:
    """Anybody on this machine may call; a key that does not count is as good as none."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def identify(self, scope: Scope) -> Identity:
        return _identity(self.ring, scope)


class Keyed:
    """Only holders of keys may call."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def identify(self, scope: Scope) -> Identity:
        found = _identity(self.ring, scope)
        if found.key is None and not _public(scope):
            raise _unauthorized(found.refused)
        return found


def admit(
    access: Access,
    scope: Scope,
    endpoint_of: Callable[[Scope], Discovered | None],
    prefix: str = "",
) -> None:
    """Put the request's identity into its scope; raises the refusal of one that may not be made.

    A key that is kept to endpoints, or to those of an app, is for their addresses, the public ones
    and /v2/account, and no other. It knows them by their names with the prefix.
    """
    identity = access.identify(scope)
    scope[_PLACE] = identity
    key = identity.key
    if key is None or not (key.app or key.endpoints):
        return
    if _public(scope) or scope["path"] == "/v2/account":
        return
    endpoint = endpoint_of(scope)
    if key.app and (endpoint is None or prefix != f"{key.app}-"):
        raise Refusal(403, f"this key is only for the endpoints of {key.app}")
    if key.endpoints and (endpoint is None or f"{prefix}{endpoint.spec.name}" not in key.endpoints):
        raise Refusal(403, f"this key is only for {' and '.join(key.endpoints)}")


def require(scope: Scope, needed: KeyScope) -> None:
    """Raise the refusal of a request whose key does not have the scope."""
    identity: Identity = scope[_PLACE]
    if identity.key is None:
        raise _unauthorized(identity.refused)
    if not identity.key.may(needed):
        raise Refusal(
            403,
            f"the key {identity.key.name!r} has the scope {identity.key.scope}, and this needs "
            f"{needed}; an admin can make one: flash key create NAME --scope {needed}",
        )


def identity_of(scope: Scope) -> Identity:
    """Whose request it is that was admitted."""
    identity: Identity = scope[_PLACE]
    return identity


def headers_for_routes(scope: Scope) -> Headers:
    """The headers that user code sees: a key of this server is not its business."""
    headers: Headers = scope["headers"]
    if identity_of(scope).key is None:
        return headers
    carrier = KEY_HEADER if _values(scope, KEY_HEADER) else b"authorization"
    return [each for each in headers if each[0] != carrier]


def _identity(ring: KeyRing, scope: Scope) -> Identity:
    if not any(name in _CARRIERS for name, _ in scope["headers"]):
        return _NOBODY
    given = _values(scope, KEY_HEADER) or _values(scope, b"authorization")
    if len(given) > 1:
        # Whatever is in between may have checked the other one.
        raise Refusal(400, "the request has several Authorization headers; send one")
    key = ring.find(_secret(given[0]))
    if key is None:
        return Identity(refused=_UNKNOWN)
    if ring.expired(key):
        return Identity(refused=_expired(key))
    return Identity(key, "")


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _secret(value: bytes) -> bytes:
    """The key in the header: bare, or after the word Bearer."""
    scheme, _, rest = value.strip().partition(b" ")
    return rest.strip() if rest and scheme.lower() == b"bearer" else value.strip()


def _expired(key: Key) -> str:
    import datetime

    assert key.expires_at is not None
    when = datetime.datetime.fromtimestamp(key.expires_at, datetime.timezone.utc)
    return (
        f"the key {key.name!r} expired on {when:%Y-%m-%d at %H:%M} UTC; an admin can make "
        "another one: flash key create NAME"
    )


def for_inner(scope: Scope) -> Scope:
    """The request of an inner gateway's app: no path there is public, whatever its users name."""
    return {**scope, _INNER: True}


def _public(scope: Scope) -> bool:
    path: str = scope["path"]
    if _INNER in scope:
        return False
    return scope["type"] == "http" and (path in _PUBLIC or path.startswith(_PUBLIC_FOLDERS))


def _unauthorized(sentence: str) -> Refusal:
    refusal = Refusal(401, sentence)
    headers = ((b"www-authenticate", b"Bearer"),)
    refusal.answer = Answer(401, refusal.answer.body, headers=headers)
    return refusal
