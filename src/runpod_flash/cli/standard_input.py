"""Reads what is piped into a command."""

from __future__ import annotations

import io
import sys

import click


def read_input() -> str:
    """All of standard input, which is UTF-8 whatever the locale says."""
    if sys.stdin is None or sys.stdin.closed:
        raise click.ClickException("Standard input is closed: pipe in what is to be read.")
    try:
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8").read()
    except UnicodeDecodeError:
        raise click.ClickException("Standard input is no UTF-8 text.") from None
