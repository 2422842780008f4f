"""The program that looks for endpoints: `... ROOT FD SECONDS SKIPPED...`, started by `discovery`.

It imports the files that declare some, so it is a process of its own, fresh each time. Words to the
parent are lines of JSON on FD: {"file": NAME} before each import, {"file": ""} after the last one,
and at last {"catalog": ...}.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.bytecode import distrust_young_files
from runpod_flash.placeholders import finder
from runpod_flash.project.catalog import Catalog, Problem
from runpod_flash.project.declares import declaring, syntax_problem
from runpod_flash.project.reading import read
from runpod_flash.project.scan import python_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence, Set
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from runpod_flash.project.catalog import Discovered

    Tell = Callable[[dict[str, Any]], None]

_REMEDY = "use it inside an endpoint that lists it in dependencies=[...]"
_PACKAGE_FOLDERS = ("/site-packages/", "/dist-packages/")
_FLASH = os.path.dirname(os.path.dirname(__file__)) + "/"  # noqa: PTH120


class Discoverer:
    """`tell` gets each word for the parent; `skipped` are files that an earlier try died of."""

    def __init__(self, root: Path, tell: Tell, seconds: float, skipped: Sequence[str] = ()) -> None:
        self._root = root
        self._tell = tell
        self._seconds = seconds
        self._skipped = frozenset(skipped)
        self._problems: list[Problem] = []
        self._modules = _ProjectModules(str(root))

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
            with self._modules.beside(file), _limit(self._seconds):
                return self._modules.load(file)
        except BaseException as error:
            self._problems.append(_import_problem(self._root, file, error))
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
                self._problems.append(_import_problem(self._root, file, error))
            else:
                readable[file] = module
        return read(self._root, readable)


class _ProjectModules(PathFinder):
    """Sees to it that each file of the project is one module, whatever names it is imported by.

    A folder's files may import their siblings by plain names. In another folder these names mean
    other files, so they are taken out of `sys.modules` when a file is done.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._prefix = root.rstrip("/") + "/"
        self._loaded: dict[str, ModuleType] = {}
        self._hidden: dict[str, ModuleType] = {}

    def install(self) -> None:
        sys.meta_path.insert(sys.meta_path.index(PathFinder), self)

    def find_spec(  # type: ignore[override]
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader and self._is_own(spec.origin):
            spec.loader = _Loader(fullname, str(spec.origin), self._loaded)
        return spec

    def load(self, file: str) -> ModuleType:
        """Import this file under the name of its path, if no other has imported it already."""
        name, path = _module_name(file), self._prefix + file
        parent, _, leaf = name.rpartition(".")
        package = importlib.import_module(parent) if parent else None
        # (Its package may have imported it, and even under this name.)
        if path not in self._loaded:
            _run(name, path, _Loader(name, path, self._loaded))
        module = self._loaded[path]
        sys.modules.setdefault(name, module)
        if package is not None:
            setattr(package, leaf, module)
        return module

    @contextlib.contextmanager
    def beside(self, file: str) -> Iterator[None]:
        """With the file's folder on the path, after the root; all is as before afterwards."""
        before, known = list(sys.path), set(sys.modules)
        folder = os.path.dirname(self._prefix + file)  # noqa: PTH120
        if folder not in sys.path:
            sys.path.insert(1, folder)
        try:
            yield
        finally:
            sys.path[:] = before
            with contextlib.suppress(OSError):
                os.chdir(self._root)
            self._hide(sys.modules.keys() - known)

    def _hide(self, names: set[str]) -> None:
        for name in names:
            place = _place_of(sys.modules[name])
            if self._is_own(place) and _module_name(place.removeprefix(self._prefix)) != name:
                self._hidden[name] = sys.modules.pop(name)

    def show_all(self) -> None:
        """Give the names back: annotations are looked up by their module's name."""
        for name, module in self._hidden.items():
            sys.modules.setdefault(name, module)

    def _is_own(self, place: str | None) -> bool:
        return place is not None and _is_below(place, self._root)


class _Loader(SourceFileLoader):
    """Runs a file at most once: a second name for it gets the first one's module."""

    def __init__(self, name: str, path: str, loaded: dict[str, ModuleType]) -> None:
        super().__init__(name, path)
        self._loaded = loaded
        self._file = os.path.normpath(path)

    def exec_module(self, module: ModuleType) -> None:
        known = self._loaded.get(self._file)
        if known is not None:
            sys.modules[self.name] = known
            return
        self._loaded[self._file] = module
        try:
            super().exec_module(module)
        except BaseException:
            self._loaded.pop(self._file, None)
            raise


def _run(name: str, path: str, loader: _Loader) -> None:
    """Run the file as a module of that name, also where the name was a library's."""
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    before = sys.modules.get(name)
    module = sys.modules[name] = module_from_spec(spec)
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise


def _is_below(place: str, root: str) -> bool:
    """Whether it is the project's own, and not of a virtual environment in it."""
    inside = place.startswith(root.rstrip("/") + "/")
    return inside and not any(part in place for part in _PACKAGE_FOLDERS)


def _module_name(file: str) -> str:
    """`longruns/stage-1.py` is `longruns.stage-1`; a folder's name stands for its package."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _place_of(module: ModuleType) -> str:
    """The file of a module, or the folder of a namespace. (Some things there are no modules.)"""
    known = getattr(module, "__dict__", {})
    try:
        return str(known.get("__file__") or next(iter(known.get("__path__", ())), ""))
    except Exception:  # a namespace below a package that is gone
        return ""


def _drop_routes(modules: Mapping[str, ModuleType], broken: Set[str]) -> None:
    """Take the routes of files that did not import from the endpoints of those that did."""
    declared = sys.modules.get("runpod_flash.endpoint")
    if declared is None or not broken:
        return
    for value in [value for module in modules.values() for value in vars(module).values()]:
        if type(value) is declared.Endpoint:
            kept = [r for r in value._routes if r["function"].__code__.co_filename not in broken]
            value._routes[:] = kept


# A file's time


class _TooLongError(BaseException):
    """No `Exception`: files catch those."""


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Interrupt what has not ended by then. (Code that cannot be interrupted, the parent ends.)"""

    def interrupt(*_: object) -> None:
        raise _TooLongError(f"has not ended after {seconds:g} s")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# Problems


def _import_problem(root: Path, file: str, error: BaseException) -> Problem:
    if isinstance(error, SyntaxError) and error.filename == str(root / file):
        return syntax_problem(file, error)
    told = traceback.TracebackException.from_exception(error)
    _keep_users_frames(told, str(root))
    lines = [frame.lineno for frame in told.stack if frame.filename == str(root / file)]
    line = (lines[-1] if lines else 0) or 0
    where = f"{file}:{line}" if line else file
    return Problem(file, f"{where}: {_text(error)}", line, "".join(told.format()))


def _text(error: BaseException) -> str:
    """What has happened, in one line."""
    if isinstance(error, _TooLongError):
        return f"the import {error}; move what takes so long into a function"
    said = next(iter(str(error).strip().splitlines()), "")
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SystemExit):
        main = 'put the program\'s own part below if __name__ == "__main__"'
        return f"the import ends the program ({text}); {main}"
    return text


def _keep_users_frames(told: traceback.TracebackException, root: str) -> None:
    """Leave out the frames of libraries, of the import system and of Flash, also for causes."""
    pending: list[traceback.TracebackException | None] = [told]
    while pending:
        each = pending.pop()
        if each is not None:
            each.stack[:] = [frame for frame in each.stack if _is_users(frame.filename, root)]
            pending += [
                each.__cause__,
                each.__context__,
                *(getattr(each, "exceptions", None) or ()),
            ]


def _is_users(filename: str, root: str) -> bool:
    is_flash = filename.startswith(_FLASH)
    return _is_below(filename, root) and not is_flash


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
        tell({"catalog": Discoverer(root, tell, seconds, skipped).run().to_wire()})
    sys.stderr.flush()
    # Threads that a file has started must not keep this program.
    os._exit(0)
