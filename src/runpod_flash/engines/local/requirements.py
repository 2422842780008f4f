"""What an endpoint's environment must hold: its dependencies and the project's own list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runpod_flash.spec import EndpointSpec


def requirements(spec: EndpointSpec) -> tuple[str, ...]:
    """The declared dependencies, then the lines of `requirements.txt` in the project's root."""
    return (*spec.build.dependencies, *_project_lines(spec.entry.root))


def _project_lines(root: str) -> list[str]:
    file = Path(root, "requirements.txt")
    if not root or not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ").splitlines()
    bare = (line.partition(" #")[0].strip() for line in lines)
    return [line for line in bare if line and not line.startswith("#")]
