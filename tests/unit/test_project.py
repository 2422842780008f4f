"""Where a project begins, which code belongs to an endpoint, and when that code has changed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.errors import ConfigurationError
from runpod_flash.project.closure import closure_digest, find_closure
from runpod_flash.project.entry import entry_kind, locate
from runpod_flash.project.root import find_root, search_path

if TYPE_CHECKING:
    from collections.abc import Iterator


def write(root: Path, **files: str) -> Path:
    """`a__b="x"` is the file a/b.py with the text x; `__init__` keeps its name."""
    for name, text in files.items():
        path = root / (name.replace("___init__", "/__init__").replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").touch()
    return root


@pytest.fixture
def clean_modules() -> Iterator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    sys.modules.clear()
    sys.modules.update(modules)
    sys.path[:] = path


# The root


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git"])
def test_the_nearest_marked_folder_is_the_root(tmp_path: Path, mark: str) -> None:
    inner = tmp_path / "outer" / "inner" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / ".git").mkdir()
    (tmp_path / "outer" / "inner" / mark).touch()
    assert find_root(inner) == tmp_path / "outer" / "inner"


@pytest.mark.parametrize("linked", [False, True])
def test_the_home_directory_is_never_the_root_nor_anything_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    home = tmp_path / "home" / "me"
    scripts = home / "scripts"
    scripts.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "home", home):
        (folder / ".git").mkdir()
    monkeypatch.setenv("HOME", str(home))
    if linked:
        (tmp_path / "link").symlink_to(tmp_path / "home")
        monkeypatch.setenv("HOME", str(tmp_path / "link" / "me"))
        scripts = tmp_path / "link" / "me" / "scripts"
    assert find_root(scripts) is None
    assert find_root(home) is None


def test_a_user_without_a_home_has_projects_all_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert find_root(project) == project


def test_no_mark_no_root(tmp_path: Path) -> None:
    found = find_root(tmp_path)
    assert found is None or not found.is_relative_to(tmp_path)


def test_the_search_path_is_what_lies_inside_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("src", "lib", ".venv/lib/site-packages", "scripts"):
        (project / folder).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    entries = ["src", "src/../lib", "../elsewhere", ".venv/lib/site-packages", "gone", "src"]
    monkeypatch.setattr(sys, "path", [str(project / entry) for entry in entries])
    assert search_path(project) == ("src", "lib", ".")


# The closure


def closure(root: Path, file: str = "main.py", *path: str) -> tuple[str, ...]:
    found = find_closure(root, file, path or (".",))
    assert found.exact
    return found.files


def test_a_file_without_imports_is_its_own_closure(project: Path) -> None:
    write(project, main="x = 1", other="")
    assert closure(project) == ("main.py",)


def test_imports_are_followed_through_modules_packages_and_functions(project: Path) -> None:
    write(
        project,
        main="import a\ndef f():\n    from pkg.sub import thing\n    import pkg.other as o",
        a="import json, b",
        b="import a",
        unused="",
        pkg___init__="",
        pkg__in__sub___init__="from . import near",
        pkg__in__sub__in__near="",
        pkg__in__sub__in__thing="from ..far import x",
        pkg__in__far="",
        pkg__in__other="",
        pkg__in__unused="",
    )
    assert closure(project) == (
        "a.py", "b.py", "main.py", "pkg/__init__.py", "pkg/far.py", "pkg/other.py",
        "pkg/sub/__init__.py", "pkg/sub/near.py", "pkg/sub/thing.py",
    )  # fmt: skip


def test_the_packages_that_the_entry_itself_is_in_belong_to_it(project: Path) -> None:
    write(
        project,
        pkg___init__="import extra",
        pkg__in__sub___init__="",
        pkg__in__sub__in__jobs="",
        extra="",
    )
    files = closure(project, "pkg/sub/jobs.py")
    assert files == ("extra.py", "pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/jobs.py")


def test_modules_are_found_on_the_project_s_own_search_path(project: Path) -> None:
    write(project, main="import helper", src__in__helper="", lib__in__helper="")
    assert closure(project, "main.py", "src", ".") == ("main.py", "src/helper.py")


def test_namespace_packages_and_star_imports_are_followed(project: Path) -> None:
    write(project, main="from space.mod import *", space__in__mod="")
    assert closure(project) == ("main.py", "space/mod.py")


@pytest.mark.parametrize("line", ["from ......... import x", "from ... import outside"])
def test_relative_imports_that_lead_out_of_the_project_are_not_followed(
    project: Path, tmp_path: Path, line: str
) -> None:
    write(tmp_path, outside="")
    write(project, pkg__in__main=line)
    assert closure(project, "pkg/main.py") == ("pkg/main.py",)


def test_a_file_that_is_not_python_is_no_error(project: Path) -> None:
    write(project, main="import broken, binary", broken="def (")
    (project / "binary.py").write_bytes(b"\0\xff")
    assert closure(project) == ("binary.py", "broken.py", "main.py")


@pytest.mark.parametrize(
    "line",
    [
        "importlib.import_module('plugin')",
        "__import__('plugin')",
        "importlib.import_module('.plugin', __package__)",
        "importlib.import_module('.plugin', package=__package__)",
    ],
)
def test_a_dynamic_import_of_a_literal_name_is_followed(project: Path, line: str) -> None:
    write(project, main=line, plugin="", other="")
    assert closure(project) == ("main.py", "plugin.py")


@pytest.mark.parametrize(
    "line",
    [
        "importlib.import_module(name)",
        "__import__(f'{a}.b')",
        "importlib.import_module('.x', package=other)",
        "runpy.run_path('scripts/x.py')",
        "importlib.util.spec_from_file_location('x', path)",
        "pkgutil.iter_modules(['plugins'])",
    ],
)
def test_what_only_running_could_tell_takes_the_whole_tree(project: Path, line: str) -> None:
    write(project, main="import dyn", dyn=line, far__in__away="", node_modules__in__x="")
    write(project / ".venv", lib="")
    found = find_closure(project, "main.py", ["."])
    assert not found.exact
    assert found.files == ("dyn.py", "far/away.py", "main.py")


def test_the_whole_tree_is_without_virtual_environments(project: Path) -> None:
    write(project, main="__import__(name)", far__in__away="")
    write(project / "myenv" / "lib", torch="")
    (project / "myenv" / "pyvenv.cfg").touch()
    found = find_closure(project, "main.py", ["."])
    assert found == (("far/away.py", "main.py"), False)


def test_a_folder_that_nothing_marks_is_never_taken_whole(tmp_path: Path) -> None:
    write(tmp_path, main="import known\n__import__(name)", known="", private="")
    found = find_closure(tmp_path, "main.py", ["."])
    assert found == (("known.py", "main.py"), False)


def test_the_closure_s_digest_follows_its_files_and_no_others(project: Path) -> None:
    write(project, main="import a", a="x = 1", b="x = 1")
    digest = closure_digest(project, "main.py", ["."])
    write(project, b="x = 2")
    assert closure_digest(project, "main.py", ["."]) == digest
    write(project, a="x = 2")
    assert closure_digest(project, "main.py", ["."]) != digest


def test_the_digest_passes_over_what_cannot_be_read(project: Path) -> None:
    write(project, main="__import__(name)")
    digest = closure_digest(project, "main.py", ["."])
    (project / "old.py").symlink_to("nowhere.py")
    assert closure_digest(project, "main.py", ["."]) == digest
    nothing = closure_digest(project, "old.py", ["."])
    assert closure_digest(project, "gone.py", ["."]) == nothing


def test_the_digest_is_the_same_wherever_the_project_lies(project: Path, tmp_path: Path) -> None:
    write(project, main="import a", a="")
    digest = closure_digest(project, "main.py", ["."])
    project.rename(tmp_path / "moved")
    assert closure_digest(tmp_path / "moved", "main.py", ["."]) == digest


# Entries


def load(project: Path, module: str, place: str = "") -> Any:
    sys.path.insert(0, str(project / place))
    importlib.invalidate_caches()
    return importlib.import_module(module)


@pytest.mark.usefixtures("clean_modules")
@pytest.mark.parametrize(
    ("file", "module", "place"),
    [
        ("entry_mod", "entry_mod", ""),
        ("entry_pkg__in__sub__in__mod", "entry_pkg.sub.mod", ""),
        ("src__in__entry_pkg2__in__mod", "entry_pkg2.mod", "src"),
        ("src__in__entry_pkg3___init__", "entry_pkg3", "src"),
    ],
)
def test_a_function_in_a_file_is_found_by_root_module_and_name(
    project: Path, file: str, module: str, place: str
) -> None:
    write(project, **{file: "def f(): ..."})
    entry = locate(load(project, module, place).f, "endpoint")
    assert (entry.root, entry.module, entry.qualname) == (str(project), module, "f")
    assert (project / entry.file).is_file()
    assert (place or ".") in entry.search_path
    assert not entry.by_value


@pytest.mark.usefixtures("clean_modules")
def test_what_no_worker_could_find_is_refused(project: Path) -> None:
    write(project, entry_inner="def outer():\n    def f(): ...\n    return f")
    module = load(project, "entry_inner")
    with pytest.raises(ConfigurationError, match="inside a function"):
        locate(module.outer(), "endpoint")
    homeless = module.outer
    homeless.__module__ = "json_that_is_not_there"
    with pytest.raises(ConfigurationError, match="no file"):
        locate(homeless, "endpoint")


def test_kinds_are_told_apart() -> None:
    def function() -> None: ...

    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> Any:
        yield 1

    kinds = [entry_kind(f) for f in (function, coroutine, generator, async_generator, Path)]
    assert kinds == ["function", "function", "generator", "generator", "class"]


# By value

HEAD = """
from runpod_flash.project.entry import code_digest
from runpod_flash.spec import Entry
import datetime, functools, json, logging
from json import dumps
"""
TAIL = "\nprint(code_digest(f, Entry('__main__', 'f', value=b'')))"


def digest_of(code: str, seed: str = "1") -> str:
    """The digest of `f` in a session that was typed in (a process of its own)."""
    run = subprocess.run(
        [sys.executable, "-c", HEAD + code + TAIL],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


WHOLE = """
LIMITS = {"a": 1, "b": [1, 2.5, None]}
NAMES = {"x", "y", "z", "w"}
log = logging.getLogger("x")
class Base:
    def inherited(self): return 1
class Helper(Base):
    size = 3
    @staticmethod
    def static(x): return x in {"p", "q", "r", "s"}
    @property
    def prop(self): return self.size
def helper(x): return [Helper.static(y) for y in x]
def f(n=3, *, m={"k"}):
    log.info("hello")
    return dumps(helper(NAMES)), (lambda: LIMITS)(), datetime.date(2020, 1, 1)
"""


def test_the_digest_of_a_typed_in_function_is_stable_from_run_to_run() -> None:
    assert digest_of(WHOLE, "1") == digest_of(WHOLE, "2")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.5", "2.6"),
        ('"w"}', '"v"}'),
        ("size = 3", "size = 4"),
        ('"s"}', '"t"}'),
        ("return self.size", "return -self.size"),
        ("def inherited(self): return 1", "def inherited(self): return 2"),
        ("Helper.static(y)", "Helper().prop"),
        ("n=3", "n=4"),
        ('m={"k"}', 'm={"l"}'),
        ('"hello"', '"bye"'),
        ("(lambda: LIMITS)", "(lambda: NAMES)"),
    ],
)
def test_the_digest_changes_with_whatever_the_function_uses(old: str, new: str) -> None:
    assert old in WHOLE
    assert digest_of(WHOLE) != digest_of(WHOLE.replace(old, new))


def test_the_digest_does_not_change_with_what_the_function_does_not_use() -> None:
    assert digest_of(WHOLE) == digest_of("unused = 1\n" + WHOLE + "def other(): ...")


def test_arrays_and_times_count_by_their_content() -> None:
    code = "import numpy\ntable = numpy.arange({})\nwhen = datetime.date(2020, 1, {})\n"
    code += "def f(): return table, when"
    made = [digest_of(code.format(n, day)) for n, day in [(3, 1), (3, 1), (4, 1), (3, 2)]]
    assert made[0] == made[1]
    assert len(set(made)) == 3


@pytest.mark.parametrize(
    "code",
    [
        "a = []\na.append(a)\ndef f(): return a",
        "def f(): return f",
        "class f:\n    def me(self): return f",
        "import numpy.testing\nfrom numpy.testing import assert_allclose\n"
        "def f(): assert_allclose(1, 1)",
        "def outer():\n    def f(): return late\n    if False: late = 1\n    return f\nf = outer()",
        "@functools.lru_cache\ndef f(): return 1",
        "g = functools.partial(int, base=2)\ndef f(): return g('1')",
    ],
)
def test_odd_functions_have_a_digest_too(code: str) -> None:
    assert digest_of(code, "1") == digest_of(code, "2")
