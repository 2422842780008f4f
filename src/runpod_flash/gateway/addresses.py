"""From paths to what answers them: a table made once for each catalog."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runpod_flash.gateway.inputs import Checker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runpod_flash.project.catalog import Catalog, Discovered, Operation, Problem

_PARAMETER = re.compile(r"{[A-Za-z_]\w*(?::(\w+))?}")
_KINDS = {"path": ".*", "int": "[0-9]+", "float": r"[0-9]+(?:\.[0-9]+)?"}


@dataclass(eq=False)
class Bound:
    """An operation with its endpoint; `path` is its shortest address."""

    endpoint: Discovered
    operation: Operation
    path: str
    checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        self.checker = Checker(self.operation)


Methods = dict[str, "Discovered"]


class Addresses:
    """The table of one catalog."""

    def __init__(self, catalog: Catalog, homes: Mapping[str, str] | None = None) -> None:
        self.catalog = catalog
        # The files of endpoints, also of those that an earlier catalog had.
        self.homes = {**(homes or {}), **{e.spec.name: e.file for e in catalog.endpoints}}
        self.names = {each.spec.name: each for each in catalog.endpoints}
        self.operations: dict[str, Bound] = {}
        self.ambiguous: dict[str, list[str]] = {}
        self._routes: dict[str, Methods] = {}
        self._patterns: list[tuple[re.Pattern[str], Methods]] = []
        self.problems = {_prefix(p.file): p for p in catalog.problems if p.file and not p.endpoint}
        self.refused = {p.endpoint: p for p in catalog.problems if p.endpoint}
        for each in catalog.endpoints:
            self._add_routes(each)
        # (An external endpoint has no file, and no address but the queue API's. An image's program
        # takes all that is below its own.)
        called = [each for each in catalog.endpoints if each.file and not each.spec.is_image]
        for file in dict.fromkeys(each.file for each in called):
            self._add_operations([each for each in called if each.file == file])

    def _add_operations(self, endpoints: list[Discovered]) -> None:
        """Of one file: by name, by class and name, and without a name where there is just one."""
        prefix = _prefix(endpoints[0].file)
        all_ = [(each, operation) for each in endpoints for operation in each.operations]
        for endpoint, operation in all_:
            namesakes = [e for e, other in all_ if other.name == operation.name]
            short = f"{prefix}/{operation.name}"
            qualified = f"{prefix}/{endpoint.owner}/{operation.name}" if endpoint.owner else short
            best = short if len(namesakes) == 1 else qualified
            best = prefix if len(all_) == 1 else best
            bound = Bound(endpoint, operation, best)
            for path in {best, qualified, *([short] if len(namesakes) == 1 else [])}:
                self.operations[path] = bound
            if best == qualified != short:
                self.ambiguous.setdefault(short, []).append(qualified)

    def _add_routes(self, endpoint: Discovered) -> None:
        prefix = prefix_of(endpoint)
        for route in endpoint.routes:
            path = f"{prefix}{route.path}"
            if _PARAMETER.search(route.path):
                self._pattern(path)[route.method] = endpoint
            else:
                self._routes.setdefault(path, {})[route.method] = endpoint

    def _pattern(self, path: str) -> Methods:
        parts, at = [], 0
        for found in _PARAMETER.finditer(path):
            parts += [re.escape(path[at : found.start()]), _KINDS.get(found[1] or "", "[^/]+")]
            at = found.end()
        expression = re.compile("".join([*parts, re.escape(path[at:])]))
        for known, methods in self._patterns:
            if known.pattern == expression.pattern:
                return methods
        self._patterns.append((expression, {}))
        return self._patterns[-1][1]

    def route(self, path: str, method: str) -> Discovered | None:
        """The endpoint that answers."""
        exact = self._routes.get(path)
        if exact is not None and method in exact:
            return exact[method]
        for pattern, methods in self._patterns:
            if method in methods and pattern.fullmatch(path):
                return methods[method]
        return None

    def endpoint_at(self, path: str, method: str) -> Discovered | None:
        """The endpoint that a request is for, by a route, in the queue API or by a function."""
        routed = self.route(path, method)
        if routed is not None:
            return routed
        if path.startswith("/v2/"):
            return self.names.get(path.split("/", 3)[2])
        base, _, last = path.rpartition("/")
        if last not in ("run", "runsync"):
            base = base.rpartition("/")[0]  # the last one is a job's id
        bound = self.operations.get(base)
        return bound.endpoint if bound is not None else None

    def methods(self, path: str) -> list[str]:
        """The methods that a path of routes takes; empty for any other path."""
        found = [methods for pattern, methods in self._patterns if pattern.fullmatch(path)]
        return [
            *dict.fromkeys(m for methods in (self._routes.get(path, {}), *found) for m in methods)
        ]

    def operations_of(self, endpoint: Discovered) -> list[Bound]:
        """The endpoint's operations in their order, each with its shortest address."""
        bound = {id(each.operation): each for each in self.operations.values()}
        return [bound[id(each)] for each in endpoint.operations if id(each) in bound]

    def problem(self, path: str) -> Problem | None:
        """Why nothing answers there, if the file or endpoint is broken."""
        for prefix, problem in self.problems.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                return problem
        return None

    def problem_of(self, name: str) -> Problem | None:
        """Why an endpoint is not served, if it or the file that it was in is broken."""
        home = self.homes.get(name)
        return self.refused.get(name) or (self.problems.get(_prefix(home)) if home else None)

    def known(self) -> Iterator[str]:
        """Every address, as people would type it."""
        for path, bound in self.operations.items():
            if path == bound.path:
                yield f"{path}/runsync"
        for endpoint in self.catalog.endpoints:
            for route in endpoint.routes:
                yield f"{prefix_of(endpoint)}{route.path}"


def prefix_of(endpoint: Discovered) -> str:
    """The path below which an endpoint's addresses are."""
    own = f"/{endpoint.spec.name}" if endpoint.spec.is_image else ""
    return f"{_prefix(endpoint.file) if endpoint.file else ''}{own}"


def _prefix(file: str) -> str:
    return "/" + file.removesuffix(".py")
