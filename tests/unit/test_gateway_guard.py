"""Who may talk to the gateway: hosts, origins, and what a browser says of its page."""

from __future__ import annotations

from typing import Any

import pytest

from runpod_flash.gateway.guard import Guard, can_be_read, cors_headers, preflight
from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.oauth.pages import Server, sign_in


def scope(method: str = "POST", host: str | None = "localhost:8888", **headers: str) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if host is not None:
        given["host"] = host
    sent = [(name.encode(), value.encode()) for name, value in given.items()]
    return {"type": "http", "method": method, "path": "/", "headers": sent}


def refused(request: Any, *allowed: str) -> str:
    with pytest.raises(Refusal) as caught:
        Guard(allowed).check(request)
    assert caught.value.answer.status == 403
    return str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8888",
        "LOCALHOST:3000",
        "app.localhost:80",
        "127.0.0.1:8888",
        "127.9.8.7",
        "[::1]:8888",
        "[::1]",
    ],
)
def test_this_machine_has_many_names(host: str) -> None:
    Guard().check(scope(host=host))


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.com",
        "localhost.evil.com",
        "evil-localhost",
        "127.0.0.1.evil.com",
        "127.0.0.1:8888:80",
        "user@localhost",
        "localhost:",
        "[::2]",
        "0.0.0.0:8888",
        "*",
    ],
)
def test_a_name_that_somebody_else_may_own_is_refused(host: str | None) -> None:
    assert "is not this server's" in refused(scope(host=host))


def test_further_names_can_be_allowed() -> None:
    Guard(["Box.example"]).check(scope(host="box.example:8888"))
    Guard(["box.example:8888"]).check(scope(host="box.example:8888"))
    Guard(["*"]).check(scope(host="anything"))
    refused(scope(host="box.example:9999"), "box.example:8888")
    refused(scope(host="other.example"), "box.example")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.com",
        "null",
        "file://",
        "http://localhost.evil.com",
        "chrome-extension://localhost",
        "http://evil.com#localhost",
    ],
)
def test_a_page_from_elsewhere_is_refused(origin: str) -> None:
    assert origin in refused(scope(origin=origin))


def test_a_page_of_this_machine_may_read_the_answers() -> None:
    request = scope(origin="http://localhost:3000", sec_fetch_site="same-site")
    Guard().check(request)
    headers = dict(cors_headers(request))
    assert headers[b"access-control-allow-origin"] == b"http://localhost:3000"
    assert headers[b"vary"] == b"Origin"


def test_the_own_page_needs_no_further_headers() -> None:
    request = scope(origin="http://localhost:8888")
    Guard().check(request)
    assert cors_headers(request) == []


def test_an_allowed_host_may_have_pages_of_its_own_but_not_of_others() -> None:
    guard = Guard(["*"])
    guard.check(scope(host="box:8888", origin="http://box:8888"))
    with pytest.raises(Refusal, match="may not use this server"):
        guard.check(scope(host="box:8888", origin="http://evil.com"))


def test_what_was_allowed_for_one_page_is_not_for_another() -> None:
    guard = Guard()
    guard.check(scope())
    with pytest.raises(Refusal, match="may not use this server"):
        guard.check(scope(origin="http://evil.com"))


def test_an_image_or_frame_of_another_site_is_refused_and_a_followed_link_is_not() -> None:
    followed = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    Guard().check(scope("GET", **followed, sec_fetch_dest="document"))
    refused(scope("GET", **followed, sec_fetch_dest="iframe"))
    refused(scope("POST", **followed, sec_fetch_dest="document"))
    refused(scope("GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"))


def test_a_websocket_is_checked_as_well() -> None:
    handshake = {**scope(origin="http://evil.com"), "type": "websocket"}
    handshake.pop("method")
    refused(handshake)


def test_a_browser_that_asks_first_gets_an_answer() -> None:
    asking = scope(
        "OPTIONS",
        origin="http://localhost:3000",
        access_control_request_method="POST",
        access_control_request_headers="content-type, x-own",
    )
    answer = preflight(asking)
    assert answer is not None
    assert answer.status == 204
    headers = dict(answer.headers)
    assert headers[b"access-control-allow-methods"] == b"POST"
    assert headers[b"access-control-allow-headers"] == b"content-type, x-own"
    assert preflight(scope("OPTIONS")) is None


@pytest.mark.parametrize(
    ("scheme", "host", "readable"),
    [
        ("http", "gpu-box:8000", True),
        ("http", "10.0.0.7", True),
        ("https", "gpu-box:8000", False),
        ("http", "localhost:8000", False),
        ("http", "[::1]:8000", False),
    ],
)
def test_who_types_a_key_is_told_where_others_can_read_it(
    scheme: str, host: str, readable: bool
) -> None:
    request = {**scope(host=host), "scheme": scheme}
    assert can_be_read(request) == readable
    page = sign_in(Server(f"{scheme}://{host}", can_be_read(request)), "laptop").body.decode()
    assert ("others on the network can read" in page) == readable
