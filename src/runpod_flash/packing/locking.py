"""Exact packages for workers of another platform: resolved here by uv, installed there."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.engines.local.environments.files import read_json, write_atomically
from runpod_flash.engines.local.environments.interpreters import Interpreter
from runpod_flash.engines.local.environments.plans import (
    Resolver,
    make_plan,
    offline,
    unreachable,
    unresolved,
)
from runpod_flash.engines.local.environments.platforms import described
from runpod_flash.engines.local.environments.requirement_lines import (
    check_lines,
    normalised,
)
from runpod_flash.errors import EnvironmentBuildError
from runpod_flash.packing.sources import as_wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from runpod_flash.engines.local.environments.plans import EnvironmentRequest, Plan
    from runpod_flash.engines.local.environments.uv import Finished

# What uv says of packages whose wheels are for others, or which have none.
_NEEDS_WHEEL = re.compile(r"(?:[Ww]heels are (?:required|available)|found wheels) for `([^`]+)`")
_VERSION = re.compile(r"[\w.!+-]+")  # and no commit of a repository
# Only these say something to a server; local ones are what is brought.
_PASSED = {"--index-url", "--extra-index-url", "--find-links", "--no-binary"}


@dataclass(frozen=True)
class Package:
    """One package of a lock: the file that is installed, its SHA-256, and where it is to be had.

    `size` is in bytes, 0 where the index does not say. A package of a version control system has
    no file: its `url` is a requirement's.
    """

    name: str
    version: str
    file: str = ""
    digest: str = ""
    url: str = ""
    size: int = 0

    @property
    def path(self) -> Path | None:
        """The file, if it is on this machine."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


@dataclass(frozen=True)
class Lock:
    """All packages of an environment, and the options that say where a server finds them.

    `indexes` are those that were asked, with the credentials in their addresses.
    """

    packages: tuple[Package, ...] = ()
    options: tuple[str, ...] = ()
    indexes: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Preferences:
    """What is kept where it still fits: versions by name. `upgrade` asks for the latest instead."""

    versions: Mapping[str, str]
    upgrade: bool = False


class Locker:
    """Makes locks, and remembers them below `home`: an unchanged project starts no process.

    `wheels` has those that were built here, each in a folder of its own.
    """

    def __init__(self, home: Path) -> None:
        self.wheels = home / "wheels"
        self._home = home
        self._resolver = Resolver(home / "locks")

    async def lock(
        self,
        request: EnvironmentRequest,
        preferences: Preferences,
        say: Callable[[str], None],
        *options: str,
    ) -> Lock:
        """The packages of an environment for `request.platform` and its Python.

        `options` are passed to uv. Raises `EnvironmentBuildError` that names what does not fit.
        """
        plan = make_plan(request, _pretended(request), self._home)
        if not plan.requirements.lines:
            return Lock()
        kept = preferences.versions
        found = None if preferences.upgrade else _present(self._memo(plan, kept, options))
        if found is None:
            say(f"resolving the packages of {request.endpoint}")
            found = await self._resolve(plan, preferences, say, options)
            text = json.dumps({"pylock": found})
            if not (preferences.upgrade and kept):  # (else the next build would be one, too)
                write_atomically(self._memo(plan, kept, options), text)
            own = {package.name: package.version for package in _packages(found)}
            write_atomically(self._memo(plan, own, options), text)  # (as the next build asks)
        packages, named = tuple(_checked(plan, _packages(found))), plan.requirements
        indexes = (*named.values("--index-url"), *named.values("--extra-index-url"))
        return Lock(packages, tuple(_options(plan)), (*plan.settings.indexes, *indexes))

    async def _resolve(
        self, plan: Plan, wanted: Preferences, say: Callable[[str], None], options: Sequence[str]
    ) -> str:
        check_lines(plan.requirements)
        lines = await as_wheels(plan, self.wheels, say)
        options = [*options, *_target(plan.request)]
        if ":all:" not in plan.requirements.values("--no-binary"):
            options.append("--no-build")  # (but for those that are named so)
        kept = None if wanted.upgrade else self._preferred(wanted.versions)
        if kept is not None:
            options += ["--output-file", str(kept)]
        try:
            finished = await self._resolver.compile(plan, lines, *options)
        finally:
            if kept is not None:
                kept.unlink(missing_ok=True)
        if address := finished.unreachable:
            raise unreachable(plan.request.endpoint, address)
        if finished.offline:
            raise offline(plan.request.endpoint)
        if finished.code:
            raise _without_wheel(plan, finished) or unresolved(plan, finished)
        return without_credentials(finished.stdout)

    def _preferred(self, versions: Mapping[str, str]) -> Path | None:
        """A lock of these, which uv keeps to where it can. (It reads names and versions of it.)"""
        versions = {name: each for name, each in versions.items() if _VERSION.fullmatch(each)}
        if not versions:
            return None
        text = 'lock-version = "1.0"\ncreated-by = "flash"\n'
        for name, version in sorted(versions.items()):
            wheel = f"https://localhost/{name}-{version}-py3-none-any.whl"
            text += f"\n[[packages]]\nname = {json.dumps(name)}\nversion = {json.dumps(version)}\n"
            text += f"wheels = [{{ url = {json.dumps(wheel)}, hashes = {{}} }}]\n"
        place = self._home / "locks" / f"pylock.{secrets.token_hex(8)}.toml"
        write_atomically(place, text)
        return place

    def _memo(self, plan: Plan, kept: Mapping[str, str], options: Sequence[str]) -> Path:
        parts = [plan.memo, plan.interpreter.minor, sorted(kept.items()), list(options)]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self._home / "locks" / f"{digest}.json"


def _pretended(request: EnvironmentRequest) -> Interpreter:
    """The workers' Python, for whose sake uv runs with this one."""
    return Interpreter(sys.executable, f"{request.python}.0", "cpython", "", request.platform)


def _target(request: EnvironmentRequest) -> list[str]:
    options = ["--python-version", str(request.python), "--python-platform", request.platform]
    return [*options, "--format", "pylock.toml", "--no-python-downloads"]


def _present(memo: Path) -> str | None:
    """What was resolved before, if the files that it names are still there."""
    text = read_json(memo).get("pylock")
    if not isinstance(text, str):
        return None
    paths = (package.path for package in _packages(text))
    return text if all(path is None or path.is_file() for path in paths) else None


def _packages(pylock: str) -> Iterable[Package]:
    for each in tomllib.loads(pylock).get("packages", ()):
        name, version = normalised(each["name"]), str(each.get("version", ""))
        if vcs := each.get("vcs"):
            yield Package(name, version, url=_repository(vcs))
            continue
        file = each.get("archive") or next(iter(each.get("wheels", ())), None) or each.get("sdist")
        if file is None:  # a directory, which only another package can name
            raise EnvironmentBuildError(
                f"{name} is a directory that another package names; name it in dependencies= too."
            )
        url = file.get("url") or Path(file["path"]).absolute().as_uri()
        named = unquote(urlsplit(url).path.rpartition("/")[2])
        digest = file.get("hashes", {}).get("sha256", "")
        yield Package(name, version, named, digest, url, int(file.get("size", 0)))


def _repository(vcs: Mapping[str, Any]) -> str:
    below = f"#subdirectory={vcs['subdirectory']}" if "subdirectory" in vcs else ""
    return f"{vcs['type']}+{vcs['url']}@{vcs['commit-id']}{below}"


def _checked(plan: Plan, packages: Iterable[Package]) -> Iterable[Package]:
    """Without what the workers cannot have: a source archive is built by a server if it may be."""
    allowed = {normalised(each) for each in plan.requirements.values("--no-binary")}
    for package in packages:
        unbuilt = package.file and not package.file.endswith(".whl")
        if unbuilt and not allowed & {package.name, ":all:"}:
            raise _no_wheel(plan, package.name)
        yield package


def _without_wheel(plan: Plan, finished: Finished) -> EnvironmentBuildError | None:
    named = _NEEDS_WHEEL.findall(finished.stderr)
    return _no_wheel(plan, ", ".join(dict.fromkeys(named))) if named else None


def _no_wheel(plan: Plan, name: str) -> EnvironmentBuildError:
    request = plan.request
    return EnvironmentBuildError(
        f"{request.endpoint} needs {name}, which has no wheel for Python {request.python} on "
        f"{described(request.platform)}: take a version that has one, build one and name its file "
        f'in dependencies=, or have the server build it by a line "--no-binary {name}" in '
        "requirements.txt."
    )


def _options(plan: Plan) -> Iterable[str]:
    for name, value in plan.requirements.options:
        is_local = name == "--find-links" and "://" not in value
        if name in _PASSED and not is_local and not value.startswith("file:"):
            yield without_credentials(f"{name} {value}")
