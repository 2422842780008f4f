"""How often callers may ask, by a clock that stands still until it is moved."""

from __future__ import annotations

import pytest

from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.rate_limit import Caller, RateLimit, RateLimiter
from runpod_flash.testing import ManualClock

SOMEBODY = Caller("key_a", "app:double", "run")


def limiter(text: str = "3/10s") -> tuple[RateLimiter, ManualClock]:
    clock = ManualClock()
    return RateLimiter(RateLimit.parse(text), clock), clock


def taken(limiter: RateLimiter, caller: Caller = SOMEBODY) -> int:
    """How many requests are let in at once, of a hundred."""
    return sum(not limiter.take(caller) for _ in range(100))


@pytest.mark.parametrize(
    ("text", "requests", "seconds"), [("1000/10s", 1000, 10), ("60/m", 60, 60), ("5/2h", 5, 7200)]
)
def test_a_limit_is_read_as_requests_and_a_time(text: str, requests: int, seconds: float) -> None:
    assert RateLimit.parse(text) == RateLimit(requests, seconds)


@pytest.mark.parametrize("text", ["", "10", "0/s", "5/0s", "-1/s", "1.5/s", "10/10", "10/d", "٣/s"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="1000/10s"):
        RateLimit.parse(text)


@pytest.mark.parametrize("requests", [1, 3, 7, 100])
def test_so_many_are_let_in_at_once_and_no_more(requests: int) -> None:
    limited, clock = limiter(f"{requests}/10s")
    assert taken(limited) == requests
    clock.now += 10
    assert taken(limited) == requests
    clock.now += 1000
    assert taken(limited) == requests  # a full bucket does not grow


def test_an_empty_bucket_says_when_it_has_one_again() -> None:
    limited, clock = limiter("4/10s")
    taken(limited)
    assert limited.take(SOMEBODY) == pytest.approx(2.5)
    clock.now += 2.5
    assert taken(limited) == 1


def test_being_refused_does_not_put_off_the_next_one() -> None:
    limited, clock = limiter("1/10s")
    for _ in range(10):
        taken(limited)
        clock.now += 1
    assert taken(limited) == 1


def test_keys_endpoints_and_operations_have_buckets_of_their_own() -> None:
    limited, _ = limiter()
    assert taken(limited) == 3
    for other in ({"key": "key_b"}, {"endpoint": "app:other"}, {"operation": "status"}):
        assert taken(limited, SOMEBODY._replace(**other)) == 3


def test_the_refusal_says_when_to_ask_again() -> None:
    limited, _ = limiter("2/5s")
    taken(limited)
    with pytest.raises(Refusal, match="run of this endpoint may be asked 2 times in 5 s") as caught:
        limited.check(SOMEBODY)
    assert caught.value.answer.status == 429
    assert (b"retry-after", b"3") in caught.value.answer.headers  # 2.5, in whole seconds


def test_nothing_is_kept_of_callers_that_have_stopped_asking() -> None:
    limited, clock = limiter()
    for number in range(50_000):
        limited.take(SOMEBODY._replace(key=f"key_{number}"))
        clock.now += 0.01  # a thousand within the limit's time for one
    assert len(limited) <= 1000
