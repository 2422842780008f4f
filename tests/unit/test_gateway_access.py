"""Whose request it is, and what it may do: on the keyless loopback, and where keys are needed."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.control.key import Key, KeyRing, digest
from runpod_flash.gateway.access import (
    Keyed,
    Keyless,
    admit,
    for_inner,
    headers_for_routes,
    identity_of,
    require,
)
from runpod_flash.gateway.messages import Refusal
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.control.key import KeyScope
    from runpod_flash.gateway.access import Access
    from runpod_flash.project.catalog import Discovered

POLICIES = [Keyless, Keyed]


def ring() -> KeyRing:
    """Keys whose secrets are their names; "old" has expired, "kept" is for no endpoint here."""
    found = KeyRing(ManualClock(1_800_000_000.0))
    scopes: tuple[KeyScope, ...] = ("invoke", "deploy", "admin")
    for name in scopes:
        found.add(Key(f"key_{name}", name, name, (), "", 0.0), digest(name.encode()))
    found.add(Key("key_o", "old", "admin", (), "", 0.0, 1_799_999_940.0), digest(b"old"))
    found.add(Key("key_k", "kept", "deploy", ("a", "b"), "", 0.0), digest(b"kept"))
    return found


def scope(*given: str, path: str = "/v2/double/run", kind: str = "http") -> Any:
    headers = [(b"host", b"localhost"), *((b"authorization", g.encode()) for g in given)]
    return {"type": kind, "method": "POST", "path": path, "headers": headers}


def nothing(_: Any) -> Discovered | None:
    return None


def refused(call: Callable[[], Any], status: int) -> str:
    with pytest.raises(Refusal) as caught:
        call()
    answer = caught.value.answer
    assert answer.status == status
    assert json.loads(answer.body) == {"error": str(caught.value)}
    assert (b"www-authenticate", b"Bearer") in answer.headers or status != 401
    return str(caught.value)


def admitted(access: Access, request: Any) -> Any:
    admit(access, request, nothing)
    return request


# Who asks


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "value", ["deploy", "Bearer deploy", "bearer deploy", "BEARER  deploy", " Bearer deploy "]
)
def test_a_key_is_taken_bare_or_after_the_word_bearer(policy: Any, value: str) -> None:
    request = admitted(policy(ring()), scope(value))
    identity = identity_of(request)
    assert identity.key is not None
    assert identity.key.id == "key_deploy"
    require(request, "invoke")
    require(request, "deploy")


WRONG = [
    "",
    "Bearer",
    "Bearer ",
    "Basic deploy",
    "Bearer deploy deploy",
    "Bearer deploy, Bearer deploy",
    "deploy\x00",
    "Deploy",
    "key_deploy",
    "Bearer \u00fc\u00fc",
    "Bearer " + "x" * 60_000,
]


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_key_is_refused_where_keys_are_needed(value: str) -> None:
    said = refused(lambda: Keyed(ring()).identify(scope(value)), 401)
    assert "keys do not include the one that was sent" in said
    assert not value or value not in said


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_key_is_as_good_as_none_on_the_loopback(value: str) -> None:
    request = admitted(Keyless(ring()), scope(value))
    assert identity_of(request).key is None
    assert not identity_of(request).owner
    said = refused(lambda: require(request, "deploy"), 401)
    assert "keys do not include the one that was sent" in said


def test_without_a_key_the_sentence_says_how_to_give_one() -> None:
    said = refused(lambda: Keyed(ring()).identify(scope()), 401)
    assert "Authorization: Bearer KEY" in said
    assert refused(lambda: require(admitted(Keyless(ring()), scope()), "deploy"), 401) == said


def test_an_expired_key_has_a_sentence_of_its_own() -> None:
    said = refused(lambda: Keyed(ring()).identify(scope("Bearer old")), 401)
    assert said.startswith("the key 'old' expired on 2027-01-15 at 07:59 UTC")
    request = admitted(Keyless(ring()), scope("Bearer old"))
    assert refused(lambda: require(request, "admin"), 401) == said


def test_a_revoked_key_is_refused_with_the_words_for_one_that_never_was() -> None:
    known = ring()
    access = Keyed(known)
    access.identify(scope("deploy"))
    known.drop("key_deploy")
    revoked = refused(lambda: access.identify(scope("deploy")), 401)
    assert revoked == refused(lambda: access.identify(scope("flash_forged")), 401)


@pytest.mark.parametrize("policy", POLICIES)
def test_two_authorization_headers_are_refused_whatever_they_hold(policy: Any) -> None:
    for pair in (("deploy", "deploy"), ("deploy", "wrong"), ("", "deploy")):
        said = refused(partial(policy(ring()).identify, scope(*pair)), 400)
        assert "several Authorization headers" in said


# What a request may do


@pytest.mark.parametrize(
    ("key", "needed", "may"),
    [
        ("invoke", "invoke", True),
        ("invoke", "deploy", False),
        ("invoke", "admin", False),
        ("deploy", "deploy", True),
        ("deploy", "admin", False),
        ("admin", "admin", True),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_does_what_its_scope_includes(
    policy: Any, key: str, needed: KeyScope, may: bool
) -> None:
    request = admitted(policy(ring()), scope(key))
    if may:
        require(request, needed)
        return
    said = refused(lambda: require(request, needed), 403)
    assert f"the key {key!r} has the scope {key}, and this needs {needed}" in said


def test_only_keys_that_may_deploy_have_values_unpickled() -> None:
    def owner(*key: str) -> bool:
        return identity_of(admitted(Keyless(ring()), scope(*key))).owner

    assert [owner(), owner("invoke"), owner("deploy"), owner("admin"), owner("old")] == [
        False, False, True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/ping", "/health", "/setup", "/docs", "/docs/x.css"])
def test_pages_that_tell_nothing_need_no_key(path: str) -> None:
    request = admitted(Keyed(ring()), scope(path=path))
    assert identity_of(request).key is None
    refused(lambda: require(request, "invoke"), 401)


@pytest.mark.parametrize(
    "path",
    ["/v2/a/run", "/v2/keys", "/openapi.json", "/metrics", "/file/route", "//ping", "/docsx"],
)
def test_everything_else_does(path: str) -> None:
    refused(lambda: Keyed(ring()).identify(scope(path=path)), 401)


def test_no_websocket_is_public() -> None:
    refused(lambda: Keyed(ring()).identify(scope(path="/ping", kind="websocket")), 401)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_for_some_endpoints_is_for_no_other_address(policy: Any) -> None:
    access = policy(ring())
    said = refused(lambda: admit(access, scope("kept"), nothing), 403)
    assert said == "this key is only for a and b"
    for path in ("/v2/keys", "/openapi.json", "/v2/nowhere/run"):
        refused(partial(admit, access, scope("kept", path=path), nothing), 403)
    admit(access, scope("kept", path="/ping"), nothing)


@pytest.mark.parametrize("path", ["/", "/ping", "/docs", "/docs/x", "/oauth/x"])
def test_no_path_of_an_inner_app_is_public(path: str) -> None:
    refused(lambda: Keyed(ring()).identify(for_inner(scope(path=path))), 401)
    refused(lambda: admit(Keyless(ring()), for_inner(scope("kept", path=path)), nothing), 403)


# What user code sees


@pytest.mark.parametrize("policy", POLICIES)
def test_routes_do_not_see_keys_of_the_server(policy: Any) -> None:
    request = admitted(policy(ring()), scope("Bearer invoke"))
    assert headers_for_routes(request) == [(b"host", b"localhost")]


def test_routes_on_the_loopback_see_what_is_meant_for_them() -> None:
    request = admitted(Keyless(ring()), scope("Basic dXNlcjpwYXNz"))
    assert headers_for_routes(request)[-1] == (b"authorization", b"Basic dXNlcjpwYXNz")
