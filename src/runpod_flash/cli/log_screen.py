"""Workers' lines as a person reads them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import Any


def dated(line: dict[str, Any]) -> str:
    """A line among those of other workers and times; what Flash says of a worker is set apart."""
    at = datetime.fromisoformat(line["ts"].replace("Z", "+00:00")).astimezone()
    who = line.get("worker") or line["endpoint"]
    text = line["line"]
    if line["source"] == "system":
        text = click.style(f"-- {text}", dim=True)
    return f"{click.style(f'{at:%m-%d %H:%M:%S}', dim=True)} {click.style(who, fg='cyan')}  {text}"


def live(line: dict[str, Any]) -> str:
    """A line of a job that one waits for."""
    name = line["endpoint"]
    return f"{click.style(f'[{name}]', dim=True)} {line['line']}"
