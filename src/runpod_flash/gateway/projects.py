"""The code of this server's endpoints, for machines that have none of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.project.closure import needed_files
from runpod_flash.project.tree import Tree, named_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runpod_flash.project.tree import TreeFile
    from runpod_flash.spec import EndpointSpec


class Projects:
    """By their roots. Files are read, which is for a thread."""

    def __init__(self) -> None:
        self._trees: dict[str, Tree] = {}

    def files(self, spec: EndpointSpec) -> list[TreeFile]:
        """What the endpoint's project has; raises `ConfigurationError` if that is too much."""
        return self._tree(spec).files(needed_files([spec]))

    def content(self, spec: EndpointSpec, file: TreeFile) -> bytes:
        return self._tree(spec).content(file)

    @staticmethod
    def variables(
        spec: EndpointSpec, files: Sequence[TreeFile], given: Mapping[str, str]
    ) -> dict[str, str]:
        """Those of the given variables that the project's code names."""
        return named_variables(Path(spec.entry.root), files, given)

    def _tree(self, spec: EndpointSpec) -> Tree:
        root = spec.entry.root
        return self._trees.setdefault(root, Tree(Path(root)))
