"""The releases of one endpoint: those of its environment that have changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.control.serverless import differences
from runpod_flash.gateway.resources import page
from runpod_flash.gateway.times import rfc3339

if TYPE_CHECKING:
    from runpod_flash.control.releases import Releases
    from runpod_flash.gateway.serverless_api import Served


async def versions(releases: Releases, served: Served) -> dict[str, Any]:
    """The list of them, the newest first, and how far the latest is on its way."""
    name, before, found = served.endpoint["spec"]["name"], None, []
    for release in reversed(await releases.of(served.place)):
        if release.state not in ("active", "replaced"):
            continue  # it was never served
        catalog = (await releases.content(release)).catalog
        now = next((e for e in catalog["endpoints"] if e["spec"]["name"] == name), None)
        diff = differences(before, now) if now is not None else []
        before = now
        if diff:
            found.append((release, diff))
    workers = served.pool.live()
    latest = sum(not worker.stale for worker in workers)
    counts = [latest, len(workers) - latest]  # (what is older is taken for the one before)
    shown = []
    for (release, diff), count in zip(reversed(found), counts + [0] * len(found), strict=False):
        shown.append(
            {
                "id": f"{served.place}-{release.number}",
                "version": release.number,
                "source": "MANUAL",
                "buildId": None,
                "createdAt": rfc3339(release.created_at),
                "createdByUserId": release.created_by or None,
                "workerCount": count,
                "diff": diff,
            }
        )
    rollout = {
        "inProgress": latest < len(workers),
        "workersOnLatest": latest,
        "workersTotal": len(workers),
        "percentOnLatest": 100 * latest // len(workers) if workers else 0,
    }
    version = shown[0]["version"] if shown else None
    return {**page("releases", shown), "rollout": rollout, "endpointVersion": version}
