"""Git repositories that dependencies name, fetched with the logins of whoever builds."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.engines.local.environments.uv import run_guarded
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.engines.local.environments.uv import Finished

_GIT = re.compile(r"git\+(?P<url>[^\s;#]+)(?:#(?P<fragment>[^\s;]*))?(?P<rest>.*)")
_EXTRAS = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class Repository:
    """Where it is, which revision of it ("": its default branch), and the folder below it.

    `extras` and `marker` are those of the requirement line.
    """

    url: str
    revision: str
    folder: str
    extras: str
    marker: str

    @classmethod
    def of(cls, line: str) -> Repository | None:
        """The one that a requirement line names."""
        match = _GIT.search(line)
        if match is None:
            return None
        scheme, _, rest = os.path.expandvars(match["url"]).partition("://")
        authority, slash, path = rest.partition("/")
        if "@" in path:
            path, _, revision = path.rpartition("@")
        else:
            revision = ""
        fragment = dict(part.partition("=")[::2] for part in (match["fragment"] or "").split("&"))
        extras = _EXTRAS.search(line[: match.start()])
        return cls(
            url=f"{scheme}://{authority}{slash}{path}",
            revision=revision,
            folder=fragment.get("subdirectory", ""),
            extras=extras[0] if extras else "",
            marker=match["rest"].strip(),
        )

    async def fetch(self, place: Path) -> str:
        """Check it out at `place`, which is empty; the commit's id.

        Raises `EnvironmentBuildError` with Git's reason.
        """
        await self._git(place, "clone", "--quiet", "--no-checkout", self.url, ".")
        revision = self.revision or "HEAD"
        commit = await self._commit(place, f"origin/{revision}") or await self._commit(
            place, revision
        )
        if not commit:
            shown = without_credentials(self.url)
            raise EnvironmentBuildError(f"{shown} has no revision {revision!r}; name another.")
        await self._git(place, "checkout", "--quiet", "--detach", commit)
        await self._git(place, "submodule", "--quiet", "update", "--init", "--recursive")
        return commit

    async def _commit(self, place: Path, revision: str) -> str:
        words = ("rev-parse", "--quiet", "--verify", f"{revision}^{{commit}}")
        finished = await _git(place, *words)
        return finished.stdout.strip() if finished.code == 0 else ""

    async def _git(self, place: Path, *words: str) -> None:
        finished = await _git(place, *words)
        if finished.code:
            shown = without_credentials(self.url)
            raise EnvironmentBuildError(f"{shown} cannot be fetched: {finished.reason}.")


async def _git(place: Path, *words: str) -> Finished:
    program = shutil.which("git")
    if program is None:
        raise EnvironmentBuildError(
            "A dependency is in a Git repository, and Git is not installed here; install it."
        )
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    return await run_guarded((program, *words), env=environ, cwd=place)
