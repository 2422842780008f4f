"""Webhooks over real sockets: signed, to an address that was checked, again after a restart."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from integration.served import serve, serving
from integration.webhook_receiver import receiving
from runpod_flash.gateway.settings import Settings
from runpod_flash.gateway.targets import ForbiddenTargetError, Targets
from runpod_flash.gateway.webhook_secret import new_secret
from runpod_flash.gateway.webhook_sender import WebhookSender
from runpod_flash.plane.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served

SECRET = new_secret()
OPEN = Settings(webhook_secret=SECRET, webhook_loopback=True, webhook_delays=(0.05,) * 3)

ONE = """
    from runpod_flash import Endpoint

    @Endpoint(name="one", cpu="cpu3c-1-2")
    def one(x: int = 1):
        return x + 1
"""


async def until(what: Any) -> None:
    while not what():
        await asyncio.sleep(0.01)


async def told(served: Served) -> None:
    while await served.plane.store.owed():
        await asyncio.sleep(0.01)


def test_a_webhook_is_signed_and_has_the_job(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        with receiving() as receiver:
            url = f"{receiver.origin}/hook?a=1"
            job = (await served.post("/v2/one/run", {"input": {"x": 4}, "webhook": url})).json()
            await until(lambda: receiver.got)
            ((headers, body),) = receiver.got
            verified = Webhook(SECRET).verify(body, headers)
            assert verified["id"] == job["id"]
            assert (verified["status"], verified["output"]) == ("COMPLETED", 5)
            assert (verified["input"], verified["webhook"]) == ({"x": 4}, url)
            assert headers["host"] == f"localhost:{receiver.port}"
            assert headers["content-type"] == "application/json"
            await told(served)

    serve(tmp_path, {"one.py": ONE}, scenario, settings=OPEN)


def test_a_webhook_is_sent_again_until_it_is_taken_and_no_redirect_is_followed(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        with receiving(500, 302) as receiver:
            hook = f"{receiver.origin}/hook"
            await served.post("/v2/one/runsync", {"input": {}, "webhook": hook})
            await told(served)
            ids = [headers["webhook-id"] for headers, _ in receiver.got]
            assert len(ids) == 3
            assert len(set(ids)) == 1

    serve(tmp_path, {"one.py": ONE}, scenario, settings=OPEN)


def test_a_webhook_to_the_server_itself_or_to_this_machine_is_refused(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        port = served.address.rpartition(":")[2]
        for host in ("localhost", "127.0.0.1", "[::1]", "127.1"):
            url = f"http://{host}:{port}/v2/one/run"
            refused = await served.post("/v2/one/run", {"input": {}, "webhook": url})
            assert refused.status_code == 400, url
            assert "server's own" in refused.json()["error"]

    serve(tmp_path, {"one.py": ONE}, scenario, settings=OPEN)


def test_a_name_that_turns_out_to_be_this_machine_is_not_connected_to() -> None:
    async def scenario(origin: str) -> None:
        sender = WebhookSender(Targets(Settings()), SECRET)
        with pytest.raises(ForbiddenTargetError, match="this machine"):
            await sender.send(f"{origin}/hook", "id", b"{}")
        await sender.close()

    with receiving() as receiver:
        asyncio.run(scenario(receiver.origin))
        assert not receiver.got


def test_a_receiver_that_is_not_there_is_an_error_to_try_again_after() -> None:
    async def scenario(origin: str) -> None:
        sender = WebhookSender(Targets(OPEN), SECRET)
        with pytest.raises(OSError, match="connect"):
            await sender.send(f"{origin}/hook", "id", b"{}")
        await sender.close()

    with receiving() as receiver:
        gone = receiver.origin
    asyncio.run(scenario(gone))


def test_a_certificate_is_that_of_the_name_and_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async def scenario(origin: str) -> None:
        sender = WebhookSender(Targets(OPEN), SECRET)
        assert await sender.send(f"{origin}/hook", "id", b"{}") == 200
        by_address = origin.replace("localhost", "127.0.0.1")
        with pytest.raises(OSError, match="certificate"):
            await sender.send(f"{by_address}/hook", "id", b"{}")
        await sender.close()

    with receiving(tls=tls) as receiver:
        asyncio.run(scenario(receiver.origin))
        assert len(receiver.got) == 1


def test_a_webhook_that_is_owed_is_told_after_a_restart(tmp_path: Path) -> None:
    async def first(origin: str) -> str:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        waiting = Settings(webhook_secret=SECRET, webhook_loopback=True, webhook_delays=(600,))
        async with serving(tmp_path, {"one.py": ONE}, settings=waiting, store=store) as served:
            body = {"input": {"x": 1}, "webhook": f"{origin}/hook"}
            job = (await served.post("/v2/one/runsync", body)).json()
            await until(lambda: receiver.got)
        await store.close()
        assert job["status"] == "COMPLETED"
        return str(job["id"])

    async def second() -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        async with serving(tmp_path, {}, settings=OPEN, store=store) as served:
            await told(served)
        await store.close()

    with receiving(500) as receiver:
        job_id = asyncio.run(first(receiver.origin))
        asyncio.run(second())
        sent = [json.loads(body) for _, body in receiver.got]
        assert [each["id"] for each in sent] == [job_id] * 2
        assert sent[0] == sent[1]
