"""Output for scripts: the option `--json`, and what is printed then."""

from __future__ import annotations

import json
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")


def print_json(value: Any) -> None:
    """One value, in lines that people can read as well."""
    click.echo(json.dumps(value, indent=2))
