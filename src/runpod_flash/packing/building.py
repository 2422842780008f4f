"""Builds what is deployed: checks a project, locks its packages, and gathers what goes along."""

from __future__ import annotations

import ast
import asyncio
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runpod_flash.engines.local.environments.environments import cache_directory
from runpod_flash.engines.local.environments.interpreters import wanted_minor
from runpod_flash.engines.local.environments.plans import EnvironmentRequest
from runpod_flash.engines.local.environments.platforms import USUAL
from runpod_flash.engines.local.environments.requirement_lines import normalised
from runpod_flash.engines.local.preparation import requirement_lines
from runpod_flash.errors import ConfigurationError
from runpod_flash.packing.artifact import Artifact
from runpod_flash.packing.bundling import fetch, private_hosts
from runpod_flash.packing.credentials import credentials, credentials_in_wheel
from runpod_flash.packing.kept import forget_unused, used
from runpod_flash.packing.locking import Lock, Locker, Preferences
from runpod_flash.project.closure import needed_files
from runpod_flash.project.root import is_root
from runpod_flash.project.scan import kept_files
from runpod_flash.project.tree import Tree, TreeFile, check_size
from runpod_flash.spec import PACKED
from runpod_flash.suggest import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from runpod_flash.engines.base import Platform
    from runpod_flash.packing.locking import Package
    from runpod_flash.project.catalog import Catalog, Discovered
    from runpod_flash.spec import EndpointSpec

_PYTHON = "3.12"
_NAMED = 5


@dataclass(frozen=True)
class BuildOptions:
    """What may be asked of a build. `allowed` are files that may have credentials, `excluded`
    packages that are left out, `python` the version of endpoints that declare none. With
    `bundle` all packages go along; with `no_deps` only those that are named are there. `archive` is
    where it is written: what an earlier build left there does not go along.
    """

    python: str | None = None
    bundle: bool = False
    upgrade: bool = False
    no_deps: bool = False
    excluded: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    archive: Path | None = None


async def build(
    catalog: Catalog,
    platform: Platform | None,
    options: BuildOptions,
    say: Callable[[str], None],
    present: Mapping[str, Mapping[str, str]] | None = None,
) -> Artifact:
    """What serves this catalog on workers of that platform (None: of none in particular).

    `present` are the versions of packages that are served now, by endpoint; they stay where they
    fit. Raises `ConfigurationError` or `EnvironmentBuildError` for what cannot be deployed.
    """
    return await _Building(catalog, platform, options, say, present or {}).artifact()


class _Building:
    def __init__(
        self,
        catalog: Catalog,
        platform: Platform | None,
        options: BuildOptions,
        say: Callable[[str], None],
        present: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._catalog = catalog
        self._root = Path(catalog.root)
        self._target = platform
        self._options = options
        self._say = say
        self._present = present
        self._locker = Locker(cache_directory())
        self._wheels = self._locker.wheels
        self._brought: dict[str, Path | bytes] = {}
        self._added: dict[str, TreeFile] = {}
        self._locking: dict[tuple[object, ...], asyncio.Future[Lock]] = {}

    async def artifact(self) -> Artifact:
        files = self._code()
        every = self._catalog.endpoints
        locked = await asyncio.gather(*(self._locked(each) for each in every))
        endpoints = tuple(
            self._with_lock(each, lock) for each, lock in zip(every, locked, strict=True)
        )
        self._check_credentials(files)
        forget_unused(self._wheels)
        files += [file for _, file in sorted(self._added.items())]
        sent = {file.digest: file for file in files}.values()
        brought = f"{PACKED}/wheels/"
        check_size(self._root, {file.path.removeprefix(brought): file.size for file in sent})
        return Artifact(
            self._root,
            replace(self._catalog, endpoints=endpoints),
            tuple(files),
            self._brought,
            {each.spec.name: lock.packages for each, lock in zip(every, locked, strict=True)},
        )

    # The project's own files

    def _code(self) -> list[TreeFile]:
        specs = [each.spec for each in self._catalog.endpoints]
        needed = list(needed_files(specs))
        _check_syntax(self._root, needed)
        needed += [each.file for each in self._catalog.endpoints]
        written = self._written()
        found = Tree(self._root).files(needed, without=written)
        self._say_what_stays({file.path for file in found} | written)
        return [file for file in found if not file.path.startswith(f"{PACKED}/")]

    def _written(self) -> set[str]:
        """The path below the root of what this build writes, if it is there."""
        archive = self._options.archive
        if archive is None:
            return set()
        place, root = archive.parent.resolve() / archive.name, self._root.resolve()
        return {place.relative_to(root).as_posix()} if place.is_relative_to(root) else set()

    def _say_what_stays(self, known: Collection[str]) -> None:
        """Files beside the code that a folder which nothing marks as a project's does not send."""
        if is_root(self._root):
            return
        if stay := [path for path in kept_files(self._root) if path not in known]:
            self._say(
                f"not sent: {listed(stay, _NAMED)}, for nothing marks {self._root} as a "
                "project, so that only what endpoints import goes; if they are needed, make a "
                "pyproject.toml there"
            )

    def _check_credentials(self, files: Iterable[TreeFile]) -> None:
        """Raise `ConfigurationError` for those in the project, and in packages built here."""
        found = list(credentials(self._root, files))
        for place in self._brought.values():
            if isinstance(place, Path) and place.parent.parent == self._wheels:
                found += credentials_in_wheel(place)
        named = [each for each in found if each.path not in self._options.allowed]
        if named:
            raise ConfigurationError(
                f"credentials would leave this machine: {listed(map(str, named), _NAMED)}; "
                "keep them in .env and `flash secret set`, name the files in .flashignore, or, "
                f"where they are none, add --allow {named[0].path}"
            )

    # Packages

    async def _locked(self, each: Discovered) -> Lock:
        """Its packages; endpoints that ask for the same have them resolved once."""
        spec = each.spec
        if not _has_environment(spec):
            return Lock()
        request = EnvironmentRequest(
            endpoint=spec.name,
            requirements=requirement_lines(spec, self._say),
            python=self._python(spec),
            cuda=self._cuda(spec),
            root=self._root,
            platform=USUAL if self._target is None else self._target.system,
        )
        kept = self._present.get(spec.name, {})
        key = (request.requirements, request.python, request.cuda, *sorted(kept.items()))
        if key not in self._locking:
            self._locking[key] = asyncio.ensure_future(self._lock(request, kept))
        return await self._locking[key]

    async def _lock(self, request: EnvironmentRequest, kept: Mapping[str, str]) -> Lock:
        options = ("--no-deps",) if self._options.no_deps else ()
        wanted = Preferences(kept, self._options.upgrade)
        lock = await self._locker.lock(request, wanted, self._say, *options)
        left_out = {normalised(name) for name in self._options.excluded}
        packages = [package for package in lock.packages if package.name not in left_out]
        return replace(lock, packages=await self._bring(packages, private_hosts(lock.indexes)))

    async def _bring(
        self, packages: Sequence[Package], logins: dict[str, tuple[str, str]]
    ) -> tuple[Package, ...]:
        """The same; those are on this machine that a server cannot get, or is to be spared."""
        wanted = [
            package
            for package in packages
            if package.file and package.path is None
            if self._options.bundle or urlsplit(package.url).hostname in logins
        ]
        if not wanted:
            return tuple(packages)
        found = await fetch(wanted, self._wheels, logins, self._say)
        there = {package.name: package for package in found}
        return tuple(there.get(package.name, package) for package in packages)

    def _python(self, spec: EndpointSpec) -> str:
        usual = _PYTHON if self._target is None else self._target.python
        return wanted_minor(spec.build.python or self._options.python or usual)

    def _cuda(self, spec: EndpointSpec) -> str | None:
        if not spec.uses_gpu:
            return None
        if self._target is None or not (self._target.cuda or spec.scaling.workers_max):
            return spec.placement.min_cuda  # (on machines that nobody knows yet)
        return self._target.cuda

    # Together

    def _with_lock(self, each: Discovered, lock: Lock) -> Discovered:
        if not _has_environment(each.spec):
            return each
        build = replace(each.spec.build, python=self._python(each.spec))
        if lock.packages:
            lines = [self._line(package) for package in lock.packages]
            text = "\n".join([*lock.options, *sorted(lines), ""]).encode()
            build = replace(build, lock=hashlib.sha256(text).hexdigest())
            self._add(TreeFile(build.lock_file, build.lock, len(text)), text)
        return replace(each, spec=replace(each.spec, build=build))

    def _line(self, package: Package) -> str:
        """As a server reads it; files that come along lie below the project's root."""
        if not package.file:
            return f"{package.name} @ {package.url}"
        if package.path is not None and package.path.is_relative_to(self._wheels):
            # (A wheel that was built has a folder of its own there, a fetched one has none.)
            used(self._wheels / package.path.relative_to(self._wheels).parts[0])
        there = self._target is not None and package.file in self._target.wheels
        path = None if there and not self._options.bundle else package.path
        hashed = f" --hash=sha256:{package.digest}" if package.digest else ""
        if path is None:
            return f"{package.name}=={package.version}{hashed}"
        digest = package.digest or hashlib.sha256(path.read_bytes()).hexdigest()
        below = f"{PACKED}/wheels/{package.file}"
        self._add(TreeFile(below, digest, path.stat().st_size), path)
        return f"{below} --hash=sha256:{digest}"

    def _add(self, file: TreeFile, content: Path | bytes) -> None:
        other = self._added.get(file.path)
        if other is not None and other.digest != file.digest:
            raise ConfigurationError(
                f"two endpoints depend on different files called {file.path.rpartition('/')[2]}; "
                "give one of them another version"
            )
        self._added[file.path] = file
        self._brought[file.path] = content


def _has_environment(spec: EndpointSpec) -> bool:
    """Whether its workers are Flash's own, with packages that a server installs."""
    return not (spec.build.container or spec.external)


def _check_syntax(root: Path, files: Iterable[str]) -> None:
    """Raise `ConfigurationError` for files that endpoints import and Python cannot read."""
    found = []
    for file in dict.fromkeys(files):
        try:
            ast.parse((root / file).read_bytes())
        except SyntaxError as error:
            found.append(f"{file}:{error.lineno}: {error.msg}")
        except (OSError, ValueError):  # not there; no text
            continue
    if found:
        raise ConfigurationError(f"an endpoint imports what is no Python: {listed(found, _NAMED)}")
