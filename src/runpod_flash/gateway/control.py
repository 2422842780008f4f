"""What operators ask: metrics, what there is now, workers and their logs.

/metrics                                     Prometheus
/v2/flash/overview                           endpoints, workers, devices: `flash ps`
/v2/flash/logs                               the logs of all endpoints
/v2/serverless/ENDPOINT/workers              as RunPod's REST API v2 has it
/v2/serverless/ENDPOINT/workers/ID/logs      the same
/v2/serverless/ENDPOINT/logs                 the logs of all its workers
/v1/pod/ID/logs                              as the hosted SDK asks for them
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.log_streams import LogStream, log_query
from runpod_flash.gateway.messages import Answer, answer, header
from runpod_flash.gateway.metrics import exposition
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.sentinel import OPERATORS
from runpod_flash.plane.logs.reading import LogQuery
from runpod_flash.plane.logs.record import timestamp
from runpod_flash.plane.overview import Overview, overview
from runpod_flash.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.gateway.messages import Receive, Refusal, Scope
    from runpod_flash.gateway.tallies import Tallies
    from runpod_flash.plane.logs.worker_logs import WorkerLogs
    from runpod_flash.plane.overview import EndpointView, WorkerView
    from runpod_flash.plane.plane import Plane
    from runpod_flash.spec import EndpointSpec

_PATHS = ("/metrics", *OPERATORS)
_OF_ENDPOINT = re.compile(r"/v2/serverless/[^/]+/(?:logs|workers(?:/[^/]+/logs)?)")
_STATUSES = {"running": "RUNNING", "idle": "IDLE", "initializing": "INITIALIZING"}
_COUNTED = ("running", "idle", "initializing", "throttled", "unhealthy")
_POD_LINES = 1000


def is_control(path: str) -> bool:
    """Whether the path is one of these."""
    return path.startswith("/v1/pod/") or path in _PATHS or bool(_OF_ENDPOINT.fullmatch(path))


class ControlApi:
    """`declared` gives the specs of all endpoints; `allow` raises where a request may not see this,
    and `allow_logs` where it may not see what workers write. Without `logs`, none are kept.
    """

    def __init__(
        self,
        plane: Plane,
        tallies: Tallies,
        declared: Callable[[], Sequence[EndpointSpec]],
        logs: WorkerLogs | None,
        allow: Callable[[Scope], None],
        allow_logs: Callable[[Scope], None],
    ) -> None:
        self._plane = plane
        self._tallies = tallies
        self._declared = declared
        self._logs = logs
        self._allow = allow
        self._allow_logs = allow_logs

    async def answer(self, scope: Scope, receive: Receive) -> Answer | LogStream:
        """The answer to a request whose path is one of these."""
        self._allow(scope)
        if scope["path"].endswith("/logs"):
            self._allow_logs(scope)
        if scope["method"] not in ("GET", "HEAD"):
            refusal = problem(405, f"{scope['path']} takes GET, not {scope['method']}")
            refusal.answer = Answer(
                405, refusal.answer.body, refusal.answer.media_type, ((b"allow", b"GET"),)
            )
            raise refusal
        match scope["path"].split("/")[1:]:
            case ["metrics"]:
                return await self._metrics(scope)
            case ["v2", "flash", "overview"]:
                return Answer(200, json.dumps(asdict(self._overview())).encode())
            case ["v2", "flash", "logs"]:
                return self._stream(scope, receive)
            case ["v2", "serverless", name, "workers"]:
                return answer(200, _workers(self._endpoint(name)))
            case ["v2", "serverless", name, "workers", worker, "logs"]:
                self._check_worker(self._endpoint(name), worker)
                return self._stream(scope, receive, name, worker)
            case ["v2", "serverless", name, "logs"]:
                return self._stream(scope, receive, self._endpoint(name).name)
            case ["v1", "pod", worker, "logs"]:
                return await self._pod_logs(worker)
        raise _unknown(scope)

    # Metrics

    async def _metrics(self, scope: Scope) -> Answer:
        accept = header(scope, b"accept") or ""
        text, media_type = await exposition(self._tallies, self._overview(), accept)
        return Answer(200, text, media_type.encode())

    def _overview(self) -> Overview:
        return overview(self._plane, self._declared())

    # Workers

    def _endpoint(self, name: str) -> EndpointView:
        seen, declared = self._overview(), self._declared()
        app = next((spec.app for spec in declared if spec.name == name), None)
        found = seen.endpoint(name, app) or seen.deployed(name)
        if found is None:
            hint = did_you_mean(name, [each.name for each in seen.endpoints])
            hint = hint or " `flash ps` shows those that there are."
            raise problem(404, f"there is no endpoint {name!r}.{hint}")
        return found

    def _check_worker(self, endpoint: EndpointView, worker: str) -> None:
        alive = [each.id for each in endpoint.workers]
        if worker in alive or (self._logs is not None and self._logs.has(endpoint.name, worker)):
            return
        hint = did_you_mean(worker, alive)
        raise problem(404, f"{endpoint.name} has no worker {worker!r}, nor logs of one.{hint}")

    # Logs

    def _stream(
        self, scope: Scope, receive: Receive, endpoint: str = "", worker: str | None = None
    ) -> LogStream:
        return LogStream(self._kept(), log_query(scope, endpoint, worker), receive)

    def _kept(self) -> WorkerLogs:
        if self._logs is None:
            raise problem(404, "this server keeps no logs of workers: see its terminal")
        return self._logs

    async def _pod_logs(self, worker: str) -> Answer:
        logs = self._kept()
        endpoint = logs.endpoint_of(worker)
        if not endpoint:
            raise problem(404, f"there is no worker {worker!r}, nor logs of one")
        found = await logs.tail(LogQuery(endpoint, worker, tail=_POD_LINES))
        lines: dict[str, list[str]] = {"system": [], "container": []}
        for record in found:
            lines[record.source].append(f"{timestamp(record.cursor.at)} {record.text}")
        return answer(200, lines)


def _unknown(scope: Scope) -> Refusal:
    return problem(404, f"nothing is served at {scope['path']}")


def _workers(endpoint: EndpointView) -> dict[str, Any]:
    """The list of workers, in the fields of REST v2."""
    found = [_worker(each) for each in endpoint.workers]
    summary = {name: sum(w["status"] == name.upper() for w in found) for name in _COUNTED}
    return {
        "workers": found,
        "summary": {**summary, "total": len(found)},
        "endpointVersion": None,
        "pagination": {"hasNextPage": False},
    }


def _worker(worker: WorkerView) -> dict[str, Any]:
    started = None if worker.uptime is None else timestamp(int((time.time() - worker.uptime) * 1e6))
    busy = bool(worker.jobs or worker.requests)
    return {
        "id": worker.id,
        "status": _STATUSES.get(worker.state, "RUNNING" if busy else "IDLE"),
        "gpuCount": len(worker.devices),
        "isStale": worker.stale,
        "version": None,
        "image": None,
        "uptimeSeconds": None if worker.uptime is None else int(worker.uptime),
        "gpuTypeId": worker.devices[0] if worker.devices else None,
        "dataCenterId": None,
        "startedAt": started,
    }
