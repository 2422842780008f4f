"""Deploying, going back, changing and ending: what each door of the control API does the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from runpod_flash.control.releases import BusyError, Release, check_name
from runpod_flash.errors import FlashError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.control.releases import AppEnv, Content, Releases, Variables

    # From an endpoint as a catalog has it to a changed one; None ends it.
    Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


class Serving(Protocol):
    """What has releases served (`gateway/deployments.py`)."""

    async def pinned(self, content: Content) -> Content:
        """The same, with the digests of those images of which the content is here already."""

    def prepare(self, release: Release, content: Content, variables: Variables) -> None:
        """Start its workers and have it take over; goes on by itself."""

    async def settled(self, place: AppEnv) -> None:
        """Wait until no release of the environment is being prepared."""

    def preparing(self, place: AppEnv) -> bool:
        """Whether one is."""

    async def remove(self, place: AppEnv) -> None:
        """End an environment: its jobs, its workers, its releases."""


class Deployed(NamedTuple):
    """A release, and whether it was served already."""

    release: Release
    unchanged: bool = False


class AbsentError(FlashError):
    """There is no such app, environment, release or endpoint."""


class RefusedReleaseError(FlashError):
    """The release did not take over; the one before it is served."""


class Rollouts:
    """On the plane's loop."""

    def __init__(self, releases: Releases, serving: Serving) -> None:
        self._releases = releases
        self._serving = serving
        self._changing: dict[AppEnv, asyncio.Lock] = {}

    async def deploy(
        self,
        place: AppEnv,
        project: str,
        content: Content,
        variables: Variables,
        by: str,
        *,
        take_over: bool = False,
    ) -> Deployed:
        """Have it served, unless it is. Its files are there.

        Raises `BusyError` while another release is being made, `ProjectError` for an app of another
        project, and `ConfigurationError` for names that cannot be.
        """
        check_name("app", place.app)
        check_name("environment", place.environment)
        content = await self._serving.pinned(content)
        active = await self._same(place, content, variables)
        if active is not None:
            return Deployed(active, unchanged=True)
        release = await self._releases.begin(place, project, content, by, take_over=take_over)
        self._serving.prepare(release, content, variables)
        return Deployed(release)

    async def change(
        self, place: AppEnv, name: str, edit: Edit, variables: Variables, by: str
    ) -> Release:
        """Have the same code served with another declaration of an endpoint; returns when it is.

        One at a time for each environment. Raises what `edit` raises, `AbsentError`, `BusyError`
        while a release is being made, and `RefusedReleaseError` where its workers cannot start.
        """
        async with self._changing.setdefault(place, asyncio.Lock()):
            content = await self._releases.content(await self.active(place))
            if self._serving.preparing(place):
                raise BusyError(f"a release of {place} is being made; try again when it is there")
            changed = content._replace(catalog=_edited(content.catalog, name, edit))
            return await self.deploy_and_wait(place, "", changed, variables, by)

    async def deploy_and_wait(
        self, place: AppEnv, project: str, content: Content, variables: Variables, by: str
    ) -> Release:
        """As `deploy`; returns when it is served. Raises `RefusedReleaseError` where it is not."""
        release, unchanged = await self.deploy(place, project, content, variables, by)
        if unchanged:
            return release
        await self._serving.settled(place)
        return await self._settled(release)

    async def activate(self, release: Release) -> Release:
        """Have an earlier release served again. Raises `BusyError`."""
        if release.state in ("active", "preparing"):
            raise BusyError(f"release {release.number} of {release.place} is {release.state}")
        await self._releases.resume(release)
        content = await self._releases.content(release)
        self._serving.prepare(release, content, {})
        return release._replace(state="preparing")

    async def end(self, places: Sequence[AppEnv]) -> None:
        """End environments. Raises `BusyError` while a release of one is being made."""
        for place in places:
            if self._serving.preparing(place):
                raise BusyError(f"a release of {place} is being made; end it when it is there")
        for place in places:
            await self._serving.remove(place)

    async def active(self, place: AppEnv) -> Release:
        """The release that is served; raises `AbsentError` where none is."""
        for release in await self._releases.of(place):
            if release.state == "active":
                return release
        raise AbsentError(f"no release of {place} is served")

    async def _settled(self, release: Release) -> Release:
        for each in await self._releases.of(release.place):
            if each.number == release.number:
                if each.state == "failed":
                    raise RefusedReleaseError(each.cause)
                return each
        raise AbsentError(f"{release.place} has ended meanwhile")

    async def _same(self, place: AppEnv, content: Content, variables: Variables) -> Release | None:
        """The release that is served, if it is this one."""
        for release in await self._releases.of(place):
            if release.state == "active":
                same = await self._releases.content(release) == content
                known = await self._releases.variables(place) if same else {}
                unchanged = all(known.get(n, {}).items() >= v.items() for n, v in variables.items())
                return release if same and unchanged else None
        return None


def _edited(catalog: dict[str, Any], name: str, edit: Edit) -> dict[str, Any]:
    """The catalog with another declaration of an endpoint, or without it."""
    found = [edit(e) if e["spec"]["name"] == name else e for e in catalog["endpoints"]]
    return {**catalog, "endpoints": [each for each in found if each is not None]}
