"""The program that looks for endpoints: `... ROOT FD SECONDS SKIPPED...`, started by `discovery`.

It imports the files that declare some, so it is a process of its own, fresh each time. Words to the
parent are lines of JSON on FD: {"file": NAME} before each import, {"file": ""} after the last one,
and at last {"catalog": ...}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.bytecode import distrust_young_files
from runpod_flash.placeholders import finder
from runpod_flash.project.catalog import Catalog, Problem
from runpod_flash.project.declares import declaring
from runpod_flash.project.import_problems import import_problem, limit
from runpod_flash.project.project_modules import ProjectModules
from runpod_flash.project.reading import read
from runpod_flash.project.scan import python_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set
    from types import ModuleType

    from runpod_flash.project.catalog import Discovered

    Tell = Callable[[dict[str, Any]], None]

_REMEDY = "use it inside an endpoint that lists it in dependencies=[...]"


class Discoverer:
    """`tell` gets each word for the parent; `skipped` are files that an earlier try died of."""

    def __init__(self, root: Path, tell: Tell, seconds: float, skipped: Sequence[str] = ()) -> None:
        self._root = root
        self._tell = tell
        self._seconds = seconds
        self._skipped = frozenset(skipped)
        self._problems: list[Problem] = []
        self._modules = ProjectModules(str(root))

    def run(self) -> Catalog:
        finder.install(str(self._root), _REMEDY, inert=True)
        sys.path.insert(0, str(self._root))
        self._modules.install()
        files, self._problems = declaring(self._root, python_files(self._root))
        loaded = {file: self._load(file) for file in files if file not in self._skipped}
        self._tell({"file": ""})
        modules = {file: module for file, module in loaded.items() if module is not None}
        self._modules.show_all()
        _drop_routes(modules, {str(self._root / file) for file in files if file not in modules})
        endpoints, problems = self._read(modules)
        found = sorted([*self._problems, *problems], key=lambda each: (each.file, each.line))
        return Catalog(str(self._root), tuple(endpoints), tuple(found))

    def _load(self, file: str) -> ModuleType | None:
        """The module of a file; None, and a problem, where it does not import."""
        if "." in file.removesuffix(".py"):
            text = f"{file}: a dot in a name would end a module's name; rename the file or folder"
            self._problems.append(Problem(file, text))
            return None
        self._tell({"file": file})
        try:
            with self._modules.beside(file), limit(self._seconds):
                return self._modules.load(file)
        except BaseException as error:
            self._problems.append(import_problem(self._root, file, error))
            return None

    def _read(
        self, modules: Mapping[str, ModuleType]
    ) -> tuple[Sequence[Discovered], Sequence[Problem]]:
        """What the modules declare; one that cannot be read does not hide the others."""
        with contextlib.suppress(Exception):
            return read(self._root, modules)
        readable = {}
        for file, module in modules.items():
            try:
                read(self._root, {file: module})
            except Exception as error:
                self._problems.append(import_problem(self._root, file, error))
            else:
                readable[file] = module
        return read(self._root, readable)


def _drop_routes(modules: Mapping[str, ModuleType], broken: Set[str]) -> None:
    """Take the routes of files that did not import from the endpoints of those that did."""
    declared = sys.modules.get("runpod_flash.endpoint")
    if declared is None or not broken:
        return
    for value in [value for module in modules.values() for value in vars(module).values()]:
        if type(value) is declared.Endpoint:
            kept = [r for r in value._routes if r["function"].__code__.co_filename not in broken]
            value._routes[:] = kept


def main() -> None:
    """See the module."""
    root, fd, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    skipped = sys.argv[4:]
    sys.argv = ["discoverer"]
    os.set_inheritable(fd, False)
    os.dup2(2, 1)  # what files print while they are imported
    sys.stdout = sys.stderr
    with open(fd, "w", encoding="utf-8") as out:

        def tell(word: dict[str, Any]) -> None:
            out.write(json.dumps(word) + "\n")
            out.flush()

        distrust_young_files()
        catalog = Discoverer(root, tell, seconds, skipped).run()
        # First, for the parent ends this program once it has the catalog.
        sys.stderr.flush()
        tell({"catalog": catalog.to_wire()})
    # Threads that a file has started must not keep this program.
    os._exit(0)
