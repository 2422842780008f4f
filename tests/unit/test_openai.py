"""OpenAI's routes: jobs in, completions and events out."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from runpod_flash.plane.store.base import JobState
from unit.front import ask

if TYPE_CHECKING:
    import httpx

    from unit.front import Front

CHAT = "openai/v1/chat/completions"
BODY = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


class Asking:
    """A request on its way, and its job."""

    def __init__(self, front: Front, path: str, body: Any) -> None:
        self.front = front
        self.answer: asyncio.Task[httpx.Response] = asyncio.create_task(front.post(path, body))

    async def job_id(self) -> str:
        await self.front.rig.settle()
        (job_id,) = self.front.rig.worker().link.jobs
        return job_id

    async def chunks(self, *values: Any) -> str:
        job_id = await self.job_id()
        for index, value in enumerate(values):
            self.front.link(job_id).chunk(job_id, index, value)
            await self.front.rig.settle()
        return job_id

    async def events(self) -> list[Any]:
        response = await self.answer
        assert response.headers["content-type"] == "text/event-stream"
        lines = [each for each in response.text.split("\n\n") if each]
        data = [each.removeprefix("data: ") for each in lines if each.startswith("data: ")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]


def test_the_job_has_the_route_and_the_body() -> None:
    async def scenario(front: Front) -> None:
        asking = Asking(front, CHAT, BODY)
        job = front.rig.job(await asking.job_id())
        given = json.loads(job.call.payload.body)
        assert given == {"openai_route": "/v1/chat/completions", "openai_input": BODY}
        result = {"object": "chat.completion", "choices": []}
        await front.finish(job.id, result)
        answer = await asking.answer
        assert (answer.status_code, answer.json()) == (200, result)

    ask(scenario)


def test_text_becomes_a_completion() -> None:
    async def scenario(front: Front) -> None:
        asking = Asking(front, CHAT, BODY)
        await front.finish(await asking.chunks("Hel", "lo"))
        found = (await asking.answer).json()
        assert found["object"] == "chat.completion"
        assert found["model"] == "small"
        (choice,) = found["choices"]
        assert choice["message"] == {"role": "assistant", "content": "Hello"}
        plain = Asking(front, "openai/v1/completions", {"prompt": "x"})
        await front.finish(await plain.job_id(), "Hello")
        assert (await plain.answer).json()["choices"][0]["text"] == "Hello"
        models = asyncio.create_task(front.get("openai/v1/models"))
        await front.rig.settle()
        (job_id,) = front.rig.worker().link.jobs
        await front.finish(job_id, {"data": []})
        assert (await models).json() == {"data": []}

    ask(scenario)


def test_text_streams_as_pieces_of_a_completion() -> None:
    async def scenario(front: Front) -> None:
        asking = Asking(front, CHAT, {**BODY, "stream": True})
        await front.finish(await asking.chunks("Hel", "lo"))
        *pieces, last, done = await asking.events()
        assert [each["choices"][0]["delta"] for each in pieces] == [
            {"content": "Hel"},
            {"content": "lo"},
        ]
        assert {each["object"] for each in (*pieces, last)} == {"chat.completion.chunk"}
        assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")

    ask(scenario)


def test_events_and_objects_of_the_worker_are_passed_on() -> None:
    async def scenario(front: Front) -> None:
        streaming = {**BODY, "stream": True}
        raw = Asking(front, CHAT, streaming)
        await front.finish(await raw.chunks('data: {"a": 1}\n\ndata: {"a": 2}', "data: [DONE]\n\n"))
        assert await raw.events() == [{"a": 1}, {"a": 2}, "[DONE]"]
        objects = Asking(front, CHAT, streaming)
        await front.finish(await objects.chunks({"b": 1}, [1]))
        assert await objects.events() == [{"b": 1}, [1], "[DONE]"]
        whole = Asking(front, CHAT, streaming)
        await front.finish(await whole.job_id(), {"c": 1})
        assert await whole.events() == [{"c": 1}, "[DONE]"]

    ask(scenario)


def test_a_failure_has_openai_s_shape_before_and_within_a_stream() -> None:
    async def scenario(front: Front) -> None:
        for body in (BODY, {**BODY, "stream": True}):
            asking = Asking(front, CHAT, body)
            await front.fail(await asking.job_id(), ValueError("no model"))
            answer = await asking.answer
            assert answer.status_code == 500
            assert answer.json()["error"]["message"] == "ValueError: no model"
            assert answer.json().keys() == {"error"}
        midway = Asking(front, CHAT, {**BODY, "stream": True})
        await front.fail(await midway.chunks("Hel"), ValueError("no more"))
        assert (await midway.events())[-1]["error"]["message"] == "ValueError: no more"
        own = Asking(front, CHAT, BODY)
        await front.finish(await own.job_id(), {"object": "error", "code": 404, "message": "none"})
        assert (await own.answer).status_code == 404

    ask(scenario)


def test_a_stream_that_waits_long_says_so_now_and_then() -> None:
    async def scenario(front: Front) -> None:
        asking = Asking(front, CHAT, {**BODY, "stream": True})
        job_id = await asking.job_id()
        await asyncio.sleep(35)
        await front.finish(job_id, "late")
        assert (await asking.answer).text.count(": waiting\n\n") == 3

    ask(scenario)


def test_a_client_that_leaves_cancels_its_job() -> None:
    async def scenario(front: Front) -> None:
        for body in (BODY, {**BODY, "stream": True}):
            gone = asyncio.Event()
            sent = False

            async def receive(body: Any = body, gone: asyncio.Event = gone) -> Any:
                nonlocal sent
                if not sent:
                    sent = True
                    return {"type": "http.request", "body": json.dumps(body).encode()}
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None: ...

            scope = {
                "type": "http",
                "method": "POST",
                "path": f"/v2/a/{CHAT}",
                "headers": [(b"host", b"localhost")],
                "query_string": b"",
            }
            asked = asyncio.create_task(front.gateway(scope, receive, send))
            await asyncio.sleep(1)
            (job_id,) = front.rig.worker().link.jobs
            gone.set()
            await asked
            await front.rig.settle()
            assert front.rig.state(job_id) is JobState.CANCELLED
            sent = False

    ask(scenario)


def test_what_is_no_request_of_openai_s_is_refused() -> None:
    async def scenario(front: Front) -> None:
        assert (await front.post(CHAT, content=b"{")).status_code == 400
        assert (await front.post(CHAT, [1])).status_code == 400
        assert (await front.http.put(f"/v2/a/{CHAT}")).status_code == 405

    ask(scenario)
