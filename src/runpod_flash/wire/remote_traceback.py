"""The text of an exception and its traceback, as the user's own frames tell it."""

from __future__ import annotations

import importlib
import os.path
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

_FLASH = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
_STANDARD = os.path.dirname(os.path.dirname(importlib.__file__))  # noqa: PTH120
# On the way from the worker to the user's first frame lie its own, asyncio's and the thread pool's.
_LEADING = (
    _FLASH,
    *(os.path.join(_STANDARD, name) + os.sep for name in ("importlib", "asyncio", "concurrent")),  # noqa: PTH118
    "<frozen importlib",
)


def safe_text(value: Any) -> str:
    """`str(value)`, or what can be said where that fails; always encodable as UTF-8."""
    for convert in (str, repr):
        try:
            return encodable(convert(value))
        except Exception:
            continue
    return f"<{type(value).__qualname__} object whose str() fails>"


def format_remote(error: BaseException) -> str:
    """The traceback with causes and notes, from the user's first frame on."""
    import traceback  # only for those who fail

    try:
        lines = traceback.format_exception(type(error), error, user_frames(error.__traceback__))
        text = "".join(lines)
    except Exception:
        text = f"{type(error).__qualname__}: {safe_text(error)}\n"
    if sys.version_info < (3, 11):
        notes = getattr(error, "__notes__", None)
        text += "".join(f"{safe_text(n)}\n" for n in notes) if isinstance(notes, list) else ""
    return encodable(text)


def user_frames(first: TracebackType | None) -> TracebackType | None:
    """The traceback without the worker's and the import system's leading frames."""
    current = first
    while current is not None and _is_ours(current.tb_frame.f_code.co_filename):
        current = current.tb_next
    return current or first


def _is_ours(filename: str) -> bool:
    return filename.startswith(_LEADING)


def encodable(text: str) -> str:
    """The text without lone surrogates, which no UTF-8 can carry."""
    return text.encode("utf-8", "backslashreplace").decode()
