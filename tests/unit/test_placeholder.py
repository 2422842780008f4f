"""Absent packages that a project file imports at its top level raise only when they are used."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from unit import other_pythons

if TYPE_CHECKING:
    import pathlib
    import subprocess

PRELUDE = """
import sys
from runpod_flash.placeholders.finder import install
install(sys.path[0], 'add "{package}" to dependencies=[...]')
install(sys.path[0], 'add "{package}" to dependencies=[...]')
assert sum(type(f).__name__ == "PlaceholderFinder" for f in sys.meta_path) == 1
assert type(sys.meta_path[-1]).__name__ == "PlaceholderFinder"
def fails(action, kind, *words):
    try:
        action()
    except Exception as error:
        assert type(error).__name__ == kind, repr(error)
        for word in words:
            assert word in str(error), error
    else:
        raise AssertionError("nothing was raised")
"""


def run(
    root: pathlib.Path, program: str, python: str = sys.executable, **files: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in `root` with modules beside it; a `__` in a name is a directory."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (root / "main_program.py").write_text(PRELUDE + textwrap.dedent(program))
    return other_pythons.run(python, "main_program.py", cwd=root)


def succeeds(root: pathlib.Path, program: str, python: str = sys.executable, **files: str) -> None:
    done = run(root, program + "\nprint('fine')", python, **files)
    assert done.stdout == "fine\n", done.stderr


FORMS = """
    import absent1, os, absent2 as two
    import absent1.nn.functional as F
    import absent3.b.c
    import absent3.b.d, absent3.e
    from absent1 import nn, Tensor
    from absent4.deep.er import (
        thing,
        other as another,
    )
    def f(x: absent1.Tensor, y: "absent2.x" = absent1.float32, z: nn.Module | None = None): ...
    values: absent3.NDArray[absent1.float32] = None
    assert F is absent1.nn.functional and absent3.b.c is not absent3.b.d
"""


@pytest.mark.parametrize("python", other_pythons.pythons())
def test_every_form_of_import_gives_a_lazy_placeholder(tmp_path: pathlib.Path, python: str) -> None:
    program = """
    import user
    for use in [
        lambda: user.nn.Linear(3), lambda: user.nn.functional + 1, lambda: list(user.Tensor),
        lambda: bool(user.Tensor), lambda: user.Tensor[0], lambda: user.Tensor["a"],
        lambda: user.thing.x.__enter__(), lambda: isinstance(1, user.Tensor),
        lambda: type("C", (), {}) if user.Tensor < 1 else 0, lambda: 1 - user.Tensor,
        lambda: exec("class Net(nn.Module): pass", {"nn": user.nn}),
        lambda: exec("with no_grad: pass", {"no_grad": user.absent1.no_grad}),
        lambda: exec("@no_grad\\ndef f(): pass", {"no_grad": user.absent1.no_grad}),
    ]:
        fails(use, "MissingDependencyError", "is not installed", "to dependencies=[...]", "absent")
    fails(lambda: user.nn.Linear(3), "MissingDependencyError", "absent1.nn.Linear", 'add "absent1"')
    assert user.absent1.nn.functional.softmax and user.another
    assert not [name for name in sys.modules if name.startswith("absent")], sys.modules.keys()
    """
    succeeds(tmp_path, program, python, user=FORMS)


def test_placeholders_do_not_confuse_introspection_pickle_or_typing(
    tmp_path: pathlib.Path,
) -> None:
    program = """
    import copy, inspect, pickle, typing
    import user
    nn, Tensor = user.nn, user.Tensor
    assert not hasattr(Tensor, "__wrapped__") and not hasattr(nn, "__file__")
    assert not inspect.isclass(Tensor) and inspect.unwrap(Tensor) is Tensor
    assert typing.get_type_hints(user.f)["x"]._flash_name == "Tensor"
    assert repr(pickle.loads(pickle.dumps(Tensor))) == "<absent absent1.Tensor>" == str(Tensor)
    assert repr(pickle.loads(pickle.dumps(user.F))) == "<absent module 'absent1.nn.functional'>"
    assert Tensor == copy.copy(Tensor) or Tensor is not None
    inspect.getmembers(user); dir(Tensor); hash(Tensor); f"{Tensor}"; vars(user.absent1)
    """
    succeeds(tmp_path, program, user=FORMS)


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import absent1\nexcept ZeroDivisionError: pass",
        "try: import absent1\nexcept ZeroDivisionError: pass",
        "if True:\n    import absent1",
        "if True: import absent1",
        "with open(__file__):\n    import absent1",
        "def f():\n    import absent1\nf()",
        "def f(): import absent1\nimport os; f()",
        "class C:\n    import absent1",
        "for _ in [1]:\n    import absent1",
        "import importlib; importlib.import_module('absent1')",
        "import importlib\nimportlib.import_module('absent1')",
        "__import__('absent1')",
        "import absent1\ntry:\n    import absent1\nexcept ZeroDivisionError: pass",
        "import absent1\ndef f():\n    import absent1\nf()",
        "import absent1.b.c\nif True:\n    import absent1.b",
        "from absent1 import *",
        "import helperz",
        "from . import absent1",
        "import helper.sub",
        "import present.absent",
        "import _private",
        "import msvcrt",
        "exec('import absent1')",
        "import hlper",
    ],
)
def test_any_other_import_fails_as_usual(tmp_path: pathlib.Path, source: str) -> None:
    (tmp_path / "present").mkdir()
    (tmp_path / "present" / "__init__.py").write_text("")
    done = run(tmp_path, "import user", user=source, helper="")

    expected = "ImportError" if source.startswith("from .") else "ModuleNotFoundError"
    assert done.returncode == 1 and expected in done.stderr.splitlines()[-1], done.stderr


def test_a_plural_of_a_sibling_is_a_package_of_its_own(tmp_path: pathlib.Path) -> None:
    succeeds(tmp_path, "import user", user="import absent_transformers", absent_transformer="")


@pytest.mark.parametrize("place", ["lib__site-packages", ".hidden", "venv"])
def test_files_of_packages_and_environments_fail_as_usual(
    tmp_path: pathlib.Path, place: str
) -> None:
    directory = tmp_path / place.replace("__", "/")
    directory.mkdir(parents=True)
    (directory / "pyvenv.cfg").write_text("")
    (directory / "library.py").write_text("import absent1\n")

    succeeds(
        tmp_path,
        f"""
        sys.path.append({str(directory)!r})
        fails(lambda: __import__("library"), "ModuleNotFoundError", "absent1")
        """,
    )


def test_others_see_that_the_package_is_absent_and_find_it_once_installed(
    tmp_path: pathlib.Path,
) -> None:
    program = """
    import importlib, importlib.util, os
    import user
    assert "absent1" not in sys.modules and importlib.util.find_spec("absent1") is None
    os.makedirs("absent1/nn")
    for name in ("absent1/__init__.py", "absent1/nn/__init__.py", "absent1/nn/functional.py"):
        open(name, "w").write("real = 1")
    importlib.invalidate_caches()
    import absent1.nn
    assert absent1.real and absent1.nn.real
    """
    succeeds(tmp_path, program, user="import absent1\nimport absent1.nn.functional\nabsent1.nn")


def test_two_files_share_one_placeholder(tmp_path: pathlib.Path) -> None:
    program = "import user, other\nassert user.absent1 is other.absent1 and user.b is other.b"
    text = "import absent1.b as b\nimport absent1"
    succeeds(tmp_path, program, user=text, other=text)


def test_the_running_script_itself_may_import_absent_packages(tmp_path: pathlib.Path) -> None:
    succeeds(
        tmp_path,
        "import absent1\nfails(lambda: absent1.go(), 'MissingDependencyError', 'absent1.go')",
    )


def test_a_real_module_that_fails_inside_is_not_hidden(tmp_path: pathlib.Path) -> None:
    program = "fails(lambda: __import__('user'), 'ZeroDivisionError')"
    succeeds(tmp_path, program, user="import broken", broken="1 / 0")
