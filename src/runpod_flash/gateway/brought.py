"""An app's code as a client brings it: which files there are, and what they declare."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runpod_flash.control.trees import StoredFile
from runpod_flash.project.catalog import Catalog

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.project.catalog import Discovered

# What reading values of a request raises where they are others than they should be. (Arithmetic:
# 1e999 is a number in JSON, and no integer.)
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def read_files(value: dict[str, Any]) -> list[StoredFile]:
    """Those of a request; raises what is `UNREADABLE`."""
    return [StoredFile(str(p), str(d), bool(x)) for p, d, x in value["files"]]


def read_catalog(value: dict[str, Any]) -> Catalog:
    """That of a request; raises as `read_files`, and `ConfigurationError`."""
    catalog = Catalog.from_wire(value["catalog"])
    for each in catalog.endpoints:
        entry = each.spec.entry
        for path in (entry.file, *entry.others, *entry.search_path):
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"{path!r:.80} is not below the project")
    return catalog


def placed(catalog: Catalog, app: str, root: Path) -> Catalog:
    """The catalog as it is served from another place."""

    def moved(each: Discovered) -> Discovered:
        entry = replace(each.spec.entry, root=str(root))
        return replace(each, spec=replace(each.spec, entry=entry, app=app))

    return Catalog(str(root), tuple(map(moved, catalog.endpoints)), catalog.problems)
