"""What `flash ps` shows of a busy server."""

from __future__ import annotations

from dataclasses import asdict

from runpod_flash.cli.ps_screen import screen
from runpod_flash.engines.base import Device
from runpod_flash.plane.overview import EndpointView, Overview, WorkerView

WAITS = "NVIDIA L4, held by train-1"
WORDS = WAITS.split()
HOLDER = WorkerView(
    "train-1", "running", "local", 7300, 7290, ("NVIDIA L4",), ("job-1",), 0, 3 * 10**9, 9.0, False
)
OLD = WorkerView("web-1", "draining", "local", 40, 39, (), (), 2, 10**8, 0.0, True)
SEEN = Overview(
    endpoints=(
        EndpointView("infer", "", "queue", 0, 2, 5, oldest=95, waits_for=WAITS),
        EndpointView("train", "", "queue", 0, 1, running=1, workers=(HOLDER,)),
        EndpointView("web", "", "routes", 1, 3, requests=3, workers=(OLD,)),
    ),
    devices=(
        Device("local", 0, "NVIDIA L4", 24 * 10**9, 10**9, ("train-1",)),
        Device("local", 1, "NVIDIA A40", 48 * 10**9, 0),
    ),
)  # fmt: skip


def test_queues_workers_and_gpus_are_shown_with_who_waits_for_whom() -> None:
    text = screen(asdict(SEEN))
    assert [line.split() for line in text.splitlines() if line] == [
        ["\x1b[2mENDPOINT", "KIND", "WORKERS", "QUEUE", "RUNNING", "WAITED", "WAITS", "FOR\x1b[0m"],
        ["infer", "queue", "0", "of", "0-2", "5", "0", "1m", *WORDS],
        ["train", "queue", "1", "of", "0-1", "0", "1"],
        ["web", "routes", "1", "of", "1-3", "1", "2"],
        ["\x1b[2mWORKER", "STATE", "AGE", "DEVICE", "MEMORY", "JOB\x1b[0m"],
        ["train-1", "running", "2h", "NVIDIA", "L4", "3", "GB", "job-1"],
        ["web-1", "draining", "(old)", "40s", "cpu", "100", "MB", "2", "requests"],
        ["\x1b[2mNODE", "GPU", "MEMORY", "USED", "HELD", "BY\x1b[0m"],
        ["local", "0:", "NVIDIA", "L4", "24", "GB", "1", "GB", "train-1"],
        ["local", "1:", "NVIDIA", "A40", "48", "GB", "0", "MB"],
    ]


def test_a_server_without_endpoints_says_so() -> None:
    assert screen(asdict(Overview((), ()))) == "This server serves no endpoint."
