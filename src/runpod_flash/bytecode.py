"""Has fresh sources compiled anew, where Python would take an older file's bytecode for theirs.

Bytecode is told from its source's size and time in whole seconds. Of a file that is edited and
loaded twice within a second the second version might never be seen, so no bytecode is kept of one
that is younger than two seconds.
"""

from __future__ import annotations

import importlib.machinery
import os
import time

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from typing import Any

_YOUNG_SECONDS = 2.0


def distrust_young_files() -> None:
    """From now on, in this process."""
    loader: Any = importlib.machinery.SourceFileLoader
    keep = loader._cache_bytecode

    def keep_unless_young(self: Any, source_path: str, bytecode_path: str, data: Any) -> Any:
        if "site-packages" in source_path:  # nobody edits those
            return keep(self, source_path, bytecode_path, data)
        try:
            age = time.time() - os.stat(source_path).st_mtime  # noqa: PTH116
        except OSError:
            return None
        return None if age < _YOUNG_SECONDS else keep(self, source_path, bytecode_path, data)

    loader._cache_bytecode = keep_unless_young
