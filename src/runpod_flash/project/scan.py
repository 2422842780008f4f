"""Which Python files of a project count: all but those that Git or the project ignores."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pathspec import GitIgnoreSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IGNORE_FILES = (".gitignore", ".flashignore")
_BUILT_IN = (
    ".*/",
    "__pycache__/",
    "node_modules/",
    "*.egg-info/",
    "dist/",
    "build/",
    "venv/",
    "env/",
    "site-packages/",
    "tests/",
    "docs/",
    "test_*.py",
    "*_test.py",
    "conftest.py",
)


class _Rules(NamedTuple):
    """The rules of one folder's ignore files; paths are relative to it."""

    folder: str
    spec: GitIgnoreSpec

    def verdict(self, path: str) -> bool | None:
        """Whether the path is ignored; None where no rule speaks of it."""
        return self.spec.check_file(path.removeprefix(self.folder)).include


def python_files(root: Path) -> list[str]:
    """POSIX paths below the root, sorted."""
    found = [
        f"{folder}{name}"
        for folder, names, rules in _walk(root)
        for name in names
        if name.endswith(".py") and name != "__init__.py" and not _ignored(f"{folder}{name}", rules)
    ]
    return sorted(found)


def folders(root: Path) -> list[Path]:
    """The folders that these files may be in, the root first."""
    return [root / folder for folder, _, _ in _walk(root)]


def _walk(root: Path) -> Iterator[tuple[str, list[str], Sequence[_Rules]]]:
    """Each folder below the root ("" or "a/b/") with its files and the rules that hold there."""
    pending: list[tuple[str, tuple[_Rules, ...]]] = [("", (_Rules("", _built_in()),))]
    while pending:
        folder, rules = pending.pop()
        try:
            with os.scandir(root / folder) as entries:
                here = list(entries)
        except OSError:  # no longer there, or not for us
            continue
        names = {entry.name for entry in here}
        if folder and "pyvenv.cfg" in names:
            continue
        rules += tuple(_rules(root, folder, name) for name in IGNORE_FILES if name in names)
        yield folder, [entry.name for entry in here if entry.is_file()], rules
        for entry in here:
            path = f"{folder}{entry.name}/"
            if entry.is_dir(follow_symlinks=False) and not _ignored(path, rules):
                pending.append((path, rules))


def _ignored(path: str, rules: Sequence[_Rules]) -> bool:
    """The last word counts, as in Git: that of the innermost folder."""
    for each in reversed(rules):
        verdict = each.verdict(path)
        if verdict is not None:
            return verdict
    return False


@lru_cache(maxsize=1)
def _built_in() -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(_BUILT_IN)


def _rules(root: Path, folder: str, name: str) -> _Rules:
    try:
        text = Path(root, folder, name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return _Rules(folder, GitIgnoreSpec.from_lines(text.splitlines()))
