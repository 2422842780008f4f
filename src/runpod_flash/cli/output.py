"""What every command prints alike: errors, tables, times and questions."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from runpod_flash.printable import LINES, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ENDS = (".", "!", "?")
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def print_anything() -> None:
    """Have a stream that cannot write a character write its code, where it would raise."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def colour() -> bool | None:
    """False where colours are unwanted (https://no-color.org); None: only on a terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return None


def error(text: str) -> None:
    """Say what failed, in one sentence."""
    shown = printable(text, keep=LINES)  # (it may have names in it that others have given)
    click.echo(f"{click.style('Error:', fg='red')} {shown}", err=True, color=colour())


def failed(problem: click.ClickException) -> int:
    """Say what a command refused to do, and where its help is; gives the exit code."""
    text = problem.format_message()
    error(text if text.endswith(_ENDS) else f"{text}.")
    if isinstance(problem, click.UsageError) and problem.ctx is not None:
        click.echo(f"Help: {problem.ctx.command_path} --help", err=True)
    return problem.exit_code


def table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Lines of columns, as wide as they need to be; those in `right` end at the same place."""
    rows, right = [[printable(cell) for cell in row] for row in rows], set(right)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def headed(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()
) -> list[str]:
    """A table whose first line says what the columns are."""
    head, *lines = table([heads, *rows], right=right)
    return [click.style(head, dim=True), *lines]


def without_empty(
    head: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """A table without the column of that head, where it has nothing in any row."""
    at = heads.index(head)
    if any(row[at] for row in rows):
        return heads, rows
    return [*heads[:at], *heads[at + 1 :]], [[*row[:at], *row[at + 1 :]] for row in rows]


def image(found: Mapping[str, str] | None) -> str:
    """An image's `name` with as much of its `digest` as tells it from others."""
    if found is None:
        return ""
    name, digest = found["name"], found["digest"]
    if not digest or "@" in name:
        return name
    kind, _, number = digest.partition(":")
    return f"{name}@{kind}:{number[:12]}"


def shortened(words: Iterable[str], width: int) -> str:
    """As many of the words as fit, and how many more there are."""
    kept: list[str] = []
    left = list(words)
    while left and len(_listed([*kept, left[0]], len(left) - 1)) <= width:
        kept.append(left.pop(0))
    return _listed(kept, len(left))


def _listed(words: Sequence[str], more: int) -> str:
    if not more:
        return ", ".join(words)
    return ", ".join([*words, f"+{more}"])


def ago(seconds: float) -> str:
    """How long something has been over: "3 hours ago"."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{counted(int(seconds / size), unit)} ago"
    return "just now"


def span(seconds: float) -> str:
    """A length of time in two or three characters: "12s", "5m", "3h", "2d"."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds / size)}{unit[0]}"
    return f"{int(seconds)}s"


def counted(number: int, noun: str) -> str:
    """The number and the noun: "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def confirmed(question: str) -> bool:
    """Ask; no is the default."""
    return click.confirm(question, default=False, err=True)
