"""The secret that webhooks are signed with: made once for each server, and kept in a file."""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def new_secret() -> str:
    """A secret as Standard Webhooks has them."""
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"


def kept_secret(folder: Path) -> str:
    """The secret of the server whose data are in that folder, made by the first call."""
    file = folder / "webhook-secret"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text(encoding="ascii").strip()
    secret = new_secret()
    with open(descriptor, "w", encoding="ascii") as stream:  # noqa: PTH123 - it is a descriptor
        stream.write(f"{secret}\n")
    return secret
