"""A key of the server, and the keys that are known, found by what a client sends."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KeyScope = Literal["invoke", "deploy", "admin"]

# Each scope, with those that it includes.
SCOPES: dict[KeyScope, tuple[KeyScope, ...]] = {
    "invoke": ("invoke",),
    "deploy": ("invoke", "deploy"),
    "admin": ("invoke", "deploy", "admin"),
}

_PREFIX = "flash_"
_ID_PREFIX = "key_"
_SHOWN = 4
_NAME_LENGTH = 100
# (An endpoint's name is checked where it is declared; here it only has to be one.)
_ENDPOINT = re.compile(r"[^\s/?#]{1,200}")


@dataclass(frozen=True)
class Key:
    """Who a key is for, and what it may do. What a client sends is not in it.

    `endpoints` are the only ones that it may call; empty for all. `app` is the deployed environment
    whose endpoints are the only ones; empty for any. `ending` is how it ends, so that people can
    tell keys apart.
    """

    id: str
    name: str
    scope: KeyScope
    endpoints: tuple[str, ...]
    ending: str
    created_at: float
    expires_at: float | None = None
    app: str = ""

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 0 < len(self.name.strip()) <= _NAME_LENGTH:
            raise ConfigurationError(
                f"{self.name!r} is no name for a key: give 1 to {_NAME_LENGTH} printable characters"
            )
        if self.name.startswith(_ID_PREFIX):
            raise ConfigurationError(
                f"{self.name!r} is no name for a key: ids begin with {_ID_PREFIX}; give another one"
            )
        if self.scope not in SCOPES:
            raise ConfigurationError(f"{self.scope!r} is no scope: give one of {', '.join(SCOPES)}")
        self._check_endpoints()

    def _check_endpoints(self) -> None:
        for name in self.endpoints:
            if not _ENDPOINT.fullmatch(name):
                raise ConfigurationError(f"{name!r} is no name of an endpoint")
        if self.endpoints and self.scope == "admin":
            raise ConfigurationError(
                "an admin key cannot be kept to endpoints, for it makes other keys; give it the "
                "scope invoke or deploy"
            )

    def may(self, scope: KeyScope) -> bool:
        return scope in SCOPES[self.scope]

    @property
    def masked(self) -> str:
        """As it may be shown."""
        return f"{_PREFIX}…{self.ending}"


def new_secret() -> str:
    """What the client of a new key sends: 256 random bits, which nobody can guess by trying."""
    return _PREFIX + secrets.token_urlsafe(32)


def new_id() -> str:
    return _ID_PREFIX + secrets.token_hex(6)


def ending_of(secret: str) -> str:
    return secret[-_SHOWN:]


def digest(secret: bytes) -> bytes:
    """The hash that is kept.

    A fast one is right here: slow hashes are for passwords, which people choose and others can
    guess. There is nothing to guess in 256 random bits.
    """
    return hashlib.sha256(secret).digest()


class KeyRing:
    """The keys that are known, by their hashes: `find` costs microseconds, and reads no file.

    `clock` gives seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._known: dict[bytes, Key] = {}
        self._lent: dict[bytes, Key] = {}
        self._watchers: dict[str, set[Callable[[], None]]] = {}
        self._used: dict[str, float] = {}

    def find(self, secret: bytes) -> Key | None:
        """The key that a client sent, also one that has expired."""
        # How long a look-up takes tells nothing: without the key nobody can choose its hash.
        hashed = digest(secret)
        key = self._known.get(hashed)
        if key is None:
            return self._lent.get(hashed)
        self._used[key.id] = self.clock()
        return key

    def get(self, key_id: str) -> Key | None:
        """The key of that id."""
        return next((key for key in self._known.values() if key.id == key_id), None)

    def expired(self, key: Key) -> bool:
        return key.expires_at is not None and key.expires_at <= self.clock()

    def add(self, key: Key, hashed: bytes, used_at: float | None = None) -> None:
        self._known[hashed] = key
        if used_at is not None:
            self._used[key.id] = used_at

    def lend(self, key: Key, hashed: bytes) -> None:
        """Know a key that this process has made for one of its own; it is in no list."""
        self._lent[hashed] = key

    def take_back(self, hashed: bytes) -> None:
        """End a key that was lent."""
        key = self._lent.pop(hashed, None)
        if key is not None:
            self._tell(key.id)

    def drop(self, key_id: str) -> None:
        self._known = {hashed: key for hashed, key in self._known.items() if key.id != key_id}
        self._used.pop(key_id, None)
        self._tell(key_id)

    def watch(self, key: Key, ended: Callable[[], None]) -> None:
        """Have `ended` called when the key is dropped, or now if it was: something of it lasts."""
        self._watchers.setdefault(key.id, set()).add(ended)
        if all(key.id != each.id for known in (self._known, self._lent) for each in known.values()):
            ended()

    def unwatch(self, key: Key, ended: Callable[[], None]) -> None:
        watchers = self._watchers.get(key.id, set())
        watchers.discard(ended)
        if not watchers:
            self._watchers.pop(key.id, None)

    def _tell(self, key_id: str) -> None:
        for ended in list(self._watchers.get(key_id, ())):
            ended()

    def used_at(self, key_id: str) -> float | None:
        """When the key was last sent."""
        return self._used.get(key_id)

    def __iter__(self) -> Iterator[Key]:
        """All of them, the oldest first, but for those that are lent."""
        return iter(sorted(self._known.values(), key=lambda key: (key.created_at, key.id)))


def owners_ring(secret: str, clock: Callable[[], float]) -> KeyRing:
    """A ring of one key, that of the code's owner, for a server that keeps none."""
    ring = KeyRing(clock)
    key = Key(new_id(), "owner", "deploy", (), ending_of(secret), clock())
    ring.add(key, digest(secret.encode()))
    return ring
