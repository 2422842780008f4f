"""The secret that webhooks are signed with: made once for each server, and kept in a file."""

from __future__ import annotations

import os
import secrets
import tempfile
from base64 import b64encode
from contextlib import suppress
from pathlib import Path


def new_secret() -> str:
    """A secret as Standard Webhooks has them."""
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"


def kept_secret(folder: Path) -> str:
    """The secret of the server whose data are in that folder, made by the first call.

    Raises OSError where it can be neither read nor written.
    """
    file = folder / "webhook-secret"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if found := _read(file):
        return found
    descriptor, part = tempfile.mkstemp(dir=folder, prefix=".new-")
    try:
        with open(descriptor, "w", encoding="ascii") as stream:  # noqa: PTH123 - (a descriptor)
            stream.write(f"{new_secret()}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # another call was first
            os.link(part, file)
        if not _read(file):  # what a write that did not end has left
            Path(part).replace(file)
        return _read(file)
    finally:
        Path(part).unlink(missing_ok=True)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
