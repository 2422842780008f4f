"""`flash update`: from where this was installed, and from nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

DISTRIBUTION = "runpod-flash"


@click.command()
def update() -> None:
    """Update Flash from where it was installed: a clone, or a Git address.

    A clone is pulled first. `flash --version` says what is installed.

    Example: flash update
    """
    before = metadata.version(DISTRIBUTION)
    noted = origin()
    if noted is None:
        raise click.ClickException(
            f"this {DISTRIBUTION} was not installed from a clone or a Git address, so nobody knows "
            "where its updates are; install it with `pip install FOLDER`, from a clone."
        )
    address = str(noted["url"])
    if "vcs_info" in noted:
        vcs = noted["vcs_info"]
        wanted = f"@{vcs['requested_revision']}" if vcs.get("requested_revision") else ""
        _install("--upgrade", f"{DISTRIBUTION} @ {vcs['vcs']}+{address}{wanted}")
    else:
        _update_folder(_folder(address), editable=noted.get("dir_info", {}).get("editable", False))
    after = _installed_version()
    change = f"{before} is now {after}" if after != before else f"{before}, as before"
    click.echo(f"flash {change} (from {address})")
    click.echo("Start servers that run again: until then they go on with the code from before.")


def origin() -> dict[str, Any] | None:
    """What the installer noted (PEP 610), which it does for an installation by its address only."""
    text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    return None if text is None else json.loads(text)


def _folder(address: str) -> Path:
    parts = urlsplit(address)
    folder = Path(url2pathname(parts.path))
    if parts.scheme != "file" or not (folder / "pyproject.toml").is_file():
        raise click.ClickException(f"{address}, from where this was installed, is no clone of it.")
    return folder


def _update_folder(folder: Path, *, editable: bool) -> None:
    if (folder / ".git").exists():
        _run(["git", "-C", str(folder), "pull", "--ff-only", "--quiet"])
    if editable:
        _install("--editable", str(folder))
    else:
        _install("--reinstall-package", DISTRIBUTION, str(folder))


def _install(*arguments: str) -> None:
    from uv import find_uv_bin

    _run([find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable, *arguments])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise click.ClickException(
            f"{command[0]} is not installed, and the update needs it."
        ) from None
    if done.returncode:
        program = " ".join([Path(command[0]).name, *command[1:]])
        raise click.ClickException(f"`{program}` failed: {done.stderr.strip()}")


def _installed_version() -> str:
    """As a new process sees it: this one may hold the old files."""
    program = f"from importlib.metadata import version; print(version({DISTRIBUTION!r}))"
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return found.stdout.strip()
