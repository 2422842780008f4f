"""Type checkers on what users write: they pass what is right and flag what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runpod_flash

# Not a .py file: the repository's own checks would stumble over what is wrong on purpose.
SAMPLE = Path(__file__).with_name("typing_sample.txt").read_text(encoding="utf-8")
SOURCE = Path(runpod_flash.__file__).parents[1]
WRONG = {n for n, line in enumerate(SAMPLE.splitlines(), 1) if line.endswith("# wrong")}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    file = tmp_path / "sample.py"
    file.write_text(SAMPLE, encoding="utf-8")
    settings = {"extraPaths": [str(SOURCE)], "typeCheckingMode": "strict"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return file


def run(folder: Path, *command: str) -> str:
    environ = {"MYPYPATH": str(SOURCE), "PATH": str(Path(sys.executable).parent)}
    found = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert found.stderr == ""
    return found.stdout


def test_the_sample_has_right_and_wrong_lines() -> None:
    assert len(WRONG) > 20
    assert SAMPLE.count("assert_type") > 15


def test_mypy_flags_exactly_the_wrong_lines(sample: Path) -> None:
    options = ("--strict", "--follow-imports=silent", "--no-error-summary")
    output = run(sample.parent, "mypy", *options, sample.name)
    errors = {
        int(line): text for line, text in re.findall(r"sample\.py:(\d+): error: (.*)", output)
    }
    assert set(errors) == WRONG, output


def test_pyright_flags_exactly_the_wrong_lines(sample: Path) -> None:
    output = run(sample.parent, "basedpyright", "--outputjson", "--level", "error", sample.name)
    found = json.loads(output)["generalDiagnostics"]
    errors = {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"}
    assert errors == WRONG, output
