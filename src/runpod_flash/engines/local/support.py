"""The folder that brings Flash's own code into a worker, whatever its environment holds."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from pathlib import Path


def support_tree(cache: Path) -> Path:
    """A folder with links to this very `runpod_flash` and to cloudpickle, and nothing else.

    Named by where they point, so that several installations do not disturb each other.
    """
    targets = [package("runpod_flash"), package("cloudpickle")]
    digest = hashlib.sha256("\n".join(map(str, targets)).encode()).hexdigest()[:16]
    tree = cache / "support" / digest
    if not tree.is_dir():
        tree.mkdir(parents=True, exist_ok=True)
    for target in targets:
        link = tree / target.name
        if not link.is_symlink():
            fresh = link.with_name(f".{target.name}-{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.replace(link)
    return tree


@functools.cache
def package(name: str) -> Path:
    """The folder of an installed package."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
