"""What an unmodified worker of RunPod's package must find in its environment."""

from __future__ import annotations

from urllib.parse import quote, urlencode

# (Less than a second would be taken as none: no heartbeat is sent then.)
PING_INTERVAL_MS = 10_000
# The parts of a worker's addresses, below /v2/ENDPOINT/.
TAKE, TAKE_BATCH, STOP = "job-take", "job-take-batch", "job-stop"
DONE, STREAM, PING = "job-done", "job-stream", "ping"


def runpod_variables(
    server: str,
    endpoint: str,
    worker_id: str,
    token: str,
    gpu: str = "unknown",
    interval_ms: int = PING_INTERVAL_MS,
) -> dict[str, str]:
    """The variables of one worker, by which it serves an endpoint of the server.

    Its package puts ids in the place of `$ID` and `$RUNPOD_POD_ID`, and adds to the query.
    """
    base = f"{server}/v2/{quote(endpoint, safe='')}"
    query = urlencode({"gpu": gpu})
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/{TAKE}/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/{DONE}/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/{STREAM}/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_PING": f"{base}/{PING}/$RUNPOD_POD_ID?{query}&interval={interval_ms}",
        "RUNPOD_AI_API_KEY": token,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_ENDPOINT_ID": endpoint,
        "RUNPOD_PING_INTERVAL": str(interval_ms),
        # They would look for 8.8.8.8, 4 GB of free memory and more, and end where there is none.
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    }
