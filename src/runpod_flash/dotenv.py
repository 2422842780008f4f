"""Reads the project's `.env` once, when `Endpoint` is first imported."""

from __future__ import annotations

import os
from pathlib import Path

# A file in the project may hold keys and settings, but never choose where code and keys go.
_NEVER = frozenset({"FLASH_TARGET", "RUNPOD_API_BASE_URL", "RUNPOD_ENDPOINT_BASE_URL"})
_NEVER_SUFFIXES = ("_BASE_URL", "_REST_API_URL", "_CONSOLE_URL", "_HAPI_URL")


def load_dotenv_once() -> None:
    """Set what the nearest `.env` says and the process has not set already.

    It is looked for from the working directory up to the project's root, and must belong to the
    user. In a worker nothing is read: variables come from the endpoint.
    """
    from runpod_flash import context

    if context.current is not None:
        return
    file = _find()
    if file is None:
        return
    from dotenv import dotenv_values

    for name, value in dotenv_values(file).items():
        chooses = name in _NEVER or name.endswith(_NEVER_SUFFIXES)
        if value is not None and not chooses:
            os.environ.setdefault(name, value)


def _find() -> Path | None:
    from runpod_flash.project.root import find_root

    try:
        here = Path.cwd()
    except OSError:
        return None
    root = find_root(here) or here
    for folder in (here, *here.parents):
        file = folder / ".env"
        if file.is_file() and file.stat().st_uid == os.getuid():
            return file
        if folder == root:
            return None
    return None
