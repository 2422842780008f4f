"""What a minder knows of its children. Each test is a program of its own, which has no others."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

START = """
import os, signal, time
from runpod_flash.engines.local.processes import own_process
from runpod_flash.engines.local.processes.children import Waker, _is_child, children, kill, reap

def child(name=b"child"):
    pid = os.fork()
    if pid == 0:
        own_process.prctl(own_process.PR_SET_NAME, name)
        os.write(tell, b".")
        time.sleep(1000)
    os.read(told, 1)
    return pid

told, tell = os.pipe()
"""


def run(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", START + program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_each_end_wakes_and_is_reaped_once() -> None:
    run("""
waker, first, second = Waker(), child(), child()
assert set(children()) == {first, second}
assert kill(first)
assert waker.wait((), 20) == set()
assert reap() == ([(first, signal.SIGKILL)], True)
assert reap() == ([], True)
assert kill(second)
assert waker.wait((), 20) == set()
assert reap() == ([(second, signal.SIGKILL)], False)
assert not children() and not kill(first)
""")


def test_a_child_is_known_whatever_its_name_and_a_grandchild_is_none() -> None:
    run("""
pid = child(b"a) R 1 (b")
grandchild = child()
assert _is_child(str(pid))
assert not _is_child("1") and not _is_child(str(os.getpid()))
assert not _is_child(str(os.getppid()))
kill(pid)
kill(grandchild)
""")
