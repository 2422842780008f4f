"""Projects with packages of their own, that are built and deployed."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any

import httpx

from integration.served import write
from integration.wheels import LOCAL_ONLY
from unit.command_line import flash

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from behaviour.servers import Target

APP = """
    from runpod_flash import Endpoint

    @Endpoint(name="parts", cpu="cpu3c-1-2", dependencies={dependencies})
    def parts() -> dict:
        import {modules}
        return {{m.__name__: m.VERSION for m in ({modules},)}}
"""
LIBRARY = {
    "backend.py": """
        import pathlib, zipfile
        def build_wheel(directory, config_settings=None, metadata_directory=None):
            name, info = "helper-2.0-py3-none-any.whl", "helper-2.0.dist-info"
            with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as wheel:
                for file in ("helper.py", "data.txt"):
                    wheel.write(file)
                wheel.writestr(f"{info}/METADATA",
                               "Metadata-Version: 2.1\\nName: helper\\nVersion: 2.0\\n")
                wheel.writestr(f"{info}/WHEEL",
                               "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
                wheel.writestr(f"{info}/RECORD", "")
            return name
    """,
    "pyproject.toml": """
        [project]
        name = "helper"
        version = "2.0"
        [build-system]
        requires = []
        build-backend = "backend"
        backend-path = ["."]
    """,
    "helper.py": "VERSION = '2.0'\n",
    "data.txt": "data\n",
}


class Project:
    """A project whose packages are in its own folder `wheels`, or where `index` says."""

    def __init__(self, folder: Path, cache: Path, index: str = "") -> None:
        self.folder = folder
        self.env = {"HOME": str(folder.parent), "XDG_CACHE_HOME": str(cache)}
        if index:
            self.env["UV_DEFAULT_INDEX"] = index
        marker = "[project]\nname = 'shop'\nversion = '1'\n"
        write(folder, {"pyproject.toml": marker, "requirements.txt": "" if index else LOCAL_ONLY})

    def app(self, *dependencies: str, modules: str = "sys") -> None:
        write(self.folder, {"app.py": APP.format(dependencies=[*dependencies], modules=modules)})

    def flash(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return flash(*words, cwd=self.folder, env={**self.env, **env})

    def build(self, *words: str, **env: str) -> str:
        done = self.flash("build", *words, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        done = self.flash("build", *words)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert not (self.folder / ".flash").exists()
        return done.stderr

    @property
    def archive(self) -> Path:
        return self.folder / ".flash" / "artifact.tar.gz"

    def packed(self) -> dict[str, bytes]:
        with tarfile.open(self.archive) as archive:
            found = {each.name: archive.extractfile(each) for each in archive}
            return {name: file.read() for name, file in found.items() if file is not None}

    def lock(self) -> list[str]:
        (text,) = (v for name, v in self.packed().items() if name.startswith("__flash__/locks/"))
        return [line.partition(" ")[0] for line in text.decode().splitlines()]

    def deploy(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = self.flash("deploy", *words, **env)
        assert done.returncode == 0, done.stderr
        return done


def call(target: Target) -> dict[str, Any]:
    """What the deployed endpoint of `APP` answers."""
    url = f"{target.address}/v2/shop-production-parts/runsync"
    answer = httpx.post(url, json={"input": {}}, timeout=60).json()
    assert answer["status"] == "COMPLETED", answer
    output: dict[str, Any] = answer["output"]
    return output
