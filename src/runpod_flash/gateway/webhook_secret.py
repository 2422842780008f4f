"""The secret that webhooks are signed with: made once for each server, and kept in a file."""

from __future__ import annotations

import secrets
from base64 import b64encode
from typing import TYPE_CHECKING

from runpod_flash.control.made_once import made_once

if TYPE_CHECKING:
    from pathlib import Path


def new_secret() -> str:
    """A secret as Standard Webhooks has them."""
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"


def kept_secret(folder: Path) -> str:
    """The secret of the server whose data are in that folder, made by the first call.

    Raises OSError where it can be neither read nor written.
    """
    return made_once(folder / "webhook-secret", lambda: f"{new_secret()}\n".encode()).decode()
