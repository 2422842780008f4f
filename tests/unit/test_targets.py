"""Where webhooks may go: by their URLs, and by the addresses of their hosts."""

from __future__ import annotations

import asyncio

import pytest

from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.settings import Settings
from runpod_flash.gateway.targets import ForbiddenTargetError, Targets

SCOPE = {"headers": [(b"host", b"flash.example.com:8443")]}
PUBLIC = Targets(Settings())
PRIVATE = Targets(Settings(webhook_private=True))
DEV = Targets(Settings(webhook_private=True, webhook_loopback=True))

METADATA = [
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.170.2/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[fe80::1]/",
    "http://2852039166/",
    "http://0xa9.0xfe.0xa9.0xfe/",
]
NOWHERE = ["http://0.0.0.0/", "http://0.1.2.3/", "http://224.0.0.1/", "http://[::]/"]
LOOPBACK = [
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost:1/",
    "http://127.0.0.1:9000/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
]
LAN = [
    "http://10.0.0.1/",
    "http://172.16.3.4/",
    "http://192.168.1.1:8080/",
    "http://100.64.0.1/",
    "http://[fd12:3456::1]/",
]
OWN = ["https://flash.example.com:8443/v2/a/run", "https://FLASH.example.com:8443/"]
NO_URL = [
    "example.com/hook",
    "ftp://example.com/",
    "file:///etc/passwd",
    "https://",
    "https:///path",
    "http://example.com:99999/",
    "http://exa mple.com/",
    "http://example.com/\r\nX: y",
    "http://example.com\\@127.0.0.1/",
    "http://exämple.com/",
    "http://[::1/",
    "http://a..b/hook",
    "http://a../hook",
    "http://.a/hook",
    f"http://{'a' * 64}.com/",
    "http://xn--zzzzzzz--/",
    "https://example.com/" + "x" * 3000,
]


def refused(targets: Targets, webhook: str) -> str:
    with pytest.raises(Refusal) as caught:
        targets.check(webhook, SCOPE)
    assert caught.value.answer.status == 400
    return str(caught.value)


@pytest.mark.parametrize("webhook", [*METADATA, *NOWHERE, *OWN, *NO_URL])
def test_some_addresses_are_refused_whatever_is_allowed(webhook: str) -> None:
    for targets in (PUBLIC, PRIVATE, DEV):
        assert "webhook=" in refused(targets, webhook)


@pytest.mark.parametrize("webhook", LOOPBACK)
def test_this_machine_is_refused_unless_allowed(webhook: str) -> None:
    for targets in (PUBLIC, PRIVATE):
        assert "is this machine" in refused(targets, webhook)
    DEV.check(webhook, SCOPE)


@pytest.mark.parametrize("webhook", LAN)
def test_private_networks_are_refused_unless_allowed(webhook: str) -> None:
    assert "private network" in refused(PUBLIC, webhook)
    PRIVATE.check(webhook, SCOPE)


@pytest.mark.parametrize(
    "webhook",
    [
        "https://example.com/hook?x=1#part",
        "https://example.com./hook",
        "https://a_b.example.com/",
        "https://xn--bcher-kva.example/",
        "http://user:word@example.com:8080/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
        "https://flash.example.com:9443/hook",
    ],
)
def test_public_addresses_are_allowed(webhook: str) -> None:
    PUBLIC.check(webhook, SCOPE)


def test_the_server_itself_is_refused_where_this_machine_is_allowed() -> None:
    targets = Targets(Settings(webhook_loopback=True))
    targets.own_ports.add(8000)
    assert "server's own" in refused(targets, "http://127.0.0.1:8000/v2/a/run")
    assert "server's own" in refused(targets, "http://localhost:8000/")
    targets.check("http://127.0.0.1:8001/", SCOPE)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254", "10.1.2.3", "localhost"])
def test_the_address_that_a_name_has_is_judged(host: str) -> None:
    with pytest.raises(ForbiddenTargetError):
        asyncio.run(PUBLIC.resolve(host, 80))


def test_an_allowed_address_is_what_is_connected_to() -> None:
    assert asyncio.run(DEV.resolve("127.0.0.1", 80)) == "127.0.0.1"
    assert asyncio.run(PUBLIC.resolve("1.1.1.1", 443)) == "1.1.1.1"
    own = Targets(Settings(webhook_loopback=True))
    own.own_ports.add(8000)
    with pytest.raises(ForbiddenTargetError, match="own"):
        asyncio.run(own.resolve("127.0.0.1", 8000))
