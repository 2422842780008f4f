"""What /metrics counts, in the format of Prometheus."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runpod_flash.engines.base import Device
from runpod_flash.gateway.metrics import Snapshot, write
from runpod_flash.gateway.noting import operation_of
from runpod_flash.gateway.tallies import Tallies
from runpod_flash.plane.events import WorkerEnded, WorkerReady
from runpod_flash.plane.overview import overview
from unit.rig import Rig, play, spec


class Scraped:
    """Samples by name and labels; endpoints are of no app, if none is named."""

    def __init__(self, text: str) -> None:
        self.found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, /, **labels: str) -> float | None:
        if "endpoint" in labels:
            labels = {"app": "", **labels}
        return self.found.get((name, frozenset(labels.items())))


def scraped(rig: Rig, tallies: Tallies) -> Scraped:
    return Scraped(write(Snapshot(tallies, overview(rig.plane)), "")[0].decode())


def test_jobs_are_counted_by_their_final_state_with_how_long_they_waited_and_ran() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        pool = rig.declare(spec(idle_timeout=100))
        good, bad = await rig.busy(pool), rig.submit(pool)
        await rig.after(3)
        rig.worker().link.finish(good)
        await rig.after(0.2)
        rig.worker().link.fail(bad, ValueError("no"))
        await rig.settle()
        told = scraped(rig, tallies)
        assert told("flash_jobs_total", endpoint="a", state="COMPLETED") == 1
        assert told("flash_jobs_total", endpoint="a", state="FAILED") == 1
        assert told("flash_job_wait_seconds_count", endpoint="a") == 2
        assert told("flash_job_wait_seconds_sum", endpoint="a") == pytest.approx(3)
        assert told("flash_job_wait_seconds_bucket", endpoint="a", le="0.001") == 1
        assert told("flash_job_wait_seconds_bucket", endpoint="a", le="5.0") == 2
        assert told("flash_job_run_seconds_sum", endpoint="a") == pytest.approx(3.2)
        assert told("flash_job_run_seconds_bucket", endpoint="a", le="+Inf") == 2

    play(scenario)


def test_the_present_is_read_when_it_is_asked_for() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        rig.engine.gpus = [Device("local", 0, "NVIDIA L4", 24, 1, ("a-1",))]
        pool = rig.declare(spec())
        await rig.busy(pool)
        rig.submit(pool)
        await rig.after(2)
        told = scraped(rig, tallies)
        assert told("flash_queue_depth", endpoint="a") == 1
        assert told("flash_queue_oldest_seconds", endpoint="a") == 2
        assert told("flash_jobs_running", endpoint="a") == 1
        assert told("flash_workers", endpoint="a", state="running") == 1
        assert told("flash_workers", endpoint="a", state="idle") == 0
        assert told("flash_gpu_held", node="local", index="0", name="NVIDIA L4") == 1

    play(scenario)


def test_cold_starts_deaths_retries_and_gpu_seconds_are_counted() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        pool = rig.declare(spec())
        await rig.busy(pool)
        pool.workers[rig.worker().worker_id].devices = ("NVIDIA L4",)
        await rig.after(10)
        assert scraped(rig, tallies)("flash_gpu_seconds_total", endpoint="a") == 10
        rig.worker().exit()
        await rig.after(20)
        told = scraped(rig, tallies)
        assert told("flash_gpu_seconds_total", endpoint="a") == 10, "the second one has none"
        assert told("flash_worker_deaths_total", endpoint="a") == 1
        assert told("flash_job_retries_total", endpoint="a") == 1
        assert told("flash_cold_start_seconds_count", endpoint="a") == 2

    play(scenario)


def test_endpoints_of_one_name_are_told_apart_by_their_apps() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        for app in ("x-production", "y-production", "y-production"):
            pool = rig.declare(replace(spec(idle_timeout=100), app=app))
            job = await rig.busy(pool)
            rig.holder(job).finish(job)
            await rig.settle()
        tallies.answered("route", 200, "a", "x-production")
        told = scraped(rig, tallies)
        for app, count in (("x-production", 1), ("y-production", 2)):
            of = {"endpoint": "a", "app": app}
            assert told("flash_jobs_total", **of, state="COMPLETED") == count
            assert told("flash_job_run_seconds_count", **of) == count
            assert told("flash_cold_start_seconds_count", **of) == 1
            assert told("flash_workers", **of, state="idle") == 1
        assert told("flash_route_requests_total", endpoint="a", app="x-production", status="200")
        assert told("flash_jobs_total", endpoint="a", state="COMPLETED") is None

    play(scenario)


def test_programs_that_come_and_go_make_no_series_of_their_own() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        for digit in "ab":
            rig.submit(rig.declare(replace(spec(workers=(0, 0)), app=digit * 32)))
            await rig.after(2)
        told = scraped(rig, tallies)
        assert told("flash_queue_depth", endpoint="a") == 2
        assert told("flash_queue_oldest_seconds", endpoint="a") == 4

    play(scenario)


def test_what_was_counted_stays_when_an_endpoint_is_gone() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        pool = rig.declare(spec())
        rig.holder(await rig.busy(pool)).finish("1")
        rig.plane.withdraw(pool)
        await rig.after(10)
        assert rig.plane.find(pool.key) is None
        assert scraped(rig, tallies)("flash_jobs_total", endpoint="a", state="COMPLETED") == 1

    play(scenario)


def test_names_of_endpoints_are_escaped_as_the_format_wants_it() -> None:
    async def scenario(rig: Rig) -> None:
        tallies = Tallies(rig.plane.events, rig.plane.names_of)
        odd = 'a"b ü'
        rig.plane.events.publish(WorkerReady(odd, "w-1", 0.5))
        rig.plane.events.publish(WorkerEnded(odd, "w-1", "was killed", True))
        told = scraped(rig, tallies)
        assert told("flash_cold_start_seconds_sum", endpoint=odd) == 0.5
        assert told("flash_worker_deaths_total", endpoint=odd) == 1

    play(scenario)


def test_the_process_is_told_of() -> None:
    async def scenario(rig: Rig) -> None:
        told = scraped(rig, Tallies(rig.plane.events, rig.plane.names_of))
        assert (told("process_resident_memory_bytes") or 0) > 1_000_000

    play(scenario)


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v2/e/runsync", "runsync"),
        ("/v2/e/status/1234", "status"),
        ("/app/f/run", "run"),
        ("/metrics", "metrics"),
        ("/readyz", "health"),
        ("/v2/serverless/e/workers", "control"),
        ("/v2/serverless-like/run", "run"),
        ("/../../etc/passwd", "other"),
        ("/", "other"),
        ("", "other"),
    ],
)
def test_requests_are_counted_by_few_words_whatever_the_path(path: str, operation: str) -> None:
    assert operation_of(path) == operation
