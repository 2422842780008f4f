"""What `flash ps` shows: a table each of endpoints, workers and GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.cli import output
from runpod_flash.engines.local.capacity import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDPOINTS = ("ENDPOINT", "KIND", "WORKERS", "QUEUE", "RUNNING", "WAITED", "WAITS FOR")
_WORKERS = ("WORKER", "STATE", "AGE", "DEVICE", "MEMORY", "JOB")
_GPUS = ("NODE", "GPU", "MEMORY", "USED", "HELD BY")


def screen(seen: dict[str, Any]) -> str:
    """The whole text."""
    if not seen["endpoints"]:
        return "This server serves no endpoint."
    parts = [output.headed(_ENDPOINTS, map(_endpoint, seen["endpoints"]), right=(3, 4, 5))]
    workers = [row for each in seen["endpoints"] for row in _workers(each)]
    parts.append(output.headed(_WORKERS, workers, right=(2, 4)) if workers else ["No workers."])
    devices = [_device(each) for each in seen["devices"]]
    parts.append(output.headed(_GPUS, devices, right=(2, 3)) if devices else ["No GPUs."])
    return "\n\n".join("\n".join(lines) for lines in parts)


def _endpoint(each: dict[str, Any]) -> tuple[str, ...]:
    # (Requests of routes are what such an endpoint has in the place of jobs.)
    running = each["running"] + sum(worker["requests"] for worker in each["workers"])
    queued = each["queued"] + each["requests"] - sum(w["requests"] for w in each["workers"])
    return (
        each["name"],
        each["kind"],
        f"{len(each['workers'])} of {each['low']}-{each['high']}",
        str(queued),
        str(running),
        "" if each["oldest"] is None else output.span(each["oldest"]),
        each["waits_for"],
    )


def _workers(each: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for worker in each["workers"]:
        what = [*worker["jobs"]]
        if worker["requests"]:
            what.append(output.counted(worker["requests"], "request"))
        yield (
            worker["id"],
            f"{worker['state']} (old)" if worker["stale"] else worker["state"],
            output.span(worker["age"]),
            ", ".join(worker["devices"]) or "cpu",
            human_bytes(worker["memory"]) if worker["memory"] else "",
            ", ".join(what),
        )


def _device(each: dict[str, Any]) -> tuple[str, ...]:
    return (
        each["node"],
        f"{each['index']}: {each['name']}",
        human_bytes(each["memory"]),
        human_bytes(each["used"]),
        ", ".join(each["holders"]),
    )
