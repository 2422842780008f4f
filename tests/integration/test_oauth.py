"""Logging in, on a real socket: who gets a key, and in how many ways one gets none."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from integration.test_keyed_server import guarded
from runpod_flash.control.browser_sessions import SESSION_SECONDS
from runpod_flash.control.logins import CODE_SECONDS, DEVICE_SECONDS
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from integration.served import Served
    from runpod_flash.control.key import Key
    from runpod_flash.control.keys import Keys

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=")
BACK = "http://127.0.0.1:43210/callback"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class Side:
    """A server at a clock of its own, and those who ask it: programs, and people in browsers."""

    def __init__(self, served: Served, keys: Keys, clock: ManualClock) -> None:
        self.served = served
        self.keys = keys
        self.clock = clock

    # Programs

    def asking(self, **changed: str | None) -> str:
        """The page that a program opens."""
        fields: dict[str, Any] = {
            "response_type": "code",
            "client_id": "flash-cli",
            "redirect_uri": BACK,
            "scope": "deploy",
            "state": "s",
            "machine": "laptop",
            "code_challenge": CHALLENGE.decode(),
            "code_challenge_method": "S256",
            **changed,
        }
        return f"/oauth/authorize?{urlencode({k: v for k, v in fields.items() if v is not None})}"

    async def fetch(self, code: str, **changed: str) -> httpx.Response:
        """A program that has a code asks for its key."""
        fields = {
            "grant_type": "authorization_code",
            "client_id": "flash-cli",
            "code": code,
            "redirect_uri": BACK,
            "code_verifier": VERIFIER,
        }
        return await self.served.http.post("/oauth/token", data={**fields, **changed})

    async def begin(self, **changed: str) -> dict[str, Any]:
        """A program begins a login for a browser elsewhere."""
        fields = {"client_id": "flash-cli", "scope": "deploy", "machine": "shed", **changed}
        answer = await self.served.http.post("/oauth/device_authorization", data=fields)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def poll(self, told: dict[str, Any], **changed: str) -> str:
        """What it hears: the key, or one of OAuth's words."""
        fields = {"grant_type": DEVICE, "client_id": "flash-cli", **changed}
        fields.setdefault("device_code", told["device_code"])
        answer = await self.served.http.post("/oauth/token", data=fields)
        assert answer.headers["cache-control"] == "no-store"
        value = answer.json()
        assert answer.status_code == (200 if "access_token" in value else 400)
        return str(value.get("access_token") or value["error"])

    def key_of(self, secret: str) -> Key:
        found = self.keys.ring.find(secret.encode())
        assert found is not None
        return found

    # People

    @asynccontextmanager
    async def person(self, key: str = "") -> AsyncIterator[Person]:
        """In a browser that knows nobody, or the holder of this key."""
        own = {"origin": self.served.address}
        async with httpx.AsyncClient(base_url=self.served.address, headers=own) as http:
            person = Person(http)
            if key:
                signed = await http.post(self.asking(), data={"key": key})
                assert signed.status_code == 303
            yield person


class Person:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def seal(self, page: str) -> str:
        found = re.search(r'name="seal" value="(\w+)"', (await self.http.get(page)).text)
        assert found
        return found[1]

    async def decide(self, page: str, decision: str = "approve", **more: str) -> httpx.Response:
        seal = more.pop("seal", None) or await self.seal(page)
        return await self.http.post(page, data={"decision": decision, "seal": seal, **more})

    async def approve(self, page: str) -> str:
        """The code that their browser brings back."""
        answer = await self.decide(page)
        assert answer.status_code == 303, answer.text
        return returned(answer)["code"]


def returned(answer: httpx.Response) -> dict[str, str]:
    """What a browser is sent back with, to the program that asked."""
    location = answer.headers["location"]
    assert location.startswith(f"{BACK}?")
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def login(root: Path, scenario: Callable[[Side], Awaitable[None]]) -> None:
    clock = ManualClock(1_000_000.0)

    async def whole(served: Served, keys: Keys) -> None:
        await scenario(Side(served, keys, clock))

    guarded(root, whole, files={}, clock=clock)


# The good ways


def test_a_person_allows_a_login_of_this_machine_and_its_program_gets_a_key(
    tmp_path: Path,
) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "admin")
        async with side.person() as person:
            page = await person.http.get(side.asking())
            assert (page.status_code, "Sign in" in page.text) == (200, True)
            signed = await person.http.post(side.asking(), data={"key": f" {ada.secret}\n"})
            assert (signed.status_code, signed.headers["location"]) == (303, side.asking())
            cookie = signed.headers["set-cookie"]
            assert "HttpOnly; SameSite=Strict" in cookie
            assert "Path=/oauth;" in cookie
            assert ada.secret not in cookie
            asked = (await person.http.get(side.asking())).text
            for word in ("laptop", "deploy", "127.0.0.1:43210", "ada@laptop", ada.key.masked):
                assert word in asked
            answer = await person.decide(side.asking())
        assert answer.status_code == 303
        back = returned(answer)
        assert back["state"] == "s"
        assert [key.name for key in side.keys.ring] == ["ada"]
        told = await side.fetch(back["code"])
        assert told.headers["cache-control"] == "no-store"
        assert (told.json()["token_type"], told.json()["scope"]) == ("Bearer", "deploy")
        key = side.key_of(told.json()["access_token"])
        assert (key.name, key.scope) == ("ada@laptop", "deploy")
        used = await side.served.get(
            "/v2/account", headers={"authorization": f"Bearer {ada.secret}"}
        )
        assert used.status_code == 200

    login(tmp_path, scenario)


def test_a_terminal_without_a_browser_polls_until_somebody_has_decided(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        told = await side.begin()
        assert re.fullmatch(r"[B-Z]{4}-[B-Z]{4}", told["user_code"])
        assert (told["interval"], told["expires_in"]) == (5, DEVICE_SECONDS)
        assert told["verification_uri"] == f"{side.served.address}/oauth/device"
        assert await side.poll(told) == "authorization_pending"
        async with side.person(ada.secret) as person:
            assert 'name="user_code"' in (await person.http.get("/oauth/device")).text
            # (As people type it.)
            typed = told["user_code"].replace("-", " ").lower()
            page = f"/oauth/device?{urlencode({'user_code': typed})}"
            asked = (await person.http.get(page)).text
            for word in ("shed", "deploy", "a terminal at 127.0.0.1", told["user_code"]):
                assert word in asked
            side.clock.advance(5)
            assert await side.poll(told) == "authorization_pending"
            assert (await person.decide(page)).status_code == 200
        side.clock.advance(5)
        key = side.key_of(await side.poll(told))
        assert (key.name, key.scope) == ("ada@shed", "deploy")
        assert await side.poll(told) == "invalid_grant"
        assert len(list(side.keys.ring)) == 2

    login(tmp_path, scenario)


def test_a_new_key_may_do_no_more_and_lasts_no_longer_than_that_of_who_allows_it(
    tmp_path: Path,
) -> None:
    async def scenario(side: Side) -> None:
        narrow = await side.keys.create("bob@desk", "invoke", ("resize",), expires_in=3600)
        async with side.person(narrow.secret) as person:
            asked = (await person.http.get(side.asking(scope="admin"))).text
            assert "It asked for admin; your key may only invoke" in asked
            assert "only for resize" in asked
            code = await person.approve(side.asking(scope="admin"))
        side.clock.advance(10)
        told = (await side.fetch(code)).json()
        assert (told["scope"], told["expires_in"]) == ("invoke", 3590)
        key = side.key_of(told["access_token"])
        assert (key.name, key.scope, key.endpoints) == ("bob@laptop", "invoke", ("resize",))
        assert key.expires_at == narrow.key.expires_at

    login(tmp_path, scenario)


def test_each_login_of_a_machine_has_a_key_of_its_own(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            codes = [await person.approve(side.asking()) for _ in range(3)]
        for code in codes:
            assert (await side.fetch(code)).status_code == 200
        names = [key.name for key in side.keys.ring]
        assert sorted(names) == ["ada", "ada@laptop", "ada@laptop-2", "ada@laptop-3"]

    login(tmp_path, scenario)


def test_what_a_server_can_do_is_written_down_for_programs(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        told = (await side.served.get("/.well-known/oauth-authorization-server")).json()
        assert told["issuer"] == side.served.address
        assert told["code_challenge_methods_supported"] == ["S256"]
        for name in ("authorization", "token", "device_authorization"):
            address = told[f"{name}_endpoint"]
            assert (await side.served.http.post(address)).status_code != 404

    login(tmp_path, scenario)


# Codes


STOLEN: list[tuple[dict[str, str], str]] = [
    ({"code_verifier": "w" * 43}, "invalid_grant"),
    ({"code_verifier": ""}, "invalid_grant"),
    ({"redirect_uri": "http://127.0.0.1:43211/callback"}, "invalid_request"),
    ({"client_id": "another"}, "invalid_client"),
    ({"grant_type": "password"}, "unsupported_grant_type"),
    ({"grant_type": "refresh_token"}, "unsupported_grant_type"),
]


def test_a_code_is_worth_nothing_to_who_has_not_asked_for_it(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            for changed, error in STOLEN:
                code = await person.approve(side.asking())
                refused = await side.fetch(code, **changed)
                assert (refused.status_code // 100, refused.json()["error"]) == (4, error)
                assert "access_token" not in refused.text
        assert len(list(side.keys.ring)) == 1

    login(tmp_path, scenario)


def test_a_wrong_verifier_spends_the_code(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            code = await person.approve(side.asking())
        assert (await side.fetch(code, code_verifier="w" * 43)).status_code == 400
        assert (await side.fetch(code)).json()["error"] == "invalid_grant"

    login(tmp_path, scenario)


def test_a_replayed_code_gives_nothing_and_ends_the_key_that_it_gave(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "admin")
        async with side.person(ada.secret) as person:
            code = await person.approve(side.asking())
        secret = (await side.fetch(code)).json()["access_token"]
        again = await side.fetch(code)
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
        assert side.keys.ring.find(secret.encode()) is None

    login(tmp_path, scenario)


def test_a_code_expires(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            late, early = [await person.approve(side.asking()) for _ in range(2)]
        side.clock.advance(CODE_SECONDS - 1)
        assert (await side.fetch(early)).status_code == 200
        side.clock.advance(1)
        assert (await side.fetch(late)).json()["error"] == "invalid_grant"

    login(tmp_path, scenario)


def test_a_key_that_was_revoked_meanwhile_allows_nothing(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        await side.keys.create("root", "admin")
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            code = await person.approve(side.asking())
            await side.keys.revoke(ada.key.id)
            assert "Sign in" in (await person.http.get(side.asking())).text
        refused = (await side.fetch(code)).json()
        assert refused["error"] == "invalid_grant"
        assert "does not count any more" in refused["error_description"]

    login(tmp_path, scenario)


# Redirects


FOREIGN = [
    "https://evil.example/callback",
    "http://evil.example:80/callback",
    "http://127.0.0.1:80@evil.example/",
    "http://127.0.0.1.evil.example:80/",
    "http://localhost:80/callback",
    "http://127.0.0.1/callback",
    "http://127.0.0.1:80/callback?next=https://evil.example",
    "http://127.0.0.1:80/\\evil.example",
    "http://127.0.0.1:80/a#b",
    "javascript:alert(1)",
    "//evil.example",
    "",
    None,
]


def test_a_browser_is_sent_to_no_other_machine(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            seal = await person.seal(side.asking())
            for uri in FOREIGN:
                for answer in (
                    await person.http.get(side.asking(redirect_uri=uri)),
                    await person.decide(side.asking(redirect_uri=uri), seal=seal),
                    await person.decide(side.asking(redirect_uri=uri), "deny", seal=seal),
                ):
                    assert answer.status_code == 400, uri
                    assert "location" not in answer.headers
                    assert "This login cannot go on" in answer.text

    login(tmp_path, scenario)


ODD: list[tuple[dict[str, str | None], str]] = [
    ({"code_challenge": None}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
    ({"code_challenge": "short"}, "invalid_request"),
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_type": "code token"}, "unauthorized_client"),
    ({"response_type": None}, "invalid_request"),
    ({"scope": "root"}, "invalid_scope"),
    ({"scope": "invoke deploy"}, "invalid_scope"),
]


def test_a_program_that_asks_wrongly_hears_of_it(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        async with side.person() as person:
            for changed, error in ODD:
                back = returned(await person.http.get(side.asking(**changed)))
                assert (back["error"], back["state"]) == (error, "s"), changed

    login(tmp_path, scenario)


def test_a_page_for_another_client_is_none(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        for changed in ({"client_id": "evil"}, {"client_id": None}):
            answer = await side.served.get(side.asking(**changed))
            assert answer.status_code == 400
            assert "location" not in answer.headers
        twice = await side.served.get(side.asking() + "&redirect_uri=https://evil.example")
        assert twice.status_code == 400

    login(tmp_path, scenario)


def test_a_denied_login_has_no_key(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        told = await side.begin()
        async with side.person(ada.secret) as person:
            back = returned(await person.decide(side.asking(), "deny"))
            assert (back["error"], back["state"], "code" in back) == ("access_denied", "s", False)
            page = f"/oauth/device?user_code={told['user_code']}"
            assert "Denied" in (await person.decide(page, "deny")).text
            assert (await person.http.get(page)).status_code == 404
        assert await side.poll(told) == "access_denied"
        assert len(list(side.keys.ring)) == 1

    login(tmp_path, scenario)


# Terminals


def test_who_polls_too_often_is_slowed_down(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        told = await side.begin()
        assert await side.poll(told) == "authorization_pending"
        side.clock.advance(4)
        assert await side.poll(told) == "slow_down"
        side.clock.advance(5)
        assert await side.poll(told) == "slow_down"  # (from now on, 15 seconds are asked for)
        side.clock.advance(15)
        assert await side.poll(told) == "authorization_pending"

    login(tmp_path, scenario)


def test_a_code_that_nobody_enters_expires(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        told = await side.begin()
        side.clock.advance(DEVICE_SECONDS)
        assert await side.poll(told) == "expired_token"
        async with side.person(ada.secret) as person:
            page = await person.http.get(f"/oauth/device?user_code={told['user_code']}")
            assert (page.status_code, "may have expired" in page.text) == (404, True)

    login(tmp_path, scenario)


def test_a_poll_is_answered_only_to_the_program_that_began_it(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        challenge = {"code_challenge": CHALLENGE.decode(), "code_challenge_method": "S256"}
        told = await side.begin(**challenge)
        async with side.person(ada.secret) as person:
            await person.decide(f"/oauth/device?user_code={told['user_code']}")
        for wrong in (
            {},
            {"code_verifier": "w" * 43},
            {"code_verifier": VERIFIER, "device_code": told["user_code"]},
            {"code_verifier": VERIFIER, "device_code": "x" * 43},
        ):
            assert await side.poll(told, **wrong) == "invalid_grant"
        foreign = {"grant_type": DEVICE, "client_id": "evil", "code_verifier": VERIFIER}
        refused = await side.served.http.post(
            "/oauth/token", data={**foreign, "device_code": told["device_code"]}
        )
        assert refused.json()["error"] == "invalid_client"
        assert side.key_of(await side.poll(told, code_verifier=VERIFIER)).name == "ada@shed"

    login(tmp_path, scenario)


def test_codes_are_not_found_by_trying(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        bob = await side.keys.create("bob", "deploy")
        told = await side.begin()
        right = f"/oauth/device?user_code={told['user_code']}"
        async with side.person() as stranger:
            assert "shed" not in (await stranger.http.get(right)).text  # (they sign in first)
        async with side.person(ada.secret) as person, side.person(ada.secret) as again:
            for _ in range(10):
                tried = await person.http.get("/oauth/device?user_code=BBBB-BBBB")
                assert tried.status_code == 404
            for browser in (person, again):  # (it is the key's, in whichever browser)
                stopped = await browser.http.get(right)
                assert (stopped.status_code, "shed" in stopped.text) == (429, False)
            async with side.person(bob.secret) as other:
                assert "shed" in (await other.http.get(right)).text
            side.clock.advance(599)
            assert (await person.http.get(right)).status_code == 429
            side.clock.advance(2)
            told = await side.begin()
            right = f"/oauth/device?user_code={told['user_code']}"
            assert (await person.http.get(right)).status_code == 200

    login(tmp_path, scenario)


def test_unfinished_logins_are_bounded(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        for _ in range(20):
            await side.begin()
        fields = {"client_id": "flash-cli"}
        full = await side.served.http.post("/oauth/device_authorization", data=fields)
        assert (full.status_code, full.json()["error"]) == (503, "temporarily_unavailable")
        side.clock.advance(2 * DEVICE_SECONDS)
        await side.begin()

    login(tmp_path, scenario)


# The end


def test_whoever_has_a_key_can_end_it_but_not_the_last_one_that_makes_keys(
    tmp_path: Path,
) -> None:
    async def scenario(side: Side) -> None:
        root, ada = await side.keys.create("root", "admin"), await side.keys.create("ada")
        for token, status in ((ada.secret, 200), (ada.secret, 200), ("x", 200), (root.secret, 400)):
            fields = {"client_id": "flash-cli", "token": token}
            answer = await side.served.http.post("/oauth/revoke", data=fields)
            assert answer.status_code == status
        assert "last key that can make keys" in answer.json()["error_description"]
        assert [key.name for key in side.keys.ring] == ["root"]

    login(tmp_path, scenario)


# Forms of others


def test_nobody_allows_a_login_in_a_person_s_name(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        eve = await side.keys.create("eve", "invoke")
        page, other = side.asking(), side.asking(machine="evil")
        async with side.person(ada.secret) as person, side.person(eve.secret) as attacker:
            seal = await person.seal(page)
            for wrong in ("", "0" * 64, "ü", await person.seal(other), await attacker.seal(page)):
                answer = await person.decide(page, seal=wrong or "0")
                assert (answer.status_code, "location" in answer.headers) == (403, False)
                assert "nothing was decided" in answer.text
            port = side.served.address.rpartition(":")[2]
            for headers in (
                {"origin": "https://evil.example"},
                {"origin": "null"},
                {"origin": f"http://localhost:{int(port) ^ 1}"},  # (another program of the machine)
                {"origin": ""},
                {"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
                {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
                {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
            ):
                for data in ({"decision": "approve", "seal": seal}, {"key": eve.secret}):
                    answer = await person.http.post(page, data=data, headers=headers)
                    assert answer.status_code == 403, headers
                    assert not {"location", "set-cookie"} & set(answer.headers)
            for headers in (
                {"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
                {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
                {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
            ):
                read = await person.http.get(page, headers=headers)
                assert (read.status_code, "seal" in read.text) == (403, False)
            assert (await person.decide(page, seal=seal)).status_code == 303

    login(tmp_path, scenario)


def test_who_is_not_signed_in_decides_nothing(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        told = await side.begin()
        pages = (side.asking(), f"/oauth/device?user_code={told['user_code']}")
        async with side.person() as stranger:
            for page in pages:
                for data in ({"decision": "approve"}, {"decision": "approve", "key": ada.secret}):
                    answer = await stranger.http.post(page, data=data)
                    assert "location" not in answer.headers
                    assert "Sign in" in answer.text
                for wrong in ("", "flash_forged", "ü"):
                    refused = await stranger.http.post(page, data={"key": wrong})
                    assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
            forged = {"cookie": f"flash_{side.served.address.rpartition(':')[2]}=forged"}
            assert "Sign in" in (await stranger.http.get(pages[0], headers=forged)).text
        assert await side.poll(told) == "authorization_pending"

    login(tmp_path, scenario)


def test_a_key_that_makes_keys_is_allowed_only_by_showing_one_again(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        root = await side.keys.create("root", "admin")
        ada = await side.keys.create("ada", "deploy")
        page = side.asking(scope="admin")
        async with side.person(root.secret) as person:
            for wrong in ("", "flash_forged", ada.secret):
                answer = await person.decide(page, key=wrong)
                assert (answer.status_code, "location" in answer.headers) == (403, False)
                assert "no admin key" in answer.text
            code = returned(await person.decide(page, key=root.secret))["code"]
        assert side.key_of((await side.fetch(code)).json()["access_token"]).scope == "admin"

    login(tmp_path, scenario)


def test_a_browser_that_has_signed_in_is_no_key(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        root = await side.keys.create("root", "admin")
        async with side.person(root.secret) as person:
            token = next(iter(person.http.cookies.jar)).value
            for path in ("/v2/keys", "/v2/account", "/openapi.json"):
                for header in ({"cookie": f"flash_x={token}"}, {"authorization": str(token)}):
                    assert (await person.http.get(path, headers=header)).status_code == 401
            side.clock.advance(SESSION_SECONDS - 1)
            assert "Approve" in (await person.http.get(side.asking())).text
            side.clock.advance(1)
            assert "Sign in" in (await person.http.get(side.asking())).text

    login(tmp_path, scenario)


def test_a_person_can_change_to_another_key(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        async with side.person(ada.secret) as person:
            kept = dict(person.http.cookies)
            assert (await person.decide(side.asking(), "sign-out")).status_code == 303
            assert "Sign in" in (await person.http.get(side.asking())).text
            person.http.cookies.update(kept)  # (the session itself is over, not only the cookie)
            assert "Sign in" in (await person.http.get(side.asking())).text

    login(tmp_path, scenario)


# Pages


def test_no_page_of_a_login_is_kept_framed_or_loads_anything(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        told = await side.begin()
        async with side.person() as stranger, side.person(ada.secret) as person:
            found = [await stranger.http.get(side.asking())]
            for path in (side.asking(), side.asking(redirect_uri="x"), "/oauth/device"):
                found.append(await person.http.get(path))
            found.append(await person.http.get(f"/oauth/device?user_code={told['user_code']}"))
            found += [await person.http.get(f"/oauth/{name}") for name in ("done", "denied")]
        for page in found:
            assert page.headers["cache-control"] == "no-store"
            assert page.headers["x-frame-options"] == "DENY"
            assert page.headers["cross-origin-opener-policy"] == "same-origin"
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert "frame-ancestors 'none'" in policy
            assert not re.search(r"<script|<link|<img|src=|url\(|style=", page.text)

    login(tmp_path, scenario)


def test_a_machine_s_name_is_not_taken_for_more(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        ada = await side.keys.create("ada", "deploy")
        evil = "<script>alert(1)</script>\u202e$seal\n" + "x" * 200
        told = await side.begin(machine=evil)
        async with side.person(ada.secret) as person:
            for page in (
                side.asking(machine=evil),
                f"/oauth/device?user_code={told['user_code']}",
            ):
                text = (await person.http.get(page)).text
                assert "&lt;script&gt;alert(1)&lt;/script&gt;$seal xxxx" in text
                assert "<script" not in text
                assert "\u202e" not in text
                assert "x" * 60 not in text

    login(tmp_path, scenario)


def test_odd_requests_are_refused_in_a_sentence(tmp_path: Path) -> None:
    async def scenario(side: Side) -> None:
        for path in ("/oauth/token", "/oauth/device_authorization"):
            assert (await side.served.get(path)).status_code == 405
            for body, status in ((b"", 400), (b"\xff", 400), (b"a=%zz", 400), (b"x" * 20_000, 413)):
                answer = await side.served.http.post(path, content=body)
                assert (answer.status_code, bool(answer.json()["error"])) == (status, True), body
        assert (await side.served.get("/oauth/nowhere")).status_code == 404
        assert (await side.served.http.put(side.asking())).status_code == 405
        assert (await side.served.get("/oauth/authorize?%zz")).status_code == 400

    login(tmp_path, scenario)
