"""Draw docs/run.svg, the README's picture, from a real run: `python docs/picture.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "run.svg"
COLUMNS = 96


def run() -> list[str]:
    """The lines of a first run of the demo's example, with no environment built before."""
    with tempfile.TemporaryDirectory() as cache:
        ended = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "tensor_processor.py")],
            env={**os.environ, "XDG_CACHE_HOME": cache, "UV_CACHE_DIR": uv_cache()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=True,
        )
    return ended.stdout.splitlines()


def uv_cache() -> str:
    """Where packages that were downloaded before are."""
    return os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))


def wrapped(line: str) -> list[str]:
    """The line as a terminal of so many columns shows it."""
    return [line[at : at + COLUMNS] for at in range(0, len(line), COLUMNS)]


def drawn(lines: list[str]) -> str:
    """An SVG of a terminal with these lines."""
    rows = [row for line in ["$ scripts/demo", *lines] for row in wrapped(line)]
    width, height = 40 + round(COLUMNS * 8.5), 28 + 24 * len(rows)
    texts = [
        f'    <text x="20" y="{34 + 24 * n}">{_coloured(r)}</text>' for n, r in enumerate(rows)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
            "  <title>A run of scripts/demo</title>",
            f'  <rect width="{width}" height="{height}" rx="8" fill="#161b22"/>',
            '  <g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" '
            'fill="#e6edf3" xml:space="preserve">',
            *texts,
            "  </g>",
            "</svg>",
            "",
        ]
    )


def _coloured(row: str) -> str:
    head = re.match(r"flash:|\[[\w-]+\](?= )|\$ ", row)
    if head is None:
        return escape(row, quote=False)
    colour = "#7ee787" if head[0] == "$ " else "#8b949e"
    rest = escape(row[head.end() :], quote=False)
    return f'<tspan fill="{colour}">{escape(head[0])}</tspan>{rest}'


if __name__ == "__main__":
    PICTURE.write_text(drawn(run()))
