"""How often a caller may ask: a token bucket for each key, endpoint and operation."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.messages import Refusal, answer

if TYPE_CHECKING:
    from collections.abc import Callable

_FORM = re.compile(r"([1-9]\d{0,8})/([1-9]\d{0,5})?([smh])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
# Buckets are looked through for full ones once there are more.
_FEW = 1000


@dataclass(frozen=True)
class RateLimit:
    """A bucket of so many requests, which an empty one takes `seconds` to be again."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        """Read `1000/10s`, `60/m` or `5/2h`; raises `ConfigurationError` for anything else."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ConfigurationError(
                f"--rate-limit {text!r} cannot be read; give requests and a time: 1000/10s or 60/m"
            )
        return cls(int(found[1]), int(found[2] or 1) * _UNITS[found[3]])


class Caller(NamedTuple):
    """Whose bucket it is; `key` is a key's id, empty for all who send none."""

    key: str
    endpoint: str
    operation: str


class RateLimiter:
    """The buckets. Of each, only the time at which it will be full is kept, and of a full one
    nothing: that makes them as many as callers that have asked within the limit's time.
    """

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._full_at: dict[Caller, float] = {}
        self._many = _FEW

    def __len__(self) -> int:
        return len(self._full_at)

    def check(self, caller: Caller) -> None:
        """Take one from the caller's bucket; raises the refusal where it is empty."""
        wait = self.take(caller)
        if not wait:
            return
        limit = self._limit
        text = (
            f"{caller.operation} of this endpoint may be asked {limit.requests} times in "
            f"{limit.seconds:g} s; ask again in {math.ceil(wait)} s"
        )
        refusal = Refusal(429, text)
        after = (b"retry-after", str(math.ceil(wait)).encode())
        refusal.answer = answer(429, {"error": text}, after)
        raise refusal

    def take(self, caller: Caller) -> float:
        """Take one from the caller's bucket: 0, or the seconds until there will be one."""
        now, seconds = self._clock(), self._limit.seconds
        full_at = max(self._full_at.get(caller, now), now) + seconds / self._limit.requests
        # (Sums of fractions are a little off.)
        wait = full_at - now - seconds
        if wait > seconds * 1e-9:
            return wait
        self._full_at[caller] = full_at
        if len(self._full_at) > self._many:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now}
            self._many = max(2 * len(self._full_at), _FEW)
        return 0.0
