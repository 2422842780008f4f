"""The program that looks for endpoints: `python -m runpod_flash.project.discoverer ROOT FD`.

It imports the files that declare some, so it is a process of its own, fresh each time. Words to the
parent are lines of JSON on FD: {"file": NAME} before each import, {"problem": ...}, and at last
{"catalog": ...}.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.placeholders import finder
from runpod_flash.project import declares
from runpod_flash.project.catalog import Catalog, Problem
from runpod_flash.project.reading import read
from runpod_flash.project.scan import python_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

_REMEDY = "use it inside an endpoint that lists it in dependencies=[...]"


class Discoverer:
    """`tell` gets each word for the parent; `skipped` are files that an earlier try died of."""

    def __init__(
        self, root: Path, tell: Callable[[dict[str, Any]], None], skipped: Sequence[str] = ()
    ) -> None:
        self._root = root
        self._tell = tell
        self._skipped = frozenset(skipped)
        self._problems: list[Problem] = []

    def run(self) -> Catalog:
        finder.install(str(self._root), _REMEDY, inert=True)
        sys.path.insert(0, str(self._root))
        modules: dict[str, ModuleType] = {}
        for file in self._declaring():
            if file not in self._skipped:
                module = self._load(file)
                if module is not None:
                    modules[file] = module
        endpoints, problems = read(self._root, modules)
        found = sorted([*self._problems, *problems], key=lambda each: (each.file, each.line))
        return Catalog(str(self._root), tuple(endpoints), tuple(found))

    # Which files

    def _declaring(self) -> list[str]:
        trees = {}
        for file in python_files(self._root):
            with contextlib.suppress(OSError):  # deleted meanwhile
                source = (self._root / file).read_bytes()
                if declares.mentions(source):
                    tree = self._parse(file, source)
                    if tree is not None:
                        trees[file] = tree
        return declares.declaring(trees)

    def _parse(self, file: str, source: bytes) -> ast.Module | None:
        try:
            return ast.parse(source, file)
        except (SyntaxError, ValueError) as error:
            # (Of a file that is none of ours nobody wants to hear.)
            if b"runpod_flash" in source:
                self._problems.append(_syntax_problem(file, error))
        return None

    # Importing

    def _load(self, file: str) -> ModuleType | None:
        """The module of a file; None, and a problem, where it does not import."""
        path = self._root / file
        loaded = self._loaded(path)
        if loaded is not None:
            return loaded
        self._tell({"file": file})
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.insert(1, folder)  # siblings, as a script finds them
        try:
            return _import(module_name(file), path)
        except BaseException as error:
            self._problems.append(_import_problem(self._root, file, error))
            return None

    def _loaded(self, path: Path) -> ModuleType | None:
        """The module that another file has imported already, under whatever name."""
        for module in list(sys.modules.values()):
            known = getattr(module, "__file__", None)
            if known is not None and Path(known) == path and module.__name__ != "__main__":
                return module
        return None


def module_name(file: str) -> str:
    """`longruns/stage-1.py` is `longruns.stage-1`."""
    return file.removesuffix(".py").replace("/", ".")


def _import(name: str, path: Path) -> ModuleType:
    parent, _, leaf = name.rpartition(".")
    package = importlib.import_module(parent) if parent else None
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    if package is not None:
        setattr(package, leaf, module)
    return module


# Problems


def _syntax_problem(file: str, error: Exception) -> Problem:
    line = getattr(error, "lineno", None) or 0
    said = getattr(error, "msg", None) or str(error)
    lines = traceback.format_exception_only(type(error), error)
    where = f"{file}:{line}" if line else file
    return Problem(file, f"{where}: {said}", line, "".join(lines[:-1]))


def _import_problem(root: Path, file: str, error: BaseException) -> Problem:
    if isinstance(error, SyntaxError) and error.filename == str(root / file):
        return _syntax_problem(file, error)
    frames = list(_users_frames(root, error))
    own = [frame for frame in frames if Path(frame.filename) == root / file]
    line = (own or [traceback.FrameSummary("", 0, "")])[-1].lineno or 0
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        text = f"the file ends the program while it is imported ({text})"
    where = f"{file}:{line}" if line else file
    return Problem(file, f"{where}: {text}", line, "".join(traceback.format_list(frames)))


def _users_frames(root: Path, error: BaseException) -> Iterator[traceback.FrameSummary]:
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(root) and "site-packages" not in frame.filename:
            yield frame


def main() -> None:
    root, fd, skipped = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    sys.argv = ["discoverer"]
    with open(fd, "w", encoding="utf-8") as out:  # noqa: PTH123 - it is a descriptor

        def tell(word: dict[str, Any]) -> None:
            out.write(json.dumps(word) + "\n")
            out.flush()

        sys.stdout = sys.stderr  # what files print while they are imported
        catalog = Discoverer(root, tell, skipped).run()
        tell({"catalog": catalog.to_wire()})
        out.flush()
    # Threads that a file has started must not keep this program.
    os._exit(0)


if __name__ == "__main__":
    main()
