"""The usage patterns of the hosted SDK's documents, 1 to 25, after one `flash deploy`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from behaviour.programs import PRELUDE
from behaviour.servers import server
from behaviour.test_usage_patterns import PATTERNS, source_of
from e2e.shop import Shop
from e2e.test_usage_patterns_served import FILES, PROGRAM, SLOW, check_files_routes_and_pipelines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


# (The image that it names cannot be had; test_vllm.py has one that can.)
IMAGE = next(pattern for pattern in PATTERNS if pattern.startswith("20 "))
WITHOUT_IMAGES = [pattern for pattern in PATTERNS if pattern != IMAGE]


def script_of(pattern: str) -> str:
    return f"pattern_{pattern.split()[0]}.py"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("server")
    files = {script_of(pattern): PRELUDE + source_of(pattern) for pattern in WITHOUT_IMAGES}
    # By their ids, programs reach what is deployed under another name as well.
    program = PROGRAM.replace('id="', 'id="shop-production-')
    files |= {**FILES, "slow.py": SLOW, "program.py": program, "pyproject.toml": ""}
    with server(folder, shared_cache) as running:
        made = Shop(folder / "shop", running, files)
        made.deploy()
        yield made


def run(shop: Shop, script: str) -> str:
    """What a program of the project prints."""
    environ = {**os.environ, **shop.env}
    done = subprocess.run(
        [sys.executable, script],
        cwd=shop.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "differs from that on disk" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("pattern", WITHOUT_IMAGES)
def test_the_pattern_runs_on_what_is_deployed(shop: Shop, pattern: str) -> None:
    assert run(shop, script_of(pattern)) == '{"ok": true}\n'
    folders = [each.name for each in shop.target.apps()]
    assert all(name.startswith("deployed-") for name in folders), "the program has brought nothing"


def test_an_image_that_cannot_be_had_is_said_by_the_deploy(shop: Shop) -> None:
    files = {script_of(IMAGE): PRELUDE + source_of(IMAGE), "pyproject.toml": ""}
    done = Shop(shop.folder.parent / "images", shop.target, files).flash("deploy")
    assert done.returncode == 1
    assert "container engine" in done.stderr or "localhost:1/vllm" in done.stderr


def test_files_routes_and_pipelines_are_served_as_the_documents_say(shop: Shop) -> None:
    check_files_routes_and_pipelines(f"{shop.target.address}/d/shop-production")


def test_programs_call_what_is_deployed_by_import_and_by_id(shop: Shop) -> None:
    assert run(shop, "program.py") == "all right\n"
