"""The code of this server's endpoints, for machines that have none of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.project.closure import needed_files
from runpod_flash.project.scan import kept_files
from runpod_flash.project.tree import Tree, named_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runpod_flash.project.tree import TreeFile
    from runpod_flash.spec import EndpointSpec


class Projects:
    """By endpoints. Files are read, which is for a thread.

    What lies below `brought` is code that was sent here, with nothing else beside it.
    """

    def __init__(self, brought: Path | None) -> None:
        self._brought = brought
        self._trees: dict[str, Tree] = {}

    def files(self, spec: EndpointSpec) -> list[TreeFile]:
        """What the endpoint's project has; raises `ConfigurationError` if that is too much."""
        tree = self._tree(spec)
        if self._brought is not None and tree.root.is_relative_to(self._brought):
            return tree.files(kept_files(tree.root))
        return tree.files(needed_files([spec]))

    def content(self, spec: EndpointSpec, file: TreeFile) -> bytes:
        return self._tree(spec).content(file)

    @staticmethod
    def variables(
        spec: EndpointSpec, files: Sequence[TreeFile], given: Mapping[str, str]
    ) -> dict[str, str]:
        """Those of the given variables that the project's code names."""
        return named_variables(Path(spec.entry.root), files, given)

    def _tree(self, spec: EndpointSpec) -> Tree:
        root = Path(spec.entry.root)
        tree = self._trees.get(spec.key)
        if tree is None or tree.root != root:  # each release has a place of its own
            tree = self._trees[spec.key] = Tree(root)
        return tree
