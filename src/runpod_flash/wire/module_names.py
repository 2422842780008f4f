"""How modules are called: by their files, and by processes in which a script is `__main__`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

MAIN = "__main__"
# Children that multiprocessing spawns import the script under the second name.
MAINS = (MAIN, "__mp_main__")


def module_of(file: str) -> str:
    """`longruns/stage-1.py` is `longruns.stage-1`; a folder's `__init__.py` is its package."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class ModuleNames(NamedTuple):
    """How this process's modules are called on the wire.

    `main` is the name under which the other side imports this process's `__main__`; None in a
    worker, and in a REPL or notebook, whose `__main__` has no file to import.
    """

    main: str | None = None

    def to_wire(self, module: str) -> str:
        """The other side's name for a module of this process."""
        return self.main if self.main is not None and module in MAINS else module

    def to_local(self, module: str) -> str:
        """This process's name for a module that the other side names."""
        return MAIN if self.main is not None and module == self.main else module

    def loaded(self, module: str) -> ModuleType | None:
        """The module that the other side calls so, if it is imported here already."""
        return sys.modules.get(self.to_local(module))


NO_ALIAS = ModuleNames()
