"""Images for tests, built of this machine's own files: a queue worker, a web server, vLLM's."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from integration.foreign import RUNPOD, python_with
from integration.served import write
from slow.containers import machine_image

if TYPE_CHECKING:
    from slow.containers import Podman

QUEUE, WEB, FUNCTIONS = "localhost/queue:1", "localhost/web:1", "localhost/functions:1"
VLLM = "docker.io/vllm/vllm-openai:latest"
FOREIGN = "localhost/foreign:1"

_HANDLER = """
    import os
    import time

    import runpod

    def handler(job):
        given = job["input"]
        if "stream" in given:
            return stream(given["stream"])
        if "sleep" in given:
            time.sleep(given["sleep"])
        if "memory" in given:
            kept = bytearray(given["memory"])
        if "raise" in given:
            raise ValueError(given["raise"])
        return {"given": given, "worker": os.environ["RUNPOD_POD_ID"]}

    def stream(count):
        for number in range(count):
            yield number

    def either(job):
        if "stream" in job["input"]:
            yield from stream(job["input"]["stream"])
        else:
            yield handler(job)

    print("the handler starts", flush=True)
    if os.environ.get("GENERATOR"):
        runpod.serverless.start({"handler": either})
    else:
        runpod.serverless.start({"handler": handler})
"""
# An ASGI application under uvicorn: slow streams, WebSockets, and what it was asked.
_WEB = """
    import asyncio
    import json
    import os

    import uvicorn

    PORT = int(os.environ.get("PORT", "8000"))

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"][::-1]})
            return
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"]
        status = 200
        if path == "/ping" and os.environ.get("NO_PING"):
            status = 404
        kind = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": kind})
        if path == "/stream":
            for number in range(5):
                piece = f"{number}\\n".encode()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0.2)
            await send({"type": "http.response.body", "body": b""})
            return
        told = {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "body": body.decode(),
        }
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    uvicorn.run(app, host=os.environ.get("HOST", "0.0.0.0"), port=PORT, log_level="warning")
"""
# As the official image has it: `vllm serve`, which listens once the model is loaded.
_VLLM = """\
    #!/usr/local/bin/python
    import argparse
    import asyncio
    import json
    import os
    import time

    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    args = parser.parse_args()
    MODEL = args.model_tag or args.model
    WORDS = ["Hello", ",", " world"]

    def choice(chat, text, finish=None, piece=False):
        found = {"index": 0, "finish_reason": finish, "logprobs": None}
        if not chat:
            return {**found, "text": text}
        return {**found, "delta" if piece else "message": {"role": "assistant", "content": text}}

    def whole(chat, choices, piece=False):
        kind = "chat.completion" + ".chunk" * piece if chat else "text_completion"
        usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": 4}
        return {
            "id": "cmpl-1", "object": kind, "created": 1, "model": MODEL, "choices": choices,
            **({} if piece else {"usage": usage}),
        }

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"]
        given = json.loads(body) if body else {}

        async def answer(value, status=200):
            kind = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": kind})
            await send({"type": "http.response.body", "body": json.dumps(value).encode()})

        if path == "/health":
            await answer(None)
        elif path == "/v1/models":
            await answer({"object": "list", "data": [
                {"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm"}
            ]})
        elif path in ("/v1/completions", "/v1/chat/completions"):
            chat = "chat" in path
            if given.get("model", MODEL) != MODEL:
                text = f"The model `{given['model']}` does not exist."
                error = {"message": text, "type": "NotFoundError", "param": "model", "code": 404}
                await answer({"error": error}, 404)
            elif given.get("stream"):
                kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
                await send({"type": "http.response.start", "status": 200, "headers": kind})
                for word in WORDS:
                    event = whole(chat, [choice(chat, word, piece=True)], piece=True)
                    text = f"data: {json.dumps(event)}\\n\\n".encode()
                    await send({"type": "http.response.body", "body": text, "more_body": True})
                    await asyncio.sleep(0.1)
                await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
            else:
                await answer(whole(chat, [choice(chat, "".join(WORDS), "stop")]))
        else:
            await answer({"detail": "Not Found"}, 404)

    delay = float(os.environ.get("LOADING_SECONDS", "60"))
    for step in range(5):
        print(f"INFO Loading safetensors checkpoint shards: {step * 20}% of {MODEL}", flush=True)
        time.sleep(delay / 5)
    os.makedirs(os.environ["HF_HOME"], exist_ok=True)
    open(os.path.join(os.environ["HF_HOME"], "weights"), "w").write("downloaded")
    uvicorn.run(app, host=args.host, port=args.port, log_level="info")
"""
_WEB_PACKAGES = ("uvicorn", "h11", "click", "websockets")


def build_images(podman: Podman, folder: Path) -> None:
    """All of them, but those that a test builds for itself."""
    machine_image(podman, folder, FUNCTIONS)
    queue = folder / "queue"
    write(queue, {"handler.py": _HANDLER})
    packages = python_with(RUNPOD).parents[1] / "lib" / f"python{_version()}" / "site-packages"
    shutil.copytree(packages, queue / "site")
    podman.build(
        queue,
        QUEUE,
        f"""\
        FROM {FUNCTIONS}
        COPY site /site
        COPY handler.py /handler.py
        ENV PYTHONPATH=/site
        ENTRYPOINT ["/usr/local/bin/python", "-u", "/handler.py"]
        """,
    )
    web = folder / "web"
    write(web, {"web.py": _WEB, "vllm": _VLLM})
    (web / "vllm").chmod(0o755)
    for package in _WEB_PACKAGES:
        shutil.copytree(Path(sysconfig.get_path("purelib"), package), web / "site" / package)
    podman.build(
        web,
        WEB,
        f"""\
        FROM {FUNCTIONS}
        COPY site /site
        COPY web.py /web.py
        ENV PYTHONPATH=/site
        CMD ["/usr/local/bin/python", "/web.py"]
        """,
    )
    podman.build(
        web,
        VLLM,
        f"""\
        FROM {WEB}
        COPY vllm /usr/local/bin/vllm
        ENTRYPOINT ["vllm", "serve"]
        CMD []
        """,
    )
    podman.build(web, FOREIGN, "FROM scratch\nCOPY web.py /web.py\n", "--platform", "linux/arm64")


def _version() -> str:
    return sysconfig.get_python_version()
