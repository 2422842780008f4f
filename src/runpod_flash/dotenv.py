"""Reads the project's `.env` once, when `Endpoint` is first imported."""

# pathlib takes longer to import than all of this package:
# ruff: noqa: PTH109, PTH113, PTH116, PTH118, PTH120

from __future__ import annotations

import os

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_dotenv_once() -> None:
    """Set what the nearest `.env` says and the process has not set already.

    It is looked for from the working directory up to the project's root, and must belong to the
    user. In a worker nothing is read: variables come from the endpoint. Raises
    `ConfigurationError` for a file that cannot be read.
    """
    for name, value in values().items():
        os.environ.setdefault(name, value)


def values() -> dict[str, str]:
    """What that file says now; see `load_dotenv_once`."""
    from runpod_flash import context

    file = None if context.current is not None else find()
    if file is None:
        return {}
    return {
        name: value
        for name, value in read(file).items()
        if value is not None and not _chooses(name)
    }


def _chooses(name: str) -> bool:
    """Whether it says where code and keys go: a file in the project never does."""
    return name in ("FLASH_TARGET", "FLASH_INSECURE") or (
        name.startswith(("FLASH_", "RUNPOD_")) and name.endswith("_URL")
    )


def read(file: str) -> dict[str, str | None]:
    """All that a file says, also what is not taken from it; raises `ConfigurationError`."""
    from dotenv.main import DotEnv

    from runpod_flash.errors import ConfigurationError

    try:
        # Not `override`: where the file uses a variable that is set, that value counts as well.
        found = DotEnv(file, encoding="utf-8", override=False).dict()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{file} cannot be read: {why}") from None
    for name, value in found.items():
        if "\0" in f"{name}{value}":
            raise ConfigurationError(f"{file}: {name!r} holds a NUL, which no variable can")
    return dict(found)


def find() -> str | None:
    """The `.env` that counts here: see `load_dotenv_once`."""
    try:
        here = os.getcwd()
    except OSError:
        return None
    for folder in _upwards(here):
        file = os.path.join(folder, ".env")
        if _is_users(file):
            return file if folder == here or _in_project(folder, here) else None
    return None


def _upwards(folder: str) -> Iterator[str]:
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def _is_users(file: str) -> bool:
    try:
        return os.stat(file).st_uid == os.getuid() and os.path.isfile(file)
    except OSError:
        return False


def _in_project(folder: str, here: str) -> bool:
    """Whether the folder, one above `here`, is the project's root or below it."""
    from pathlib import Path

    from runpod_flash.project.root import find_root

    root = find_root(Path(here))
    return root is not None and Path(folder).is_relative_to(root)
