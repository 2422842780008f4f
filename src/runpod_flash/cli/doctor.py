"""`flash doctor`: what Flash finds here, where each setting comes from, and what is wrong."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.cli.findings import Finding

_NAMES = 17  # columns of the names
_MARKS = {"ok": ("  ", ""), "warning": ("! ", "yellow"), "error": ("x ", "red")}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what Flash finds here, and what is wrong.

    Target, app and environment; this installation; Pythons, GPUs, memory; caches and package
    indexes; and where each setting comes from. What is amiss has a mark and a remedy. No secret is
    shown. The exit code is 1 if Flash cannot work.

    Example: flash doctor --json
    """
    from runpod_flash.cli import doctor_machine, doctor_packages, doctor_settings

    # Each is shown as soon as it is known: some take a moment.
    found: list[Finding] = []
    parts = (doctor_settings.findings, doctor_packages.findings, doctor_machine.findings)
    for topic, group in groupby((each for part in parts for each in part()), lambda f: f.topic):
        if not as_json:
            click.echo(click.style(topic, bold=True))
        for finding in group:
            found.append(finding)
            if not as_json:
                _show(finding)
    if as_json:
        print_json(_report(found))
    else:
        click.echo(f"\n{_verdict(found)}")
    raise SystemExit(0 if _is_usable(found) else 1)


def _is_usable(found: list[Finding]) -> bool:
    return all(finding.state != "error" for finding in found)


def _report(found: list[Finding]) -> dict[str, object]:
    return {
        "usable": _is_usable(found),
        "warnings": sum(finding.state == "warning" for finding in found),
        "findings": [asdict(finding) for finding in found],
    }


def _verdict(found: list[Finding]) -> str:
    errors = sum(finding.state == "error" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    counted = f", {output.counted(warnings, 'warning')}" if warnings else ""
    if errors:
        text = f"Flash cannot work here: {output.counted(errors, 'error')}{counted}."
        return click.style(text, fg="red")
    return click.style(f"Flash works here{counted}.", fg="yellow" if warnings else "green")


def _show(finding: Finding) -> None:
    mark, colour = _MARKS[finding.state]
    source = f" ({finding.source})" if finding.source else ""
    lines = list(_folded(f"{finding.value}{source}"))
    if finding.remedy:
        lines += _folded(f"Remedy: {finding.remedy}")
    for number, line in enumerate(lines):
        head = f"{mark}{finding.name:<{_NAMES}} " if number == 0 else " " * (_NAMES + 3)
        if len(head) > _NAMES + 3:  # the name has no room in its column
            click.echo(click.style(head.rstrip(), fg=colour or None))
            head = " " * (_NAMES + 3)
        click.echo(f"{click.style(head, fg=colour or None)}{line}")


def _folded(text: str) -> Iterator[str]:
    """Lines that fit the terminal; elsewhere one."""
    columns = shutil.get_terminal_size().columns - _NAMES - 4 if sys.stdout.isatty() else 10_000
    yield from textwrap.wrap(text, max(columns, 30), break_long_words=False, break_on_hyphens=False)
