"""What an environment will hold: from a request to the lock text and the content address."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.engines.local.environments.credentials import (
    with_credentials,
    without_credentials,
)
from runpod_flash.engines.local.environments.files import read_json, write_atomically
from runpod_flash.engines.local.environments.index_settings import index_settings, listing
from runpod_flash.engines.local.environments.requirement_lines import (
    check_lines,
    normalised,
    parse_requirements,
    requirement_name,
)
from runpod_flash.engines.local.environments.torch_builds import (
    choose_torch_build,
    locked_torch_build,
)
from runpod_flash.engines.local.environments.uv import run_guarded, uv_binary
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.engines.local.environments.index_settings import IndexSettings
    from runpod_flash.engines.local.environments.interpreters import Interpreter
    from runpod_flash.engines.local.environments.requirement_lines import Requirements
    from runpod_flash.engines.local.environments.torch_builds import TorchBuild
    from runpod_flash.engines.local.environments.uv import Finished

# Changed when what is built from the same lock changes.
_LAYOUT = "1"
# uv never takes another program of this name from an index, not even for a dependency's sake.
_OVERRIDES = 'runpod-flash ; python_version < "0"\n'
# So many locks of one family are remembered to be grown.
_FAMILY = 16


@dataclass(frozen=True)
class EnvironmentRequest:
    """What an endpoint's workers need: its `requirements` lines, as in a requirements.txt.

    `python` is a minor version, None the caller's where workers run on it. `cuda` is the highest
    CUDA version that the worker's driver supports, None without a GPU. Relative paths in the lines
    start at `root`. Without `accelerate_downloads` one file is downloaded at a time. `locked` says
    that the lines are exact versions, and all of them. `platform` is another machine's, in uv's
    words, where the environment is not for this one.
    """

    endpoint: str
    requirements: tuple[str, ...]
    python: str | None
    accelerate_downloads: bool = True
    cuda: str | None = None
    root: Path | None = None
    locked: bool = False
    platform: str = ""


@dataclass(frozen=True)
class Lock:
    """Exact versions, one a line and free of credentials, and the address of what they make.

    `offline`: the index could not be reached just now.
    """

    text: str
    key: str
    offline: bool = False


class Earlier(NamedTuple):
    """A lock that some of a plan's lines have had, and the lines that are `added`."""

    lock: Lock
    added: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A request with everything that decides its outcome; `memo` is the digest of all that.

    `family` is that of all but the requirement lines.
    """

    request: EnvironmentRequest
    interpreter: Interpreter
    requirements: Requirements
    settings: IndexSettings
    directory: Path
    memo: str
    family: str

    @cached_property
    def torch(self) -> TorchBuild:
        # Follows from what `memo` covers; found out only when something is to be built.
        request, python = self.request, self.interpreter.pair
        if request.locked:
            return locked_torch_build(self.requirements, self.settings)
        return choose_torch_build(
            self.requirements, self.settings, python, request.cuda, request.platform
        )

    def uv_variables(self) -> dict[str, str]:
        variables = {**self.settings.variables, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
        if not self.request.accelerate_downloads:
            variables["UV_CONCURRENT_DOWNLOADS"] = "1"
        if self.torch.backend:
            variables["UV_TORCH_BACKEND"] = self.torch.backend
        if "--pre" in dict(self.requirements.options):
            variables["UV_PRERELEASE"] = "allow"
        if hosts := self.requirements.values("--trusted-host"):
            variables["UV_INSECURE_HOST"] = " ".join(hosts)
        return variables

    @property
    def grows(self) -> bool:
        """Whether an earlier lock of fewer lines may be a part of this one's."""
        files = self.requirements.stamps() or self.requirements.hashes
        return bool(self.requirements.lines) and not (self.request.locked or files)

    def install_text(self, text: str) -> str:
        """A lock's text as uv installs it; may hold credentials, so no file is to have it."""
        if self.request.locked:
            return self.uv_text("\n".join(self.requirements.lines))
        lines = with_credentials(text, self.requirements.lines).splitlines()
        hashes = self.requirements.hashes
        hashed = (f"{line} {hashes.get(requirement_name(line) or '', '')}" for line in lines)
        return self.uv_text("\n".join(map(str.rstrip, hashed)))

    def uv_text(self, lines: str) -> str:
        text = self.requirements.text(lines)
        return f"--no-index\n{text}" if self.settings.no_index else text

    def refresh_options(self) -> list[str]:
        """Makes uv build source directories anew: it looks at their project file only.

        Not to be combined with uv's offline mode.
        """
        names = self.requirements.local_names
        if None in names:
            return ["--refresh"]
        return [option for name in names if name for option in ("--refresh-package", name)]


def make_plan(request: EnvironmentRequest, interpreter: Interpreter, home: Path) -> Plan:
    """Raises `EnvironmentBuildError` for a line that cannot be read."""
    directory = request.root if request.root and request.root.is_dir() else home
    requirements = parse_requirements(request.requirements, directory)
    settings = index_settings(os.environ, directory, Path(sys.prefix))
    around = [
        [_LAYOUT, interpreter.identity, settings.fingerprint],
        [requirements.options, requirements.stamps()],
        [listing(place) for place in requirements.values("--find-links")],
        [request.cuda, request.platform],
    ]
    memo, family = _digest([requirements.lines, around]), _digest(around)
    return Plan(request, interpreter, requirements, settings, directory, memo, family)


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Resolver:
    """Makes locks, and remembers them in `home`: the second time no process is started."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def known(self, plan: Plan) -> Lock | None:
        if plan.request.locked:
            return self._lock(plan, "\n".join(plan.request.requirements))
        if not plan.requirements.lines:
            return self._lock(plan, "")
        memo = read_json(self._file(plan))
        return self._lock(plan, memo["lock"]) if isinstance(memo.get("lock"), str) else None

    async def resolve(self, plan: Plan, report: Callable[[str], None]) -> Lock:
        """Choose exact versions. Raises `EnvironmentBuildError` that says which line fails."""
        check_lines(plan.requirements)
        finished = await self.compile(plan, plan.requirements.lines)
        from_cache = False
        if address := finished.unreachable:
            finished = await self.compile(plan, plan.requirements.lines, "--offline")
            if finished.code:
                raise unreachable(plan.request.endpoint, address)
            from_cache = True
            report(f"{address} could not be reached: versions are those found on this machine")
        if finished.offline:
            raise offline(plan.request.endpoint)
        if finished.code:
            raise unresolved(plan, finished)
        lock = self._remember(plan, without_credentials(finished.stdout))
        return replace(lock, offline=from_cache)

    def earlier(self, plan: Plan) -> Earlier | None:
        """The lock of the most of this plan's lines, where there is one of some of them."""
        if not plan.grows:
            return None
        lines = set(plan.requirements.lines)
        fitting = [
            each
            for each in self._family(plan)
            if set(each["lines"]) < lines and each["torch"] == plan.torch.shown
        ]
        if not fitting:
            return None
        most = max(fitting, key=lambda each: len(each["lines"]))
        added = [line for line in plan.requirements.lines if line not in most["lines"]]
        return Earlier(self._lock(plan, most["lock"]), tuple(added))

    async def grow(self, plan: Plan, earlier: Earlier) -> Lock | None:
        """Choose versions of what is added to an earlier lock, which stays as it is.

        None where that cannot be: they do not go together, or the index cannot be reached.
        """
        check_lines(plan.requirements)
        before = earlier.lock.text
        finished = await self.compile(plan, earlier.added, "--constraints", self._input(before))
        if finished.code:
            return None
        found = (*before.splitlines(), *without_credentials(finished.stdout).splitlines())
        by_name = {requirement_name(line) or line: line for line in found}
        return self._remember(plan, "".join(f"{by_name[name]}\n" for name in sorted(by_name)))

    def _remember(self, plan: Plan, text: str) -> Lock:
        write_atomically(self._file(plan), json.dumps({"lock": text}))
        if plan.grows and " @ " not in text:
            lines = list(plan.requirements.lines)
            others = [each for each in self._family(plan) if each["lines"] != lines]
            newest = {"lines": lines, "torch": plan.torch.shown, "lock": text}
            family = {"locks": [newest, *others][:_FAMILY]}
            write_atomically(self._family_file(plan), json.dumps(family))
        return self._lock(plan, text)

    def _family(self, plan: Plan) -> list[dict[str, Any]]:
        found = read_json(self._family_file(plan)).get("locks")
        return found if isinstance(found, list) else []

    def _family_file(self, plan: Plan) -> Path:
        return self._home / f"family-{plan.family}.json"

    async def compile(self, plan: Plan, lines: Sequence[str], *options: str) -> Finished:
        """Have uv resolve these lines, with all else as the plan says."""
        command = [uv_binary(), "pip", "compile", "-", "--python", plan.interpreter.path]
        command += [
            "--no-header",
            "--no-annotate",
            "--overrides",
            self._input(_OVERRIDES),
            *options,
        ]
        if plan.torch.constraint:
            command += ["--constraints", self._input(plan.torch.constraint + "\n")]
        text = plan.uv_text("\n".join(lines))
        environment = plan.uv_variables()
        return await run_guarded(command, env=environment, cwd=plan.directory, text=text)

    def _file(self, plan: Plan) -> Path:
        return self._home / f"{plan.memo}.json"

    def _input(self, text: str) -> str:
        path = self._home / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
        if not path.is_file():
            write_atomically(path, text)
        return str(path)

    def _lock(self, plan: Plan, text: str) -> Lock:
        """A content address: equal packages for equal interpreters share one environment."""
        parts: list[Any] = [_LAYOUT, plan.interpreter.identity, text]
        if not plan.request.locked:  # (which has the hash of each file, wherever it lies)
            options = plan.requirements.options if text else ()
            built = [o for o in options if o[0] in {"--no-binary", "--only-binary"}]
            parts += [plan.requirements.stamps(), built, plan.requirements.hashes]
        return Lock(text, hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32])


def unreachable(endpoint: str, address: str, *, locked: bool = False) -> EnvironmentBuildError:
    """Says what was not there; packages that are `locked` may also be brought by the deploy."""
    remedy = (
        "connect to the network, or name an index or a directory of wheels that can be reached "
        "(UV_DEFAULT_INDEX, UV_FIND_LINKS)"
    )
    if "pytorch.org" in address:
        remedy = (
            "connect to PyTorch's index, or name a directory that holds torch's wheels "
            "(UV_FIND_LINKS) or the builds of another index (UV_TORCH_BACKEND)"
        )
    if locked:
        remedy = f"bring them with `flash deploy --bundle`, or {remedy}"
    return EnvironmentBuildError(
        f"The packages of {endpoint} cannot be fetched: {address} could not be reached and uv's "
        f"cache does not hold all of them; {remedy}."
    )


def offline(endpoint: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(
        f"The packages of {endpoint} cannot be fetched: uv is offline (UV_OFFLINE) and its cache "
        "does not hold all of them; unset UV_OFFLINE, or name a directory of wheels "
        "(UV_FIND_LINKS)."
    )


def unresolved(plan: Plan, finished: Finished) -> EnvironmentBuildError:
    """Says which lines do not go together, and why."""
    named = [line for line in plan.requirements.lines if _mentioned(line, finished.reason)]
    lines = ", ".join(without_credentials(line) for line in named or plan.requirements.lines)
    return EnvironmentBuildError(
        f"The dependencies of {plan.request.endpoint} cannot be resolved for Python "
        f"{plan.interpreter.minor} ({lines}): {finished.reason}."
    )


def _mentioned(line: str, reason: str) -> bool:
    name = requirement_name(line)
    words = reason.replace("`", " ").replace(",", " ").split()
    return name is not None and any(_bare(normalised(word)) == name for word in words)


def _bare(word: str) -> str:
    for end, letter in enumerate(word):
        if letter in "<>=!~[@:;(":
            return word[:end]
    return word.rstrip("-")
