"""vLLM's image as the reference's usage 20 runs it, with a stand-in for the image itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from integration.foreign import OPENAI, python_with
from integration.served import serve
from slow.containers import needs_podman

if TYPE_CHECKING:
    from pathlib import Path

    from behaviour.programs import Programs
    from integration.served import Served
    from slow.containers import Podman

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(300), needs_podman]

# The stand-in loads its model for a minute, as nothing here says otherwise.
USAGE_20 = """
    from runpod_flash import GpuGroup

    vllm = Endpoint(name="v", image="vllm/vllm-openai:latest", gpu=GpuGroup.ANY)

    async def main():
        completion = await vllm.post("/v1/completions", {"prompt": "Hi", "max_tokens": 3})
        models = await vllm.get("/v1/models")
        job = await vllm.run({"messages": [{"role": "user", "content": "Hi"}]})
        await job.wait()
        told = {"messages": [], "stream": True}
        lines = [line async for line in vllm.post("/v1/chat/completions", told)]
        return [
            completion["choices"][0]["text"],
            models["data"][0]["id"],
            job.output["choices"][0]["message"]["content"],
            [line for line in lines if line],
        ]

    if __name__ == "__main__":
        print(json.dumps(asyncio.run(main())))
"""


def test_usage_20_runs_as_it_is_written(engine: Podman, programs: Programs) -> None:
    done = programs.run(USAGE_20, env={"DOCKER_HOST": engine.address}, timeout=240)
    text, model, said, lines = done.result
    assert (text, said, model) == ("Hello, world", "Hello, world", "Qwen/Qwen3-0.6B")
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(p["choices"][0]["delta"]["content"] for p in pieces) == "Hello, world"
    assert lines[-1] == "data: [DONE]"
    assert "[v] INFO Loading safetensors checkpoint shards: 80%" in done.stderr
    assert "v runs on the CPU: no GPU on this machine" in done.stderr


SERVED = {
    "app.py": """
        from runpod_flash import Endpoint, NetworkVolume, PodTemplate

        vllm = Endpoint(
            name="v",
            image="vllm/vllm-openai:latest",
            cpu="cpu3c-1-2",
            max_concurrency=8,
            volume=NetworkVolume(name="weights", size=10),
            env={"LOADING_SECONDS": "1"},
            template=PodTemplate(dockerArgs="--model org/tiny --max-model-len 4096 --port 9000"),
        )
    """
}
# By the unmodified `openai` package, which takes its address as people set it.
CALLS = """
    import json
    import sys

    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
    asked = {"model": "org/tiny", "messages": [{"role": "user", "content": "Hi"}]}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    pieces = [event.choices[0].delta.content for event in stream]
    text = client.completions.create(model="org/tiny", prompt="Hi").choices[0].text
    try:
        client.completions.create(model="absent", prompt="Hi")
    except NotFoundError as error:
        absent = error.status_code
    models = [model.id for model in client.models.list().data]
    print(json.dumps([whole.choices[0].message.content, pieces, text, absent, models]))
"""


def test_the_openai_package_calls_it_by_its_routes_and_by_its_queue(
    engine: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    script = tmp_path / "calls.py"
    script.write_text(textwrap.dedent(CALLS))

    def call(base: str) -> Any:
        command = [str(python_with(OPENAI)), str(script), base]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def scenario(served: Served) -> None:
        expected = ["Hello, world", ["Hello", ",", " world"], "Hello, world", 404, ["org/tiny"]]
        for base in ("/app/v/v1", "/v2/v/openai/v1"):
            assert await asyncio.to_thread(call, f"{served.address}{base}") == expected, base
        weights = list((tmp_path / "data").rglob("weights"))
        assert [each.read_text() for each in weights if each.is_file()] == ["downloaded"]

    serve(tmp_path / "project", SERVED, scenario)
