"""Every example is run as a person would run it, and prints what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

_HARDWARE = r"CPUs: \d+, GPUs: none"
_MAYBE_GPU = r"CPUs: all, GPUs: (none|[\d,]+)"


class Expected(NamedTuple):
    """Patterns: of all of standard output, and of a line on standard error."""

    output: str
    log: str = ""


EXPECTED = {
    "declare_hardware": Expected(
        f"cpu_by_name {_HARDWARE}\ncpu_by_enum {_HARDWARE}\n"
        f"one_model {_MAYBE_GPU}\none_group {_MAYBE_GPU}\npreferred {_MAYBE_GPU}\n"
    ),
    "pipeline": Expected(
        re.escape("{'Flash runs functions': [5, 4, 9], 'Workers come and go': [7, 4, 3, 2]}\n"),
        r"\[pipeline\] embedded 2 sentences",
    ),
    "queue_function": Expected(re.escape("{'the': 2, 'cat': 1}\nTrue {'two': 2}\n{'so': 2}\n")),
    "shared_volume": Expected("10 bytes written\nprediction: 30\n"),
    "stateful_class": Expected(
        re.escape("[1.0, 0.0, 0.0] cat\n[0.0, 0.0, 1.0] dog\n{'calls': 2, 'labels': 2}\n"),
        r"\[classifier\] loading weights for 2 labels",
    ),
    "tensor_processor": Expected(
        r"\{'mean_color': \[192\.0, 16\.0, 32\.0\], 'numpy': '[\d.]+'\}\n",
        r"\[tensor-processor\] received PPM, 8 x 8 pixels",
    ),
    "token_stream": Expected("token-0 token-1 token-2 token-3 token-4 \nagain-0\n"),
    "torch_device": Expected(r"\{'device': '.*4090.*'\}\n"),
}

# Run by a test of its own: PyTorch is a large download, and without a GPU it ends with an error.
_HEAVY = {"torch_device"}


def run(example: Path, data: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLASH_", "RUNPOD_"))}
    env = {**kept, "XDG_DATA_HOME": str(data), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, str(example)],
        env=env,
        cwd=data,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_every_example_has_an_expectation_and_every_expectation_an_example() -> None:
    assert {path.stem for path in EXAMPLES} == set(EXPECTED)


@pytest.mark.network
@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - _HEAVY))
def test_an_example_prints_what_it_should(name: str, tmp_path: Path) -> None:
    ended = run(ROOT / "examples" / f"{name}.py", tmp_path)
    expected = EXPECTED[name]
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(expected.output, ended.stdout), ended.stdout
    assert re.search(f"^{expected.log}$", ended.stderr, re.MULTILINE), ended.stderr


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(900)
def test_the_torch_example_prints_its_device_or_says_that_there_is_none(tmp_path: Path) -> None:
    ended = run(ROOT / "examples" / "torch_device.py", tmp_path, timeout=880)
    if "could not be reached" in ended.stderr:
        pytest.skip("no wheel of torch can be had here")
    if ended.returncode == 0:
        assert re.fullmatch(EXPECTED["torch_device"].output, ended.stdout), ended.stdout
        return
    assert "tensor-processor runs on the CPU" in ended.stderr
    assert re.search(r"^(AssertionError|RuntimeError): .*(CUDA|NVIDIA)", ended.stderr, re.MULTILINE)
    assert re.search(r"^flash: 'tensor-processor' asks for", ended.stderr, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.stem))
def test_importing_an_example_calls_nothing(example: Path, tmp_path: Path) -> None:
    code = f"import runpy; runpy.run_path({str(example)!r}, run_name='imported')"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
