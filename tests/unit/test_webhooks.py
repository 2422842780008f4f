"""Webhooks: when they are told, how often, and what of."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import StoreFullError
from runpod_flash.gateway.job_object import JobObjects
from runpod_flash.gateway.settings import Settings
from runpod_flash.gateway.targets import ForbiddenTargetError, Targets
from runpod_flash.gateway.webhook_secret import kept_secret, new_secret
from runpod_flash.gateway.webhook_sender import WebhookSender
from runpod_flash.gateway.webhooks import Webhooks
from runpod_flash.plane.store.base import Call, NewJob
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.codec import encode
from unit.command_line import flash
from unit.front import ask
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from unit.front import Front

URL = "https://example.com/hook"


class Receiver:
    """Takes what is posted, with these answers in turn: a status, or an error."""

    def __init__(self, rig: Rig, *answers: int | Exception) -> None:
        self.rig = rig
        self.answers = list(answers)
        self.told: list[tuple[float, str, Any]] = []

    async def send(self, webhook: str, message_id: str, body: bytes) -> int:
        self.told.append((self.rig.clock(), message_id, json.loads(body)))
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None: ...

    def gaps(self) -> list[float]:
        times = [at for at, _, _ in self.told]
        return [later - sooner for sooner, later in itertools.pairwise(times)]


def webhooks(rig: Rig, receiver: Receiver, *delays: float) -> Webhooks:
    return Webhooks(rig.plane, JobObjects(rig.plane), receiver, delays)


async def ended(rig: Rig, job_id: str = "job", webhook: str = URL) -> None:
    pool = rig.declare(spec("a"))
    call = Call(encode({"x": 1}), "input")
    rig.plane.submit(pool, NewJob(job_id, pool.key, call, webhook=webhook))
    await rig.settle()
    rig.holder(job_id).finish(job_id, {"y": 2})
    await rig.settle()


def test_a_webhook_gets_the_job_object_with_its_input() -> None:
    async def scenario(rig: Rig) -> None:
        receiver = Receiver(rig)
        room = webhooks(rig, receiver)
        await ended(rig)
        ((_, message_id, told),) = receiver.told
        assert message_id == "job.1"
        assert (told["id"], told["status"], told["webhook"]) == ("job", "COMPLETED", URL)
        assert (told["output"], told["input"]) == ({"y": 2}, {"x": 1})
        assert not now(rig.store.owed())
        await room.close()

    play(scenario)


def test_a_webhook_that_nobody_takes_is_tried_again_ever_later_and_given_up() -> None:
    async def scenario(rig: Rig) -> None:
        receiver = Receiver(rig, 500, 301, OSError("nobody answers"), 404)
        room = webhooks(rig, receiver, 10, 20, 40)
        await ended(rig)
        assert list(now(rig.store.owed())) == ["job"]
        await rig.after(200)
        assert receiver.gaps() == [10, 20, 40]
        assert len({message_id for _, message_id, _ in receiver.told}) == 1
        assert not now(rig.store.owed())
        assert rig.notices[-1] == (
            f"the webhook {URL} of job job was not told of its end: it answered 404"
        )
        await room.close()

    play(scenario)


def test_a_webhook_is_tried_until_it_is_taken() -> None:
    async def scenario(rig: Rig) -> None:
        receiver = Receiver(rig, OSError("nobody answers"), 204)
        room = webhooks(rig, receiver, 10, 20, 40)
        await ended(rig)
        await rig.after(200)
        assert len(receiver.told) == 2
        assert not rig.notices
        await room.close()

    play(scenario)


def test_a_host_that_cannot_be_looked_up_is_given_up() -> None:
    async def scenario(rig: Rig) -> None:
        sender = WebhookSender(Targets(Settings()), new_secret())
        room = Webhooks(rig.plane, JobObjects(rig.plane), sender, (10, 20))
        await ended(rig, webhook="http://a..b/hook")
        await rig.after(100)
        assert not now(rig.store.owed())
        assert "job job was not told of its end: " in rig.notices[-1]
        await room.close()

    play(scenario)


def test_a_forbidden_address_is_not_tried_again() -> None:
    async def scenario(rig: Rig) -> None:
        receiver = Receiver(rig, ForbiddenTargetError("10.0.0.1 is in a private network"))
        room = webhooks(rig, receiver, 10, 20)
        await ended(rig)
        await rig.after(100)
        assert len(receiver.told) == 1
        assert "private network" in rig.notices[-1]
        await room.close()

    play(scenario)


def test_what_is_owed_when_the_server_starts_is_told_then() -> None:
    async def scenario(rig: Rig) -> None:
        await ended(rig)
        receiver = Receiver(rig)
        room = webhooks(rig, receiver)
        await rig.settle()
        assert [told["id"] for _, _, told in receiver.told] == ["job"]
        await room.close()

    play(scenario)


def test_closing_leaves_what_is_owed_for_the_next_start() -> None:
    async def scenario(rig: Rig) -> None:
        receiver = Receiver(rig, 500)
        room = webhooks(rig, receiver, 10)
        await ended(rig)
        await room.close()
        await ended(rig, "another")
        await rig.after(100)
        assert len(receiver.told) == 1
        assert list(now(rig.store.owed())) == ["job", "another"]

    play(scenario)


def test_nothing_is_told_that_a_crash_could_take_back(monkeypatch: pytest.MonkeyPatch) -> None:
    full = True

    async def durable() -> None:
        if full:
            raise StoreFullError("the disk is full")

    async def scenario(rig: Rig) -> None:
        nonlocal full
        monkeypatch.setattr(rig.store, "durable", durable)
        receiver = Receiver(rig)
        room = webhooks(rig, receiver)
        await ended(rig)
        await rig.after(60)
        assert not receiver.told
        full = False
        await rig.after(10)
        assert len(receiver.told) == 1
        await room.close()

    play(scenario)


def test_a_job_that_is_retried_is_told_of_by_its_next_end() -> None:
    async def scenario(rig: Rig) -> None:
        receiver = Receiver(rig, 500)
        room = webhooks(rig, receiver, 10)
        pool = rig.declare(spec("a"))
        call = Call(encode({}), "input")
        rig.plane.submit(pool, NewJob("job", pool.key, call, webhook=URL))
        await rig.settle()
        rig.holder("job").fail("job", ValueError("no"))
        await rig.settle()
        assert rig.plane.dispatcher.retry(pool, "job") is not None
        await rig.after(20)
        rig.holder("job").finish("job", 1)
        await rig.settle()
        told = [(message_id, each["status"]) for _, message_id, each in receiver.told]
        assert told == [("job.1", "FAILED"), ("job.2", "COMPLETED")]
        await room.close()

    play(scenario)


def test_a_forbidden_webhook_is_refused_when_the_job_is_submitted() -> None:
    async def scenario(front: Front) -> None:
        front.jobs.targets.own_ports.add(8000)
        for webhook in ("http://169.254.169.254/", "http://localhost:8000/", "no url", 5):
            refused = await front.post("run", {"input": 1, "webhook": webhook})
            assert refused.status_code == 400, webhook
            assert refused.json().keys() == {"error"}
        assert now(front.rig.store.counts(front.pool.key)).queued == 0
        job_id = await front.run(1, webhook=URL)
        assert (await front.status(job_id))["webhook"] == URL

    ask(scenario, Settings(webhook_delays=()))


def test_a_server_has_one_secret(tmp_path: Path) -> None:
    secret = kept_secret(tmp_path / "data")
    assert secret.startswith("whsec_")
    assert kept_secret(tmp_path / "data") == secret
    assert kept_secret(tmp_path / "other") != secret
    assert (tmp_path / "data" / "webhook-secret").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_was_not_written_is_made_anew_and_kept(tmp_path: Path) -> None:
    (tmp_path / "webhook-secret").touch()
    secret = kept_secret(tmp_path)
    assert secret.startswith("whsec_")
    assert kept_secret(tmp_path) == secret
    assert [each.name for each in tmp_path.iterdir()] == ["webhook-secret"]


# (No file may grow beyond no bytes, as where the disk is full.)
NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from runpod_flash.gateway.webhook_secret import kept_secret
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
kept_secret(Path(sys.argv[1]))
"""


def test_a_secret_for_which_there_is_no_room_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path)]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "OSError" in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_secret_can_be_shown(tmp_path: Path) -> None:
    shown = flash("server", "--data-dir", str(tmp_path), "webhook-secret")
    assert (shown.returncode, shown.stdout.strip()) == (0, kept_secret(tmp_path)), shown.stderr
