"""The text of an exception and its traceback, as the user's own frames tell it."""

from __future__ import annotations

import importlib
import os.path
import sys
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import FlashError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from traceback import FrameSummary, TracebackException

_FLASH = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
_STANDARD = os.path.dirname(os.path.dirname(importlib.__file__))  # noqa: PTH120
# On the way from the worker to the user's first frame lie its own, asyncio's and the thread pool's.
LEADING = (
    _FLASH,
    *(os.path.join(_STANDARD, name) + os.sep for name in ("importlib", "asyncio", "concurrent")),  # noqa: PTH118
    "<frozen importlib",
)
# What raises for the user's code stands here as well, as the last of the frames.
_WORKER = tuple(_FLASH + name + os.sep for name in ("worker", "placeholders"))
_NOT_TOLD = (*_WORKER, *LEADING[1:])
# Characters of one text: JSON has up to twelve bytes for each, and a frame's header has its bound.
MAX_TEXT = 128 << 10


def safe_text(value: Any) -> str:
    """`str(value)`, or what can be said where that fails; always `portable`."""
    for convert in (str, repr):
        try:
            return portable(convert(value))
        except Exception:
            continue
    return f"<{type(value).__qualname__} object whose str() fails>"


def format_remote(error: BaseException) -> str:
    """The traceback with causes and notes, in the user's own frames."""
    import traceback  # only for those who fail

    try:
        told = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _trim(told, error)
        # (Each part by itself, so that a long message leaves the frames around it readable.)
        text = "".join(cut(part, MAX_TEXT // 4) for part in told.format())
    except Exception:
        text = f"{type(error).__qualname__}: {safe_text(error)}\n"
    if sys.version_info < (3, 11):
        notes = getattr(error, "__notes__", None)
        text += "".join(f"{safe_text(n)}\n" for n in notes) if isinstance(notes, list) else ""
    return portable(text)


def _trim(told: TracebackException, error: BaseException) -> None:
    """Leave out Flash's own frames, also of causes and of a group's members."""
    pending: list[tuple[TracebackException | None, BaseException | None]] = [(told, error)]
    while pending:
        each, its = pending.pop()
        if each is None or its is None:
            continue
        each.stack[:] = _users(each.stack, its)
        pending += [(each.__cause__, its.__cause__), (each.__context__, its.__context__)]
        members = getattr(each, "exceptions", None) or ()
        pending += zip(members, getattr(its, "exceptions", ()), strict=False)


def _users(stack: Sequence[FrameSummary], error: BaseException) -> Sequence[FrameSummary]:
    """The frames from the user's first one to the user's last one.

    Where there is none of the user's, what remains is for whoever looks after Flash.
    """
    first = next((i for i, each in enumerate(stack) if not _leads(each)), None)
    if first is None:
        own = isinstance(error, FlashError)
        return [] if own else [f for f in stack if not f.filename.startswith(_NOT_TOLD)]
    end = len(stack)
    raisers = (_FLASH,) if _is_known(error) else _WORKER
    while stack[end - 1].filename.startswith(raisers):
        end -= 1
    return stack[first:end]


def _leads(frame: FrameSummary) -> bool:
    return frame.filename.startswith(LEADING)


def _is_known(error: BaseException) -> bool:
    """Whether Flash raised it on purpose, by itself or for a job elsewhere."""
    return isinstance(error, FlashError) or "remote_type" in vars(error)


def portable(text: str) -> str:
    """The text without lone surrogates, which no UTF-8 can carry, and not too long to travel."""
    return cut(text.encode("utf-8", "backslashreplace").decode(), MAX_TEXT)


def cut(text: str, most: int) -> str:
    """The text if it has at most so many characters, otherwise its beginning and its end."""
    if len(text) <= most:
        return text
    half = max(0, most - 80) // 2  # (the mark is shorter)
    left_out = len(text) - 2 * half
    return (
        f"{text[:half]}\n[... {left_out} characters are left out ...]\n{text[len(text) - half :]}"
    )
