"""Podman for tests: storage of its own, and a base image made of this machine's own files."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import textwrap
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
_REGISTRIES = 'unqualified-search-registries = ["docker.io"]\n'
_INSECURE = '[[registry]]\nlocation = "{}"\ninsecure = true\n'
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ACCOUNTS = {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n"}
# Libraries of any distribution, which wheels expect.
_USUAL = ("libdl", "libgcc_s", "libpthread", "libresolv", "librt", "libstdc++", "libutil")
_LEFT_OUT = re.compile(r"/(site-packages|dist-packages|__pycache__|test|config-[^/]*)$")


class Podman:
    """Runs `podman` on images and containers below `root`, apart from the user's own.

    `serve` has it answer as Docker does, at `address`; `insecure` are registries without TLS.
    """

    def __init__(self, root: Path, insecure: Sequence[str] = ()) -> None:
        # (Podman takes no long name for this one.)
        self._run = Path(tempfile.mkdtemp(prefix="run-"))
        places = {
            "--root": root / "storage",
            "--runroot": self._run,
            "--tmpdir": root / "libpod",
            "--network-config-dir": root / "networks",
        }
        self._command = ["podman", *(str(word) for place in places.items() for word in place)]
        configuration = root / "containers.conf"
        configuration.write_text(_CONFIGURATION)
        registries = root / "registries.conf"
        registries.write_text(_REGISTRIES + "".join(_INSECURE.format(each) for each in insecure))
        self._env = {
            **os.environ,
            "CONTAINERS_CONF": str(configuration),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
        }
        self._socket = root / "engine.sock"
        self._service: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: str | Path) -> str:
        """What the command writes; it must succeed."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"podman {arguments[0]}: {done.stdout}"
        return done.stdout.strip()

    @property
    def address(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self._socket}"

    def serve(self) -> None:
        """Answer at `address` from now on."""
        self._service = subprocess.Popen(
            [*self._command, "system", "service", "--time=0", self.address],
            env=self._env, stdin=subprocess.DEVNULL, start_new_session=True,
            cwd=self._socket.parent,  # (conmon leaves files where it is started)
        )  # fmt: skip
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with suppress(OSError), closing(socket.socket(socket.AF_UNIX)) as found:
                found.connect(str(self._socket))
                return
            time.sleep(0.02)
        raise AssertionError("the engine does not answer")

    def kill(self) -> None:
        """The engine's process is gone; what it has started goes on."""
        if self._service is not None:
            self._service.kill()
            self._service.wait()
            self._service = None

    def containers(self) -> list[str]:
        """The ids of all that there are."""
        return self("ps", "--all", "--quiet").split()

    def build(self, folder: Path, name: str, containerfile: str, *arguments: str) -> None:
        """An image of files that stand in the folder already; nothing is fetched."""
        (folder / "Containerfile").write_text(textwrap.dedent(containerfile))
        self("build", "--quiet", "--network", "none", *arguments, "--tag", name, folder)

    def close(self) -> None:
        """Leave no container, and nothing mounted."""
        self.kill()
        self("rm", "--all", "--force", "--volumes")
        self("volume", "rm", "--all", "--force")
        self("image", "rm", "--all", "--force")
        shutil.rmtree(self._run, ignore_errors=True)


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
