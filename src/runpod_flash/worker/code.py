"""From an entry to the user's function or class: imports the module for real, or unpickles it."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.placeholders import finder
from runpod_flash.wire.module_names import module_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from runpod_flash.spec import EndpointSpec, Entry


def load(spec: EndpointSpec) -> Any:
    """The function or class that the entry names, without Flash's own wrapping.

    For routes it is the `Endpoint` that they were declared on.
    """
    entry = spec.entry
    if entry.root:
        os.chdir(entry.root)
        roots = [str(Path(entry.root, place)) for place in entry.search_path]
        sys.path[:0] = [root for root in roots if root not in sys.path]
        finder.install(entry.root, f"add it to dependencies=[...] of the endpoint {spec.name!r}")
    if entry.value is not None:
        _check_python(spec)
        found = pickle.loads(entry.value)
    else:
        found = _import(entry.module, Path(entry.root, entry.file), _other_names(entry))
        for part in entry.qualname.split("."):
            found = getattr(found, part)
    if entry.kind == "routes":
        for file in entry.others:
            importlib.import_module(module_of(file))
        resource = found.__remote_config__["resource_config"]
        return getattr(resource, "_shared", resource)  # a deprecated class has its Endpoint there
    return getattr(found, "__flash_target__", found)


def _other_names(entry: Entry) -> list[str]:
    """The names by which files beside it may import the entry's file: it is to run only once."""
    folders = [folder for folder in entry.search_path if entry.file.startswith(f"{folder}/")]
    names = [module_of(entry.file.removeprefix(f"{folder}/")) for folder in folders]
    return [name for name in names if name not in sys.stdlib_module_names]


def _check_python(spec: EndpointSpec) -> None:
    """Pickled code holds bytecode, which crashes another Python."""
    own, made = f"{sys.version_info[0]}.{sys.version_info[1]}", spec.entry.value_python
    if own != made:
        raise ConfigurationError(
            f"endpoint {spec.name!r}: {spec.entry.qualname} has no file, so only the Python that "
            f"defined it ({made}) can run it, not {own}; leave python_version= out, or define it "
            "in a file"
        )


def _import(name: str, file: Path, other_names: Sequence[str] = ()) -> ModuleType:
    """Import exactly this file under exactly this name, with its parent packages."""
    parent, _, leaf = name.rpartition(".")
    if parent:
        package = importlib.import_module(parent)
    is_package = file.name == "__init__.py"
    found = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(file.parent)] if is_package else None
    )
    if found is None or found.loader is None:
        loader = importlib.machinery.SourceFileLoader(name, str(file))
        found = importlib.util.spec_from_loader(name, loader)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    for other in other_names:
        sys.modules.setdefault(other, module)
    try:
        found.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    if parent:
        setattr(package, leaf, module)
    return sys.modules[name]
