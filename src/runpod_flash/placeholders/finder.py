"""Placeholders for absent packages that a project file imports at its top level.

One file may hold endpoints with different dependencies, so no single environment has all of its
imports. An absent package becomes an object that raises only when it is used. That happens only if

- the import statement stands at the top level of a file below a project root (not in a virtual
  environment, site-packages or hidden directory), outside of `if`, `try`, `with` and `for`;
- every other finder has failed, and the name's first part is absent, not in the standard library,
  not private, and not star-imported;
- the name is not one of the project's own modules or a near miss of one: beside the importing
  file, in the root or in its src/ lies no module or package of a name that `difflib` finds close.
  (A plural is no near miss: `transformers` is wanted even where there is a transformer.py.)

Placeholders stay in `sys.modules` only while their import statement runs. A later `try: import x`,
`importlib.util.find_spec("x")` or `"x" in sys.modules` therefore sees that x is absent, and a
package that is installed later is imported for real.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, cast

from runpod_flash.placeholders.import_statements import ImportStatement, running_import
from runpod_flash.placeholders.inert import InertModule
from runpod_flash.placeholders.objects import WHEN_CHILD_IS_SET, PlaceholderModule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_NOT_PROJECT = {"site-packages", "dist-packages", "node_modules", "__pycache__"}


def install(root: str, remedy: str, *, inert: bool = False) -> None:
    """Give placeholders to the files below `root`. `remedy` completes "... is not installed: ";
    "{package}" in it becomes the package's name. May be called again, also for other roots.

    `inert` ones do not raise when they are used: for reading what files declare, nothing else. The
    whole process stays so from then on.
    """
    for finder in sys.meta_path:
        if isinstance(finder, PlaceholderFinder):
            break
    else:
        finder = PlaceholderFinder()
        sys.meta_path.append(finder)
    finder.remedies[os.path.realpath(root)] = remedy
    finder.inert = finder.inert or inert
    finder.forget_files()


class PlaceholderFinder:
    """The last finder: it is asked for what no other has found."""

    def __init__(self) -> None:
        self.remedies: dict[str, str] = {}
        self.inert = False
        self._modules: dict[str, PlaceholderModule] = {}
        self._finished: set[tuple[object, ...]] = set()
        self._roots: dict[str, str | None] = {}
        self._absent: dict[tuple[str, str], bool] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # The file first: to look at the statement means to parse it, and most are a library's.
        statement = running_import(lambda file: self._root_of(file) is not None)
        if statement is None or not f"{statement.target}.".startswith(f"{fullname}."):
            return None
        root = self._root_of(statement.filename)
        if root is None or not self._is_absent(fullname, statement.filename, root):
            return None
        return self._spec(fullname, statement, self.remedies[root])

    def forget_files(self) -> None:
        """There is another root: a file may be of that one."""
        self._roots.clear()

    def create_module(self, spec: ModuleSpec) -> PlaceholderModule:
        # One object per name for all files, as for real modules.
        kind = InertModule if self.inert else PlaceholderModule
        module = kind(spec.name, str(spec.loader_state))
        return self._modules.setdefault(spec.name, module)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""

    def _spec(self, fullname: str, statement: ImportStatement, remedy: str) -> ModuleSpec:
        spec = _PlaceholderSpec(fullname, cast("Any", self), is_package=True, loader_state=remedy)
        if "." not in statement.target:
            spec.when_done = lambda: _forget(fullname)
        elif fullname == statement.target:
            # The import system still puts it into its parent, which must be there until then.
            parent = sys.modules[fullname.rpartition(".")[0]]
            vars(parent)[WHEN_CHILD_IS_SET] = lambda: self._finish(statement)
        elif "." not in fullname and statement.key in self._finished:
            # `import a.b.c` asks for `a` once more at its end.
            self._finished.discard(statement.key)
            spec.when_done = lambda: _forget(fullname)
        return spec

    def _finish(self, statement: ImportStatement) -> None:
        _forget(statement.target)
        if not statement.is_from:
            self._finished.add(statement.key)

    def _is_absent(self, fullname: str, filename: str, root: str) -> bool:
        if not self.inert or "." in fullname:
            return _is_absent_package(fullname, filename, root)
        # Many files of one folder import the same, and nothing is installed meanwhile.
        key = fullname, os.path.dirname(filename)  # noqa: PTH120
        if key not in self._absent:
            self._absent[key] = _is_absent_package(fullname, filename, root)
        return self._absent[key]

    def _root_of(self, filename: str) -> str | None:
        """The innermost root, if the file is one of its own."""
        if filename not in self._roots:
            self._roots[filename] = self._find_root(filename)
        return self._roots[filename]

    def _find_root(self, filename: str) -> str | None:
        real = os.path.realpath(filename)
        for root in sorted(self.remedies, key=len, reverse=True):
            if real.startswith(root.rstrip(os.sep) + os.sep):
                return root if _is_project_file(root, real) else None
        return None


class _PlaceholderSpec(ModuleSpec):
    """Tells when its module's loading is over: the import system then clears `_initializing`.

    Should it stop doing so, placeholders merely stay in `sys.modules`.
    """

    when_done: Any = None

    @property
    def _initializing(self) -> bool:
        return bool(self.__dict__.get("_loading"))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        loaded = self._initializing and not value
        self.__dict__["_loading"] = value
        if loaded and self.when_done is not None:
            self.when_done()


def _forget(name: str) -> None:
    """Take a placeholder and its parents out of `sys.modules`."""
    while name:
        if isinstance(sys.modules.get(name), PlaceholderModule):
            del sys.modules[name]
        name = name.rpartition(".")[0]


def _is_absent_package(fullname: str, filename: str, root: str) -> bool:
    top, _, rest = fullname.partition(".")
    if rest:  # below a package that exists, a missing module is a mistake
        return isinstance(sys.modules.get(fullname.rpartition(".")[0]), PlaceholderModule)
    if top.startswith("_") or top in sys.stdlib_module_names or top == "runpod_flash":
        return False
    return not _resembles_project_module(top, filename, root)


def _is_project_file(root: str, filename: str) -> bool:
    directories = os.path.relpath(filename, root).split(os.sep)[:-1]  # noqa: PTH206
    if any(part in _NOT_PROJECT or part.startswith(".") for part in directories):
        return False
    path = root
    for part in directories:
        path = os.path.join(path, part)  # noqa: PTH118 - strings all the way, as import uses them
        if os.path.exists(os.path.join(path, "pyvenv.cfg")):  # noqa: PTH110, PTH118
            return False
    return True


def _resembles_project_module(name: str, filename: str, root: str) -> bool:
    from difflib import get_close_matches

    own: set[str] = set()
    for directory in (os.path.dirname(filename), root, os.path.join(root, "src")):  # noqa: PTH118, PTH120
        try:
            own.update(_module_names(directory))
        except OSError:
            continue
    own = {module for module in own if module != f"{name}s" and name != f"{module}s"} | (
        own & {name}
    )
    return bool(get_close_matches(name, own, n=1, cutoff=0.8))


def _module_names(directory: str) -> set[str]:
    with os.scandir(directory) as entries:
        paths = [entry.path for entry in entries]
    return {
        os.path.basename(path).removesuffix(".py")  # noqa: PTH119
        for path in paths
        if path.endswith(".py") or os.path.exists(os.path.join(path, "__init__.py"))  # noqa: PTH110, PTH118
    }
