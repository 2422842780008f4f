"""Which files of a project count: all but those that Git or the project ignores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence
    from typing import Protocol

    class GitIgnorePattern(Protocol):
        """What pathspec makes of one line."""

        include: bool | None
        regex: re.Pattern[str]


IGNORE_FILES = (".gitignore", ".flashignore")
# No rule of the project's brings these back: `!*/` would open `.git` and `node_modules`.
_FOLDERS = frozenset(
    {
        "__pycache__",
        "__pypackages__",
        "build",
        "dist",
        "docs",
        "env",
        "node_modules",
        "site-packages",
        "tests",
        "venv",
    }
)
_VENV_MARK = "pyvenv.cfg"


class _Rules(NamedTuple):
    """The rules of one folder's ignore files, the last one first; paths are relative to it."""

    folder: str
    patterns: Sequence[GitIgnorePattern]

    def verdict(self, path: str) -> bool | None:
        """Whether the path is ignored; None where no rule speaks of it."""
        below = path.removeprefix(self.folder)
        found = (pattern.include for pattern in self.patterns if _speaks_of(pattern, below))
        return next(found, None)


def _speaks_of(pattern: GitIgnorePattern, path: str) -> bool:
    """Whether it matches the path itself. (One that only matches a folder above it would also
    match what a later rule has brought back.) The one group in a pattern is a folder's slash."""
    plain = pattern.regex.search(path.rstrip("/"))
    if plain is not None and plain.lastgroup is None:
        return True
    return path.endswith("/") and any(
        found.lastgroup is not None and found.end(found.lastgroup) == len(path)
        for found in pattern.regex.finditer(path)
    )


def python_files(root: Path) -> list[str]:
    """POSIX paths below the root, sorted."""
    found = [
        f"{folder}{entry.name}"
        for folder, entries, rules in _walk(root)
        for entry in entries
        if _counts(entry.name) and not _ignored(f"{folder}{entry.name}", rules) and _is_file(entry)
    ]
    return sorted(found)


def kept_files(root: Path, suffix: str = "") -> list[str]:
    """POSIX paths of all files below the root that end so; hidden ones do not count."""
    return sorted(
        f"{folder}{entry.name}"
        for folder, entries, rules in _walk(root)
        for entry in entries
        if entry.name.endswith(suffix)
        and not entry.name.startswith(".")
        and not _ignored(f"{folder}{entry.name}", rules)
        and _is_file(entry)
    )


def folders(root: Path) -> list[Path]:
    """The folders that these files may be in, the root first."""
    return [root / folder for folder, _, _ in _walk(root)]


def _walk(root: Path) -> Iterator[tuple[str, list[os.DirEntry[str]], Sequence[_Rules]]]:
    """Each folder below the root ("" or "a/b/") with its entries and the rules that hold there."""
    pending: list[tuple[str, tuple[_Rules, ...]]] = [("", ())]
    while pending:
        folder, rules = pending.pop()
        try:
            with os.scandir(root / folder) as found:
                entries = list(found)
        except OSError:  # no longer there, or not for us
            continue
        names = {entry.name for entry in entries}
        if folder and _VENV_MARK in names:
            continue
        rules += tuple(_rules(root, folder, name) for name in IGNORE_FILES if name in names)
        yield folder, entries, rules
        for entry in entries:
            path = f"{folder}{entry.name}/"
            if _is_open(entry) and not _ignored(path, rules):
                pending.append((path, rules))


def _counts(name: str) -> bool:
    """Whether a file of that name may declare endpoints. (macOS leaves `._app.py` on disks.)"""
    if not name.endswith(".py") or name.startswith((".", "test_")):
        return False
    return name not in ("__init__.py", "conftest.py") and not name.endswith("_test.py")


def _is_open(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder to look into. Links are not followed: they may lead in a circle."""
    name = entry.name
    if name in _FOLDERS or name.startswith(".") or name.endswith(".egg-info"):
        return False
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _ignored(path: str, rules: Sequence[_Rules]) -> bool:
    """The last word counts, as in Git: that of the innermost folder."""
    for each in reversed(rules):
        verdict = each.verdict(path)
        if verdict is not None:
            return verdict
    return False


def _rules(root: Path, folder: str, name: str) -> _Rules:
    try:
        text = Path(root, folder, name).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return _Rules(folder, ())
    found = [pattern for line in text.splitlines() for pattern in _patterns(line)]
    return _Rules(folder, tuple(reversed(found)))


def _patterns(line: str) -> Iterator[GitIgnorePattern]:
    # Takes a while to import, and many projects have no such file.
    from pathspec import GitIgnoreSpec

    try:
        for pattern in GitIgnoreSpec.from_lines([line]).patterns:
            if pattern.include is not None:  # no comment
                yield cast("GitIgnorePattern", pattern)
    except ValueError:  # Git passes over what is no pattern, such as a lone "!"
        return
