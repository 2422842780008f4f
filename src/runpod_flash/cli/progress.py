"""How far an upload or download is."""

from __future__ import annotations

import sys
import time

import click

_SHOWN_SECONDS = 0.1


class Progress:
    """Called with how many bytes of how many are there: on a terminal one line, which changes, and
    elsewhere a line at the end, where `told`. `verb` is such as "upload".
    """

    def __init__(self, verb: str, *, told: bool = True) -> None:
        self._verb = verb
        self._told = told
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0

    def __call__(self, there: int, of: int) -> None:
        whole = there >= of
        if not self._terminal:
            if whole and self._told:
                click.echo(f"  {self._verb}ed {of / 1e6:.1f} MB", err=True)
            return
        now = time.monotonic()
        if whole or now - self._shown >= _SHOWN_SECONDS:
            self._shown = now
            text = f"\r  {self._verb}ing {there / 1e6:.1f} of {of / 1e6:.1f} MB"
            click.echo(text, nl=whole, err=True)
