"""Podman for tests: storage of its own, and a base image made of this machine's own files."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_podman = pytest.mark.skipif(
    shutil.which("podman") is None, reason="no Podman (Debian: apt install podman)"
)

# Limits above the caller's own need a privilege that root may lack where it is in a container.
_CONFIGURATION = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ACCOUNTS = {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n"}
# Libraries of any distribution, which wheels expect.
_USUAL = ("libdl", "libgcc_s", "libpthread", "libresolv", "librt", "libstdc++", "libutil")
_LEFT_OUT = re.compile(r"/(site-packages|dist-packages|__pycache__|test|config-[^/]*)$")


class Podman:
    """Runs `podman` on images and containers below `root`, apart from the user's own."""

    def __init__(self, root: Path) -> None:
        places = {
            "--root": root / "storage",
            "--runroot": root / "run",
            "--tmpdir": root / "libpod",
            "--network-config-dir": root / "networks",
        }
        self._command = ["podman", *(str(word) for place in places.items() for word in place)]
        configuration = root / "containers.conf"
        configuration.write_text(_CONFIGURATION)
        self._env = {**os.environ, "CONTAINERS_CONF": str(configuration)}

    def __call__(self, *arguments: str | Path) -> str:
        """What the command writes; it must succeed."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"podman {arguments[0]}: {done.stdout}"
        return done.stdout.strip()

    def close(self) -> None:
        """Leave no container, and nothing mounted."""
        self("rm", "--all", "--force", "--volumes")
        self("volume", "rm", "--all", "--force")
        self("image", "rm", "--all", "--force")


def machine_image(podman: Podman, folder: Path, name: str, *env: str) -> None:
    """An image of this machine's Python, for where no registry can be reached."""
    packed = folder / "base.tar"
    with tarfile.open(packed, "w", dereference=True) as tar:
        for path in _files():
            tar.add(path)
        for place, text in _ACCOUNTS.items():
            entry = tarfile.TarInfo(place)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("usr/local/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, str(_interpreter())
        tar.addfile(link)
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    changes = (f"--change=ENV {each}" for each in (f"PATH={_PATH}", *env))
    podman("import", *changes, packed, name)
    packed.unlink()


def _interpreter() -> Path:
    return Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}").resolve()


def _files() -> Iterator[Path]:
    """The interpreter, its library, what a Containerfile runs, and the libraries of all these."""
    programs = [_interpreter(), Path("/bin/sh"), Path(shutil.which("useradd") or "")]
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    modules: list[Path] = []
    for folder, folders, files in os.walk(library):
        folders[:] = [each for each in folders if not _LEFT_OUT.search(f"/{each}")]
        modules += [Path(folder, each) for each in files]
    extensions = [each for each in modules if each.suffix == ".so"]
    linked = _libraries(*programs, *extensions)
    libc = next(each for each in linked if each.name.startswith("libc."))
    usual = [found for each in _USUAL for found in libc.parent.glob(f"{each}.so.?")]
    yield from {*programs, *modules, *linked, *usual}


def _libraries(*programs: Path) -> set[Path]:
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return {Path(each) for each in re.findall(r"(?:=> |^\t)(/\S+) \(", told, re.MULTILINE)}
