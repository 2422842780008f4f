"""The modules of a project while its files are imported: each file is one, by whatever name."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING

from runpod_flash.wire.module_names import module_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_PACKAGE_FOLDERS = ("/site-packages/", "/dist-packages/")


class ProjectModules(PathFinder):
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
        name, path = module_of(file), self._prefix + file
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
            if self._is_own(place) and module_of(place.removeprefix(self._prefix)) != name:
                self._hidden[name] = sys.modules.pop(name)

    def show_all(self) -> None:
        """Give the names back: annotations are looked up by their module's name."""
        for name, module in self._hidden.items():
            sys.modules.setdefault(name, module)

    def _is_own(self, place: str | None) -> bool:
        return place is not None and is_below(place, self._root)


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


def is_below(place: str, root: str) -> bool:
    """Whether it is the project's own, and not of a virtual environment in it."""
    inside = place.startswith(root.rstrip("/") + "/")
    return inside and not any(part in place for part in _PACKAGE_FOLDERS)


def _place_of(module: ModuleType) -> str:
    """The file of a module, or the folder of a namespace. (Some things there are no modules.)"""
    known = getattr(module, "__dict__", {})
    try:
        return str(known.get("__file__") or next(iter(known.get("__path__", ())), ""))
    except Exception:  # a namespace below a package that is gone
        return ""
