"""The README is true: its programs run, its picture is what a run looks like, its links lead on."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

OUTPUTS = [
    "{'mean_color': [192.0, 16.0, 32.0]}\n",
    "",
    "2\n[0, 2, 4, 6]\n42\n0\n1\n2\n10\n",
]


def run(program: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLASH_", "RUNPOD_"))}
    return subprocess.run(
        [sys.executable, str(program)],
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_program_of_the_readme_has_an_expected_output() -> None:
    assert len(PROGRAMS) == len(OUTPUTS)


@pytest.mark.network
@pytest.mark.parametrize(("program", "output"), list(zip(PROGRAMS, OUTPUTS, strict=False)))
def test_a_program_of_the_readme_prints_what_it_should(
    program: str, output: str, tmp_path: Path
) -> None:
    file = tmp_path / "app.py"
    file.write_text(program)
    ended = run(file)
    assert (ended.returncode, ended.stdout) == (0, output), ended.stderr


@pytest.mark.network
def test_the_picture_shows_what_the_demo_prints() -> None:
    code = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    printed = code["run"]()
    if not any("runs on the CPU" in line for line in printed):
        pytest.skip("the picture is of a machine without that GPU")
    shown, drawn = texts((ROOT / "docs" / "run.svg").read_text()), texts(code["drawn"](printed))
    assert _plain(shown) == _plain(drawn), "renew it with `python docs/picture.py`"


def test_charts_and_tables_are_of_the_results_beside_them() -> None:
    code = runpy.run_path(str(ROOT / "bench" / "charts.py"))
    for file, draw in code["CHARTS"].items():
        assert file.read_text() == draw(), f"renew {file.name} with `python bench/charts.py`"
    page = (ROOT / "bench" / "README.md").read_text()
    assert page == code["filled"](page), "renew the tables with `python bench/charts.py`"
    shown = set(re.findall(r"<!-- results/(\w+)\.json -->", page))
    assert shown >= {file.stem for file in (ROOT / "bench" / "results").glob("*.json")}


def texts(svg: str) -> str:
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return "\n".join("".join(text.itertext()) for text in found)


def _plain(text: str) -> str:
    """Without what differs from run to run: times, sizes, versions."""
    text = re.sub(r"'numpy': '[\d.]+'", "'numpy': 'N'", text)
    return re.sub(r"python \d\.\d+|\d+(\.\d+)? (s|[MG]B)\b", "N", text)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"],
    ids=lambda page: str(page.name),
)  # fmt: skip
def test_links_inside_the_project_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not heading or heading in _headings(file), target


def _headings(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in found}


def test_the_installation_does_not_name_a_package_of_an_index() -> None:
    installs = re.findall(r"^ {4}(?:uv )?pip install (.+)$", README, re.MULTILINE)
    assert installs == ["."]
