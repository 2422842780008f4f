"""The systemd unit is one, and starts `flash server` with options that it has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runpod_flash.engines.docker.sweeping import LOCK_DIR as PLANE_LOCKS
from runpod_flash.engines.local.devices.gpu_pool import LOCK_DIR as GPU_LOCKS
from unit.command_line import flash

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "flash.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_passes_systemds_own_check(tmp_path: Path) -> None:
    # (A user and a program that are there; the rest as it is.)
    text = UNIT.read_text().replace("/opt/flash/bin/flash", sys.executable)
    unit = tmp_path / "flash.service"
    unit.write_text(re.sub(r"^User=.*\n", "", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "flash.service" not in done.stderr


def test_the_unit_gives_options_that_the_command_has() -> None:
    command = re.search(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert command is not None
    known = set(re.findall(r"--[a-z-]+", flash("server", "--help").stdout))
    given = set(re.findall(r"--[a-z-]+", command[1]))
    assert given
    assert given <= known


def test_the_server_has_the_machine_s_own_folder_of_locks_and_can_write_to_it() -> None:
    given = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert given.get("PrivateTmp", "no") == "no"
    # (ProtectSystem=strict leaves all else read-only.)
    writable = [Path(each) for each in given["ReadWritePaths"].split()]
    for locks in (GPU_LOCKS, PLANE_LOCKS):
        assert set(writable) & {*locks.parents}
