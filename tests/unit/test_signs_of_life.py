"""When a worker that asks over HTTP is taken for dead, by its connections."""

from __future__ import annotations

from runpod_flash.gateway.connections import Connection
from runpod_flash.links.signs_of_life import SignsOfLife

INTERVAL = 10.0


class Observed:
    """A worker's life on a clock that is set by hand; its helper's heartbeats never fail."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.life = SignsOfLife(lambda: self.clock)
        self.ended: list[int] = []

    def connection(self) -> Connection:
        return Connection(lambda: self.ended.append(1))

    def death_after(self, seconds: float) -> str:
        self.clock += seconds
        self.life.beat(INTERVAL)
        return self.life.death()


def test_a_worker_that_closes_its_last_connection_and_does_not_ask_again_is_dead() -> None:
    worker = Observed()
    one, other = worker.connection(), worker.connection()
    worker.life.asks_by(one)
    worker.life.asks_by(other)
    one.ended(by_peer=True)
    assert worker.death_after(1000) == "", "a client closes what it has no more use for"
    other.ended(by_peer=True)
    assert worker.death_after(29) == ""
    assert worker.death_after(2) == "closed its connections"


def test_a_worker_that_asks_again_by_another_connection_lives() -> None:
    worker = Observed()
    one = worker.connection()
    worker.life.asks_by(one)
    one.ended(by_peer=True)
    worker.clock += 1
    worker.life.seen()
    assert worker.death_after(1000) == ""


def test_what_this_end_closes_tells_nothing() -> None:
    worker = Observed()
    one = worker.connection()
    worker.life.asks_by(one)
    one.ended(by_peer=False)
    assert worker.death_after(1000) == ""


def test_the_connection_of_something_between_tells_of_no_worker() -> None:
    worker, other = Observed(), Observed()
    shared = worker.connection()
    worker.life.asks_by(shared)
    other.life.asks_by(shared)
    assert not shared.kept
    shared.ended(by_peer=True)
    assert worker.death_after(1000) == ""
    assert other.death_after(1000) == ""


def test_connections_of_a_worker_that_is_given_up_may_end() -> None:
    worker = Observed()
    one = worker.connection()
    worker.life.asks_by(one)
    worker.life.end()
    assert not one.kept
    assert worker.ended == [1]
