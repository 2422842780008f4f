"""Explains the import of a package that the endpoint does not declare."""

from __future__ import annotations

import contextlib
import sys

from runpod_flash.wire import failures


def explain(error: BaseException, endpoint: str) -> None:
    """Add a note with the remedy to a `ModuleNotFoundError` of a package that is not there."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    top = (name or "").partition(".")[0]
    if _is_package(top) and not _is_there(top):
        # Whoever adds the name of a module that was meant gets a stranger's package by that name.
        remedy = (
            f"if that is a package, add it to dependencies=[...] of the endpoint {endpoint!r}; "
            "if it is a module of the project, its file is not there"
        )
        with contextlib.suppress(Exception):  # whatever the user's own kind of error forbids
            failures.add_note(error, f"flash: the worker's environment has no {top!r}; {remedy}")


def _is_package(top: str) -> bool:
    return bool(top) and not top.startswith("_") and top not in sys.stdlib_module_names


def _is_there(top: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):
        return True
