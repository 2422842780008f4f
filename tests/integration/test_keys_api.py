"""/v2/keys and /setup on a real socket: making, listing and revoking keys, and the first one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from integration.test_keyed_server import bearer, guarded
from runpod_flash.control.invitations import Invitations
from runpod_flash.gateway.access import Keyed, Keyless

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from integration.served import Served
    from runpod_flash.control.keys import Keys

NOTHING: dict[str, str] = {}


def problem(answer: httpx.Response, status: int) -> Any:
    """The problem document that the answer has to be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found.keys() - {"errors"} == {"title", "status", "detail"}
    assert found["status"] == status
    assert found["title"]
    return found


def test_an_admin_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        fields = {"name": "ci", "scope": "deploy", "endpoints": ["a", "a"], "expiresIn": 3600}
        made = await served.post("/v2/keys", fields, headers=admin)
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        key = made.json()
        secret = key.pop("key")
        assert keys.ring.find(secret.encode()) is not None
        assert (key["name"], key["scope"], key["endpoints"]) == ("ci", "deploy", ["a"])
        assert key["masked"] == f"flash_…{secret[-4:]}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", key["expiresAt"])
        listed = await served.get("/v2/keys", headers=admin)
        assert secret not in listed.text
        found = listed.json()
        assert found["pagination"] == {"hasNextPage": False}
        assert [each["name"] for each in found["keys"]] == ["admin", "ci"]
        one = (await served.get(f"/v2/keys/{key['id']}", headers=admin)).json()
        assert one == found["keys"][1]
        assert one["lastUsedAt"]
        assert (await served.http.delete(f"/v2/keys/{key['id']}", headers=admin)).status_code == 204
        assert keys.ring.find(secret.encode()) is None
        plain = (await served.post("/v2/keys", {"name": "plain"}, headers=admin)).json()
        assert (plain["scope"], plain["endpoints"], plain["expiresAt"]) == ("invoke", [], None)

    guarded(tmp_path, scenario, files=NOTHING)


def test_nobody_but_an_admin_sees_or_makes_keys(tmp_path: Path) -> None:
    async def keyed(served: Served, keys: Keys) -> None:
        await keys.create("admin", "admin")
        for key in ({}, {"authorization": "Bearer flash_forged"}):
            problem(await served.get("/v2/keys", headers=key), 401)
        for scope in ("invoke", "deploy"):
            key = await bearer(keys, scope, scope)
            said = problem(await served.post("/v2/keys", {"name": "x"}, headers=key), 403)
            assert "and this needs admin" in said["detail"]
            problem(await served.http.delete("/v2/keys/x", headers=key), 403)
        assert len(list(keys.ring)) == 3

    async def keyless(served: Served, keys: Keys) -> None:
        problem(await served.post("/v2/keys", {"name": "x"}), 401)
        page = {"origin": "https://evil.example"}
        problem(await served.post("/v2/keys", {"name": "x"}, headers=page), 403)
        assert not list(keys.ring)

    guarded(tmp_path / "keyed", keyed, Keyed, NOTHING)
    guarded(tmp_path / "keyless", keyless, Keyless, NOTHING)


def test_what_is_wrong_with_a_key_is_said_field_by_field(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        for fields, said in (
            ({"name": "x", "bogus": 1}, ["$: 'bogus' is no field here"]),
            ({}, ["$.name: "]),
            ({"name": 5, "scope": "root"}, ["$.name: ", "$.scope: 'root' is none of"]),
            ({"name": "x", "scope": ["admin"]}, ["$.scope: "]),
            ({"name": "x", "endpoints": "a"}, ["$.endpoints: "]),
            ({"name": "x", "endpoints": [1]}, ["$.endpoints: "]),
            ({"name": "x", "expiresIn": 0}, ["$.expiresIn: 0 is not from 1"]),
            ({"name": "x", "expiresIn": True}, ["$.expiresIn: "]),
            ({"name": "x", "expiresIn": 1e9}, ["$.expiresIn: "]),
            ({"name": "x\n"}, ["$: 'x\\n' is no name for a key"]),
            ({"name": "x", "scope": "admin", "endpoints": ["a"]}, ["$: an admin key cannot"]),
            ([], ["$: a JSON object is needed"]),
            ("x", ["$: a JSON object is needed"]),
        ):
            found = problem(await served.post("/v2/keys", fields, headers=admin), 422)
            assert found["detail"] == "Request validation failed."
            assert len(found["errors"]) == len(said)
            for error, beginning in zip(found["errors"], said, strict=True):
                assert error.startswith(beginning)
        for body, status in (
            (b"", 400),
            (b"{", 400),
            (b"[" * 100_000, 400),
            (b'{"name": "\xff"}', 400),
            (b" " * 1_000_001, 413),
        ):
            answer = await served.http.post("/v2/keys", content=body, headers=admin)
            problem(answer, status)
        assert len(list(keys.ring)) == 1

    guarded(tmp_path, scenario, files=NOTHING)


def test_what_is_not_there_or_cannot_be_done_is_a_problem_document(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        first = next(iter(keys.ring))
        taken = problem(await served.post("/v2/keys", {"name": "admin"}, headers=admin), 409)
        assert "there is a key named 'admin'" in taken["detail"]
        last = problem(await served.http.delete(f"/v2/keys/{first.id}", headers=admin), 409)
        assert "make another one first" in last["detail"]
        for path in ("/v2/keys/key_0", "/v2/keys/a/b", "/v2/pods", "/v2/serverless/x"):
            problem(await served.get(path, headers=admin), 404)
        wrong = await served.http.put("/v2/keys", headers=admin)
        problem(wrong, 405)
        assert wrong.headers["allow"] == "GET, POST"
        one = await served.http.patch(f"/v2/keys/{first.id}", headers=admin)
        assert one.headers["allow"] == "GET, DELETE"

    guarded(tmp_path, scenario, files=NOTHING)


# Invitations


def test_an_admin_invites_and_nobody_else(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin, deploy = await bearer(keys, "admin", "admin"), await bearer(keys, "d", "deploy")
        path = "/v2/invitations"
        fields = {"name": "ada", "scope": "deploy", "endpoints": ["a"], "expiresIn": 3600}
        for headers, status in (({}, 401), (deploy, 403)):
            assert (await served.post(path, fields, headers=headers)).status_code == status
            assert (await served.get(path, headers=headers)).status_code == status
        made = await served.post(path, {**fields, "validFor": 60}, headers=admin)
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        link = made.json().pop("link")
        assert link.startswith(f"{served.address}/setup?token=")
        listed = (await served.get(path, headers=admin)).json()["invitations"]
        assert [each["name"] for each in listed] == ["ada"]
        assert listed[0]["keyExpiresIn"] == 3600
        assert "link" not in listed[0]
        for wrong, status in (
            ({}, 422),
            ({**fields, "validFor": 0}, 422),
            ({**fields, "validFor": "1d"}, 422),
            ({**fields, "scope": "root"}, 422),
            ({**fields, "scope": "admin"}, 422),
            ({**fields, "colour": "red"}, 422),
            ({**fields, "name": "d"}, 409),
        ):
            assert (await served.post(path, wrong, headers=admin)).status_code == status, wrong
        page = await served.get(link)
        for word in ("ada", "deploy", "<dd>a</dd>"):
            assert word in page.text
        address = f"{path}/{listed[0]['id']}"
        assert (await served.get(address, headers=admin)).status_code == 405
        assert (await served.http.delete(address, headers=admin)).status_code == 204
        assert (await served.http.delete(address, headers=admin)).status_code == 404
        assert (await served.get(link)).status_code == 410

    guarded(tmp_path, scenario, files=NOTHING)


# The setup link


def test_the_setup_page_makes_one_key_by_its_button_and_none_by_being_opened(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        token = (await Invitations(keys).create("setup", "admin", 60)).token
        for _ in range(2):
            page = await served.get(f"/setup?token={token}")
            assert page.status_code == 200
            assert f'value="{token}"' in page.text
        assert (await served.http.head(f"/setup?token={token}")).status_code == 200
        assert not list(keys.ring)
        own = {"origin": served.address}
        made = await served.http.post("/setup", data={"token": token}, headers=own)
        assert made.status_code == 200
        secret = re.search(r"export FLASH_API_KEY=(flash_\S+)", made.text)
        assert secret
        found = keys.ring.find(secret[1].encode())
        assert found is not None
        assert found.may("admin")
        again = await served.http.post("/setup", data={"token": token})
        assert again.status_code == 410
        assert "works once" in again.text
        assert (await served.get(f"/setup?token={token}")).status_code == 410
        assert len(list(keys.ring)) == 1

    guarded(tmp_path, scenario, files=NOTHING)


def test_no_page_of_the_setup_is_kept_framed_or_loads_anything(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        token = (await Invitations(keys).create("setup", "admin", 60)).token
        for page in (
            await served.get(f"/setup?token={token}"),
            await served.http.post("/setup", data={"token": token}),
            await served.get("/setup"),
        ):
            assert page.headers["cache-control"] == "no-store"
            assert page.headers["x-frame-options"] == "DENY"
            assert page.headers["referrer-policy"] in ("same-origin", "no-referrer")
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert "frame-ancestors 'none'" in policy
            assert not re.search(r"<script|<link|<img|src=|url\(", page.text)

    guarded(tmp_path, scenario, files=NOTHING)


def test_strangers_and_wrong_forms_get_no_key(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        token = (await Invitations(keys).create("setup", "admin", 60)).token
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"host": "evil.example"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        ):
            posted = await served.http.post("/setup", data={"token": token}, headers=headers)
            assert posted.status_code == 403, headers
        for body, status in (
            (b"", 400),
            (b"token=", 400),
            (b"token=%FF", 410),
            (b"\xff", 400),
            (b"token=" + b"x" * 5000, 413),
        ):
            answer = await served.http.post("/setup", content=body)
            assert answer.status_code == status, body
        odd = await served.get('/setup?token="><script>alert(1)</script>')
        assert odd.status_code == 410
        assert "<script" not in odd.text
        assert (await served.http.put("/setup")).status_code == 405
        assert not list(keys.ring)

    guarded(tmp_path, scenario, files=NOTHING)
