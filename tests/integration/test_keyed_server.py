"""A server that asks for keys, on a real socket: what is let in, and what is not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from integration.served import Served, serving
from runpod_flash.control.image_settings import new_spec
from runpod_flash.control.keys import Keys
from runpod_flash.gateway.access import Keyed, Keyless
from runpod_flash.plane.store.database import prepare
from runpod_flash.project.catalog import Catalog, of_image
from runpod_flash.spec import Scaling
from runpod_flash.wire import frames
from runpod_flash.wire.frames import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

FILES = {
    "work.py": """
        import time
        from runpod_flash import Endpoint

        @Endpoint(name="double", cpu="cpu3c-1-2")
        def double(x: int) -> int:
            return 2 * x

        @Endpoint(name="other", cpu="cpu3c-1-2")
        def other() -> str:
            return "other"

        @Endpoint(name="slow", cpu="cpu3c-1-2")
        def slow() -> str:
            time.sleep(1)
            return "done"
    """,
    "web.py": """
        import asyncio
        from fastapi import Request, Response, WebSocket, WebSocketDisconnect
        from fastapi.responses import StreamingResponse
        from runpod_flash import Endpoint

        ENDS = []

        api = Endpoint(name="api", cpu="cpu3c-1-2")

        @api.get("/seen")
        async def seen(request: Request, response: Response) -> dict:
            response.headers["service-worker-allowed"] = "/"
            return {"authorization": request.headers.getlist("authorization")}

        @api.websocket("/echo")
        async def echo(socket: WebSocket):
            await socket.accept()
            await socket.send_text(socket.headers.get("authorization", "none"))
            await socket.close()

        @api.websocket("/hold")
        async def hold(socket: WebSocket):
            await socket.accept()
            try:
                while True:
                    await socket.send_text(await socket.receive_text())
            except WebSocketDisconnect as gone:
                ENDS.append(gone.code)

        @api.get("/ends")
        async def ends() -> list:
            return ENDS

        @api.get("/ticks")
        async def ticks() -> StreamingResponse:
            async def lines():
                while True:
                    yield "data: tick\\n\\n"
                    await asyncio.sleep(0.05)
            return StreamingResponse(lines(), media_type="text/event-stream")
    """,
}
RUN = {"input": {"x": 4}}


def guarded(
    root: Path,
    scenario: Callable[[Served, Keys], Awaitable[None]],
    policy: type[Keyed | Keyless] = Keyed,
    files: dict[str, str] = FILES,
    clock: Callable[[], float] = time.time,
    **options: Any,
) -> None:
    """Run a scenario against a server with keys, whose clock this is.

    Options are those of `serving`.
    """

    async def whole() -> None:
        path = root / ".server" / "flash.db"
        prepare(path)
        keys = Keys(path, clock)
        await keys.load()
        async with serving(root, files, policy(keys.ring), keys, **options) as served:
            await scenario(served, keys)

    asyncio.run(whole())


async def bearer(keys: Keys, name: str, *given: Any) -> dict[str, str]:
    """The header of a new key."""
    return {"authorization": f"Bearer {(await keys.create(name, *given)).secret}"}


# Keys and scopes


def test_every_address_needs_a_key_but_pages_that_tell_nothing(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = await bearer(keys, "ci")
        paths = ["/v2/double/runsync", "/work/double/runsync"]
        for path in [*paths, "/web/seen", "/v2/double/health", "/openapi.json", "/nowhere"]:
            for wrong in ({}, {"authorization": "Bearer flash_forged"}):
                answer = await served.post(path, RUN, headers=wrong)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json().keys() == {"error"}
        for path in paths:
            assert (await served.post(path, RUN, headers=key)).json()["output"] == 8
        for path in ("/ping", "/docs"):
            assert (await served.get(path)).status_code == 200
        assert (await served.get("/openapi.json", headers=key)).status_code == 200

    guarded(tmp_path, scenario)


def test_a_revoked_or_expired_key_calls_nothing_more(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        new = await keys.create("ci")
        key = {"authorization": new.secret}
        path = "/v2/double/runsync"
        assert (await served.post(path, RUN, headers=key)).status_code == 200
        gone = await served.http.delete(f"/v2/keys/{new.key.id}", headers=admin)
        assert (gone.status_code, gone.content) == (204, b"")
        revoked = await served.post(path, RUN, headers=key)
        assert (revoked.status_code, "expired" in revoked.text) == (401, False)
        brief = await bearer(keys, "brief", "invoke", (), 1e-9)
        expired = await served.post(path, RUN, headers=brief)
        assert expired.status_code == 401
        assert "the key 'brief' expired on" in expired.json()["error"]

    guarded(tmp_path, scenario)


def test_what_lasts_ends_with_its_key_and_what_was_accepted_does_not(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        new, other = await keys.create("ci"), await bearer(keys, "other")
        key = {"authorization": new.secret}
        url = f"ws{served.address.removeprefix('http')}/web/hold"
        job = asyncio.ensure_future(served.post("/v2/slow/runsync", {"input": {}}, headers=key))
        async with (
            connect(url, additional_headers=key) as mine,
            connect(url, additional_headers=other) as theirs,
            served.http.stream("GET", "/web/ticks", headers=key) as ticks,
        ):
            lines = ticks.aiter_lines()
            assert await anext(lines) == "data: tick"
            for socket in (mine, theirs):
                await socket.send("hi")
                assert await socket.recv() == "hi"
            await served.http.delete(f"/v2/keys/{new.key.id}", headers=admin)
            with pytest.raises(ConnectionClosed) as closed:
                await mine.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
            assert closed.value.rcvd.reason == "the key was revoked or has expired"
            assert {line async for line in lines} <= {"data: tick", ""}, "the end is clean"
            await theirs.send("still here")
            assert await theirs.recv() == "still here"
            assert (await served.get("/web/ends", headers=other)).json() == [1008]
        assert (await job).json()["status"] == "COMPLETED"

    guarded(tmp_path, scenario)


def test_what_lasts_ends_when_its_key_expires(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        other = await bearer(keys, "other")
        await served.get("/web/seen", headers=other)  # so that a worker is there
        brief = await keys.create("brief", "admin", (), 1.0)
        key = {"authorization": brief.secret}
        url = f"ws{served.address.removeprefix('http')}/web/hold"
        logs = "/v2/serverless/api/logs"
        began = time.monotonic()
        async with (
            connect(url, additional_headers=key) as socket,
            served.http.stream("GET", logs, headers=key) as followed,
        ):
            assert followed.status_code == 200
            await socket.wait_closed()
            assert socket.close_code == 1008
            async for _ in followed.aiter_lines():
                pass
        assert 0.5 < time.monotonic() - began < 5

    guarded(tmp_path, scenario)


@pytest.mark.parametrize("policy", [Keyed, Keyless])
def test_a_key_for_one_endpoint_reaches_no_other_by_any_address(
    tmp_path: Path, policy: type[Keyed | Keyless]
) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = await bearer(keys, "ci", "deploy", ("double",))
        for path in ("/v2/double/runsync", "/work/double/runsync"):
            assert (await served.post(path, RUN, headers=key)).json()["output"] == 8
        job = (await served.post("/v2/double/run", RUN, headers=key)).json()["id"]
        for path in (f"/v2/double/status/{job}", f"/work/double/status/{job}"):
            assert (await served.get(path, headers=key)).status_code == 200
        for path in ("/v2/other/run", "/work/other/run", "/work/other/runsync"):
            refused = await served.post(path, {"input": {}}, headers=key)
            assert (refused.status_code, refused.json()) == (
                403,
                {"error": "this key is only for double"},
            )
        for path in ("/web/seen", "/openapi.json", "/v2/keys", "/v2/nowhere/health"):
            assert (await served.get(path, headers=key)).status_code == 403, path

    guarded(tmp_path, scenario, policy)


def test_a_key_for_one_endpoint_reaches_it_by_headers_too(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = await bearer(keys, "ci", "invoke", ("double",))
        for name, status in (("double", 200), ("other", 403), ("unknown", 403), ("", 404)):
            headers = {**key, "x-flash-endpoint": name}
            answer = await served.post("/v2/flash/runsync", RUN, headers=headers)
            assert answer.status_code == status, name

    guarded(tmp_path, scenario)


def test_jobs_of_another_endpoint_cannot_be_seen_nor_cancelled(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = await bearer(keys, "ci", "deploy", ("other",))
        job = (await served.post("/v2/double/run", RUN)).json()["id"]
        for verb, method in (("status", "GET"), ("stream", "GET"), ("cancel", "POST")):
            path = f"/v2/other/{verb}/{job}"
            plain = await served.http.request(method, path, headers=key)
            assert plain.status_code == 404
            framed = await served.http.request(
                method, path, headers={**key, "content-type": MEDIA_TYPE}
            )
            (look,) = frames.decode(framed.content)
            assert not look.fields.get("state")
            assert not look.buffers

    guarded(tmp_path, scenario, Keyless)


def test_frames_are_for_keys_that_may_deploy(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        framed = {"content-type": MEDIA_TYPE}
        for header, status in (
            ({}, 401),
            ({"authorization": "wrong"}, 401),
            (await bearer(keys, "invoke"), 403),
            (await bearer(keys, "deploy", "deploy"), 400),
            (await bearer(keys, "admin", "admin"), 400),
        ):
            answer = await served.http.post(
                "/v2/double/run", content=b"no frame", headers={**framed, **header}
            )
            assert answer.status_code == status, header
            assert answer.json()["error"]

    guarded(tmp_path, scenario, Keyless)


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": ["input"]},
        {"form": 'input","t":"stop'},
        {"form": None},
        {"credits": '1,"t":"stop"'},
        {"credits": -1},
        {"credits": True},
        {"job": ["x"]},
        {"job": "x" * 2000},
    ],
    ids=str,
)
def test_frames_that_are_no_job_are_refused_and_hurt_no_other(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = await bearer(keys, "deploy", "deploy")
        fields = {"job": "one", "form": "input", **wrong}
        frame = frames.Frame("submit", fields, (b'{"value": 2}',))
        body = b"".join(map(bytes, frames.encode(frame)))
        headers = {**key, "content-type": MEDIA_TYPE}
        answer = await served.http.post("/v2/double/run", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the body is no job of this version")
        assert (await served.post("/v2/double/runsync", RUN)).json()["status"] == "COMPLETED"

    guarded(tmp_path, scenario, Keyless)


def test_a_program_brings_code_only_with_a_key_that_may_deploy(tmp_path: Path) -> None:
    session = "0" * 32
    places = [
        ("PUT", f"/v2/sessions/{session}"),
        ("DELETE", f"/v2/sessions/{session}"),
        ("GET", f"/v2/sessions/{session}/events"),
        ("POST", "/v2/blobs"),
    ]

    async def scenario(served: Served, keys: Keys) -> None:
        for method, path in places:
            for header, status in (
                ({}, 401),
                (await bearer(keys, f"invoke {method} {path}"), 403),
                (await bearer(keys, f"kept {method} {path}", "deploy", ("double",)), 403),
            ):
                answer = await served.http.request(method, path, headers=header)
                assert answer.status_code == status, path
                assert answer.json().keys() == {"error"}
            deploy = await bearer(keys, f"deploy {method} {path}", "deploy")
            assert (await served.http.request(method, path, headers=deploy)).status_code != 403

    guarded(tmp_path / "keyless", scenario, Keyless)
    guarded(tmp_path / "keyed", scenario, Keyed)


def test_whether_a_program_s_app_is_here_is_no_stranger_s_business(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        path = f"/s/{'0' * 32}/v2/double/run"
        assert (await served.post(path, RUN)).status_code == 401
        known = await served.post(path, RUN, headers=await bearer(keys, "ci"))
        assert known.status_code == 404

    guarded(tmp_path, scenario)


def _image(name: str) -> dict[str, Any]:
    """An endpoint of an image, whose routes are below its name; no worker of it is started."""
    return {
        "name": name,
        "type": "LOAD_BALANCER",
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 1},
        "image": "nginx:latest",
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "workers": {"min": 0, "max": 0},
        "ports": ["80/http"],
    }


@pytest.mark.parametrize("name", ["docs", "oauth"])
def test_an_endpoint_with_the_name_of_a_public_folder_is_not_public(
    tmp_path: Path, name: str
) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        spec = replace(new_spec(_image(name)), scaling=Scaling(workers_max=0))
        found = replace(of_image(spec, {}, ""), operations=())
        release = {"project": "p", "files": [], "catalog": Catalog("", (found,)).to_wire()}
        path = "/v2/apps/pages/environments/production/releases"
        made = await served.post(path, release, headers=admin)
        assert made.status_code == 202, made.text
        while not (await served.get("/v2/serverless", headers=admin)).json()["endpoints"]:
            assert "failed" not in (await served.get(path, headers=admin)).text
            await asyncio.sleep(0.02)
        kept = await bearer(keys, "kept", "invoke", ("double",))
        by_header = {"x-flash-endpoint": f"pages-production-{name}"}
        by_host = {"host": f"pages-production-{name}.localhost"}
        for headers in (by_header, by_host):
            for asked in ("/secret", "/docs/x", "/"):
                assert (await served.get(asked, headers=headers)).status_code == 401
                answer = await served.get(asked, headers={**headers, **kept})
                assert answer.status_code == 403

    guarded(tmp_path, scenario, files={}, control=True)


def test_an_endpoint_of_an_image_has_no_name_of_the_server_s_own_addresses(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        for name in ("docs", "oauth", "keys"):
            answer = await served.post("/v2/serverless", _image(name), headers=admin)
            assert answer.status_code == 400
            assert f"'{name}' is an address of the server itself" in answer.text
        answer = await served.post("/v2/serverless", _image("pages"), headers=admin)
        assert answer.status_code == 201, answer.text

    guarded(tmp_path, scenario, files={}, control=True)


# Pages in the user's browser


@pytest.mark.parametrize("policy", [Keyed, Keyless])
def test_a_page_of_elsewhere_reaches_no_address(
    tmp_path: Path, policy: type[Keyed | Keyless]
) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        admin = await bearer(keys, "admin", "admin")
        port = served.address.rpartition(":")[2]
        rebound = {"host": f"evil.example:{port}", "origin": f"http://evil.example:{port}"}
        for method, path in (
            ("POST", "/v2/double/run"),
            ("POST", "/work/double/runsync"),
            ("GET", "/web/seen"),
            ("GET", "/v2/keys"),
            ("POST", "/v2/keys"),
            ("DELETE", "/v2/keys/key_0"),
            ("GET", "/setup"),
            ("POST", "/setup"),
            ("PUT", f"/v2/sessions/{'0' * 32}"),
            ("POST", "/v2/blobs"),
            ("POST", f"/s/{'0' * 32}/v2/double/run"),
            ("GET", "/ping"),
        ):
            for page in (
                rebound,
                {"origin": "https://evil.example"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
            ):
                answer = await served.http.request(method, path, headers={**admin, **page})
                assert answer.status_code == 403, (path, page)

    guarded(tmp_path, scenario, policy)


# Routes


def test_a_route_does_not_see_the_key_and_a_websocket_needs_one(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = await bearer(keys, "ci")
        answer = await served.get("/web/seen", headers=key)
        assert answer.json() == {"authorization": []}
        # (No service worker of user code stands before a page of the server's own.)
        assert "service-worker-allowed" in answer.headers
        script = await served.get("/web/seen", headers={**key, "service-worker": "script"})
        assert (script.status_code, "service-worker-allowed" in script.headers) == (200, False)
        address = served.address.replace("http", "ws") + "/web/echo"
        async with connect(address, additional_headers=key) as socket:
            assert await socket.recv() == "none"
        for wrong in ({}, {"authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus) as refused:
                await connect(address, additional_headers=wrong)
            assert refused.value.response.status_code == 401

    guarded(tmp_path, scenario)


def test_a_route_on_the_loopback_sees_an_authorization_that_is_its_own(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        own = await served.get("/web/seen", headers={"authorization": "Basic dTpw"})
        assert own.json() == {"authorization": ["Basic dTpw"]}
        ours = await served.get("/web/seen", headers=await bearer(keys, "ci"))
        assert ours.json() == {"authorization": []}

    guarded(tmp_path, scenario, Keyless)


# Bytes that are no request, or two


async def raw(served: Served, text: str) -> tuple[int, bytes]:
    """Send these lines, and read all that comes; the first status."""
    port = int(served.address.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.replace("\n", "\r\n").encode("latin-1"))
    came = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return int(came.split(b" ", 2)[1]), came


SMUGGLED = "GET /v2/keys HTTP/1.1\nHost: localhost\nAuthorization: KEY\n\n"
ODD_HEADERS = [
    "Content-Length: 4\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\nContent-Length: 4",
    "Content-Length: 0\nContent-Length: 4",
    "Content-Length: 0, 4",
    "Content-Length: -1",
    "Content-Length: +4",
    "Content-Length: 0x4",
    "Content-Length : 4",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding : chunked",
    "X: a\rContent-Length: 4",
    "X: a\x00b",
    "X y: a",
    ": a",
    "Authorization: KEY",
    "authorization: Bearer flash_forged",
]


def test_a_request_that_may_be_read_in_two_ways_is_refused_and_holds_no_other(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        key = (await keys.create("admin", "admin")).secret
        for odd in ODD_HEADERS:
            head = f"POST /v2/double/run HTTP/1.1\nHost: localhost\nAuthorization: KEY\n{odd}"
            text = f"{head}\n\n0\n\n{SMUGGLED}".replace("KEY", key)
            status, came = await raw(served, text)
            assert (odd, status) == (odd, 400)
            assert b'"keys"' not in came, odd
            assert key.encode() not in came, odd

    guarded(tmp_path, scenario)
