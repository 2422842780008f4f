"""Logins that are under way, from the moment a program asks until it has its key.

They are in memory: whoever logs in while the server is stopped starts again. No key is made before
the program that asked has shown that it is the one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runpod_flash.control.key import digest
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from runpod_flash.control.key import Key, KeyScope
    from runpod_flash.control.keys import Keys, NewKey

CODE_SECONDS = 60.0
DEVICE_SECONDS = 600.0
INTERVAL_SECONDS = 5
# Of one that is over, the end is told for so long.
_REMEMBERED_SECONDS = 600.0
_MOST_DEVICES = 1000
_MOST_OF_ADDRESS = 20
_MOST_GUESSES = 10
_GUESSES_SECONDS = 600.0
_LONGEST_NAME = 90

Polled = Literal[
    "authorized", "authorization_pending", "slow_down", "expired_token", "access_denied"
]


@dataclass(frozen=True)
class Approval:
    """Whose key allowed a login, what the new key may do, and on which machine it will be."""

    by: Key
    scope: KeyScope
    machine: str


@dataclass(frozen=True)
class CodeLogin:
    """One through a browser that is on the same machine; `challenge` is that of its PKCE."""

    redirect_uri: str
    challenge: str
    approval: Approval
    expires_at: float


@dataclass(eq=False)
class DeviceLogin:
    """One that a person approves in a browser anywhere, by its user code.

    `address` is where it was asked from, `challenge` that of its PKCE, if it has one.
    """

    user_code: str
    scope: KeyScope
    machine: str
    address: str
    challenge: str
    expires_at: float
    interval: float = INTERVAL_SECONDS
    polled_at: float | None = None
    approval: Approval | None = None
    denied: bool = False


class Logins:
    """Codes are known by their hashes, and work once."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._clock = keys.ring.clock
        self._codes: dict[bytes, CodeLogin] = {}
        self._spent: dict[bytes, tuple[str, float]] = {}
        self._devices: dict[bytes, DeviceLogin] = {}
        self._guesses: dict[str, list[float]] = {}
        self._making = asyncio.Lock()

    # Through a browser on the same machine

    def keep_code(self, code: str, redirect_uri: str, challenge: str, approval: Approval) -> None:
        """Have a new code stand for a login that was approved."""
        expires_at = self._clock() + CODE_SECONDS
        login = CodeLogin(redirect_uri, challenge, approval, expires_at)
        self._codes[digest(code.encode())] = login

    def take_code(self, code: str) -> CodeLogin | None:
        """The login of a code, which then works no more; None for one that does not count."""
        self._forget_old()
        return self._codes.pop(digest(code.encode()), None)

    def spend_code(self, code: str, key_id: str) -> None:
        """Remember which key was made for a code."""
        self._spent[digest(code.encode())] = (key_id, self._clock() + _REMEMBERED_SECONDS)

    def key_of_spent(self, code: str) -> str | None:
        """The id of the key that was made for a code: who sends it again may have stolen it."""
        found = self._spent.get(digest(code.encode()))
        return None if found is None else found[0]

    # Through a browser elsewhere

    def begin_device(self, device_code: str, login: DeviceLogin) -> None:
        """Raises `TooManyLoginsError`."""
        self._forget_old()
        of_address = sum(each.address == login.address for each in self._devices.values())
        if len(self._devices) >= _MOST_DEVICES or of_address >= _MOST_OF_ADDRESS:
            raise TooManyLoginsError(
                "too many logins have begun and are not finished; try again in ten minutes"
            )
        self._devices[digest(device_code.encode())] = login

    def device(self, device_code: str) -> DeviceLogin | None:
        self._forget_old()
        return self._devices.get(digest(device_code.encode()))

    def poll(self, login: DeviceLogin) -> Polled:
        """How it stands with a login, as its program hears it."""
        now, last = self._clock(), login.polled_at
        login.polled_at = now
        if login.denied:
            return "access_denied"
        if login.expires_at <= now:
            return "expired_token"
        if login.approval is not None:
            return "authorized"
        if last is not None and now - last < login.interval:
            login.interval += INTERVAL_SECONDS
            return "slow_down"
        return "authorization_pending"

    def end_device(self, device_code: str) -> None:
        """It has its key."""
        self._devices.pop(digest(device_code.encode()), None)

    def awaiting(self, user_code: str, key_id: str) -> DeviceLogin | None:
        """The login of a user code that nobody has decided on.

        Wrong codes are counted by the key of who tries them; raises `TooManyGuessesError`.
        """
        now = self._clock()
        tried = [at for at in self._guesses.get(key_id, []) if now - at < _GUESSES_SECONDS]
        if len(tried) >= _MOST_GUESSES:
            raise TooManyGuessesError(int(tried[0] + _GUESSES_SECONDS - now) + 1)
        wanted = normal(user_code)
        for login in self._devices.values():
            undecided = login.approval is None and not login.denied and login.expires_at > now
            if undecided and normal(login.user_code) == wanted:
                return login
        self._guesses[key_id] = [*tried, now]
        return None

    # Both

    async def make_key(self, approval: Approval) -> NewKey:
        """The key that was allowed; raises `ConfigurationError` if who allowed it may no more.

        It ends when that key would, and is kept to the same endpoints.
        """
        async with self._making:  # (so that a name which is free stays so)
            by, now = self.keys.ring.get(approval.by.id), self._clock()
            if by is None or self.keys.ring.expired(by):
                raise ConfigurationError("the key that allowed this login does not count any more")
            name = self.name_for(by, approval.machine)
            expires_in = None if by.expires_at is None else by.expires_at - now
            return await self.keys.create(name, approval.scope, by.endpoints, expires_in)

    def name_for(self, by: Key, machine: str) -> str:
        """How a new key is called that somebody has on a machine."""
        return self.keys.free_name(f"{by.name.partition('@')[0]}@{machine}"[:_LONGEST_NAME])

    def _forget_old(self) -> None:
        now = self._clock()
        self._codes = {key: each for key, each in self._codes.items() if each.expires_at > now}
        self._spent = {key: each for key, each in self._spent.items() if each[1] > now}
        until = now - _REMEMBERED_SECONDS
        self._devices = {k: each for k, each in self._devices.items() if each.expires_at > until}


class TooManyLoginsError(ConfigurationError):
    """More logins are under way than are remembered."""


class TooManyGuessesError(Exception):
    """Somebody tries user codes; `seconds` until they may go on."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many wrong codes; try again in {seconds} seconds")
        self.seconds = seconds


def normal(user_code: str) -> str:
    """A user code without what people add to it or change in it."""
    return "".join(each for each in user_code.upper() if each.isalnum())
