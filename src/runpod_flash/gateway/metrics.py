"""/metrics, in the text formats of Prometheus, by its official client."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

import runpod_flash
from runpod_flash.gateway.tallies import BOUNDS, series
from runpod_flash.plane.overview import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from runpod_flash.gateway.tallies import Durations, Series, Tallies
    from runpod_flash.plane.overview import EndpointView, Overview

    Rows = Sequence[tuple[tuple[str, ...], float]]

_SERIES = ["endpoint", "app"]
_LIMITS = [*map(str, BOUNDS), "+Inf"]


async def exposition(tallies: Tallies, seen: Overview, accept: str) -> tuple[bytes, str]:
    """The text, and its media type as the client accepts it. On the plane's loop."""
    snapshot = Snapshot(tallies, seen)
    # To write it out takes milliseconds, which calls should not wait for.
    return await asyncio.to_thread(write, snapshot, accept)


def write(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text, and its media type as the client accepts it; in any thread."""
    # (Loaded here, since that takes a tenth of a second.)
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(snapshot)
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class Snapshot:
    """A collector of the numbers as they were when it was made."""

    def __init__(self, tallies: Tallies, seen: Overview) -> None:
        self._gauges = list(_gauges(seen))
        self._counters = list(_counters(tallies, seen))
        self._histograms = list(_histograms(tallies))

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for name, text, labels, rows in self._gauges:
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for values, number in rows:
                gauge.add_metric(values, number)
            yield gauge
        for name, text, labels, rows in self._counters:
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, number in rows:
                counter.add_metric(values, number)
            yield counter
        for name, text, durations in self._histograms:
            histogram = HistogramMetricFamily(name, text, labels=_SERIES)
            for of, (counts, seconds) in durations.items():
                buckets = [*zip(_LIMITS, accumulate(counts), strict=True)]
                histogram.add_metric(of, buckets, seconds)
            yield histogram


_Numbers = tuple[str, str, list[str], "Rows"]


def _gauges(seen: Overview) -> Iterator[_Numbers]:
    views: defaultdict[Series, list[EndpointView]] = defaultdict(list)
    for each in seen.endpoints:  # (programs' apps are one series)
        views[series(each.name, each.app)].append(each)

    def of(
        name: str,
        text: str,
        value: Callable[[EndpointView], float],
        all_: Callable[[Iterator[float]], float] = sum,
    ) -> _Numbers:
        return name, text, _SERIES, [(key, all_(map(value, found))) for key, found in views.items()]

    yield of("flash_queue_depth", "Jobs that wait.", lambda e: e.queued)
    yield of(
        "flash_queue_oldest_seconds",
        "How long the first in line has waited.",
        lambda e: e.oldest or 0.0,
        max,
    )
    yield of("flash_jobs_running", "Jobs that workers have.", lambda e: e.running)
    yield of(
        "flash_requests_in_flight",
        "Requests of routes that wait or are answered.",
        lambda e: e.requests,
    )
    workers = [
        ((*key, state), float(sum(each.count(state) for each in found)))
        for key, found in views.items()
        for state in STATES
    ]
    yield "flash_workers", "Workers by state.", [*_SERIES, "state"], workers
    yield of(
        "flash_worker_memory_bytes",
        "Main memory of all workers.",
        lambda e: sum(worker.memory for worker in e.workers),
    )
    devices = [((d.node, str(d.index), d.name), float(bool(d.holders))) for d in seen.devices]
    labels = ["node", "index", "name"]
    yield "flash_gpu_held", "1 for a GPU that somebody has leased.", labels, devices
    info = [((runpod_flash.__version__,), 1.0)]
    yield "flash_info", "The version of Flash.", ["version"], info


def _counters(tallies: Tallies, seen: Overview) -> Iterator[_Numbers]:
    ended = [((*of, state.value), float(n)) for (of, state), n in tallies.ended.items()]
    yield "flash_jobs", "Jobs by their final state.", [*_SERIES, "state"], ended
    retried = _by_series(tallies.retried)
    yield "flash_job_retries", "Jobs that were run again.", _SERIES, retried
    deaths = _by_series(tallies.deaths)
    yield "flash_worker_deaths", "Workers that ended unasked.", _SERIES, deaths
    used = defaultdict(float, tallies.gpu_seconds)
    for each in seen.endpoints:
        used[series(each.name, each.app)] += sum(worker.gpu_seconds for worker in each.workers)
    text = "Seconds that workers had GPUs, times how many."
    yield "flash_gpu_seconds", text, _SERIES, _by_series(used)
    routes = [((*of, str(status)), float(n)) for (of, status), n in tallies.route_answers.items()]
    labels = [*_SERIES, "status"]
    yield "flash_route_requests", "Requests of routes by status.", labels, routes
    answers = [((word, str(status)), float(n)) for (word, status), n in tallies.answers.items()]
    labels = ["operation", "status"]
    yield "flash_http_requests", "Requests by operation and status.", labels, answers


def _by_series(numbers: Mapping[Series, float]) -> Rows:
    return [(of, float(number)) for of, number in numbers.items()]


_Lengths = tuple[str, str, "dict[Series, tuple[list[int], float]]"]


def _histograms(tallies: Tallies) -> Iterator[_Lengths]:
    yield "flash_job_wait_seconds", "From acceptance to a worker.", _copied(tallies.waits)
    yield "flash_job_run_seconds", "From a worker to the end.", _copied(tallies.runs)
    starts = _copied(tallies.cold_starts)
    yield "flash_cold_start_seconds", "From a worker's order until it is ready.", starts


def _copied(durations: Mapping[Series, Durations]) -> dict[Series, tuple[list[int], float]]:
    return {name: ([*each.counts], each.seconds) for name, each in durations.items()}
