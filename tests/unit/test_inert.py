"""Where files are read for their declarations, absent packages are things of no effect."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from unit import other_pythons

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
    import sys
    from runpod_flash.placeholders.finder import install
    install(sys.path[0], "no remedy", inert=True)
    install(sys.path[0], "no remedy")  # as importing Endpoint does
"""

USES = """
    import absent_torch as torch, os.path
    import absent_torch.nn.functional as F
    from absent_torch import nn, Tensor
    from absent_pydantic import BaseModel, Field, field_validator
    from absent_fastapi import Depends, Query
    from absent.deep import cached, traced, retry, Settings, VERSION, settings

    class Item(BaseModel):
        name: str = Field(..., max_length=3)
        size: int | None = Field(default=None)
        @field_validator("name")
        @classmethod
        def check(cls, value): return value
        @cached
        @property
        def area(self): return 1
    class Net(nn.Module, Settings, metaclass=type): ...
    class Both(dict, BaseModel, table=True): ...
    class Generic(BaseModel["T"]): ...
    class Nested(Item): ...

    @traced
    async def one(x: Tensor, y: "torch.nn.Module" = None): return x
    @retry(times=3)
    def two(item: Item = Depends(one), q: int = Query(1)): return 2
    @torch.no_grad()
    @settings.app.task(bind=True)
    def three() -> Tensor | None: return 3
    @cached
    class Four: ...

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = -torch.zeros(3, dtype=torch.float32)[0, :] @ F.relu(2) ** 2 // 3 + 1
    text = f"{weights:.2f} {torch.__version__} {device!r}"
    with torch.inference_mode() as mode:
        pass
    for batch in torch.utils.data.DataLoader(range(3)):
        raise AssertionError
    torch.backends.cudnn.benchmark = True
    settings["a"] = 1
    del settings["a"]
    path = os.path.join("data", settings.folder)
    numbers = [0] * len(weights) + list(range(settings.count)) + [int(VERSION), float(VERSION)]
"""


def run(root: Path, program: str, python: str = sys.executable) -> None:
    (root / "program.py").write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(program))
    done = other_pythons.run(python, "program.py", cwd=root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", other_pythons.pythons())
def test_whatever_a_file_does_with_them_at_its_top_level_goes_on(
    tmp_path: Path, python: str
) -> None:
    (tmp_path / "uses.py").write_text(textwrap.dedent(USES))
    program = """
        import asyncio, inspect
        import uses
        assert asyncio.run(uses.one(4)) == 4 and inspect.iscoroutinefunction(uses.one)
        assert uses.two() == 2 and uses.three() == 3
        assert isinstance(uses.Four, type) and isinstance(uses.Net, type)
        assert uses.Both(a=1) is not None and uses.Nested(name="x").name == "x"
        assert inspect.signature(uses.two).parameters["q"].default is not None
        assert isinstance(vars(uses.Item)["check"], classmethod)
        assert isinstance(vars(uses.Item)["area"], property)
        assert not uses.device and not uses.weights > 3
        assert not isinstance(3, uses.Tensor)
        assert uses.text.endswith("0.0.0 <absent>") and uses.numbers == [0, 0.0]
    """
    run(tmp_path, program, python)


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import absent\nexcept ImportError:\n    absent = None\nassert absent is None",
        "def f():\n    import absent\ntry:\n    f()\nexcept ImportError:\n    no = 1\nassert no",
        "import absent\nimport sys\nassert 'absent' not in sys.modules",
        "import absent\nimport importlib.util as u\nassert u.find_spec('absent') is None",
    ],
)
def test_whether_a_package_is_there_can_still_be_asked(tmp_path: Path, source: str) -> None:
    (tmp_path / "asks.py").write_text(source)
    run(tmp_path, "import asks")


def test_a_misspelled_module_of_the_project_is_no_absent_package(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("")
    (tmp_path / "one.py").write_text("import helperz")
    (tmp_path / "two.py").write_text("import helperz")
    program = """
        for name in ("one", "two"):
            try:
                __import__(name)
            except ModuleNotFoundError as error:
                assert error.name == "helperz", error
            else:
                raise AssertionError(name)
    """
    run(tmp_path, program)


def test_a_library_s_own_failed_import_costs_no_look_at_its_source(tmp_path: Path) -> None:
    program = """
        from runpod_flash.placeholders import import_statements
        seen = []
        parse = import_statements._top_level_imports
        import_statements._top_level_imports = lambda *given: seen.append(given[0]) or parse(*given)
        import absent
        sys.path.append(LIBRARY)
        import library
        assert [name.rpartition("/")[2] for name in seen] == ["program.py"], seen
    """
    library = tmp_path / "elsewhere/library.py"
    library.parent.mkdir()
    library.write_text("try:\n    import absent2\nexcept ImportError:\n    pass\n")
    root = tmp_path / "project"
    root.mkdir()
    run(root, program.replace("LIBRARY", repr(str(library.parent))))
