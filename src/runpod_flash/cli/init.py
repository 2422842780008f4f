"""`flash init`: a project that runs, with an example of each kind of endpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runpod_flash.cli import output

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATES = Path(__file__).parent / "skeleton"
# Templates end so: Python, pytest and Git take them for nothing of theirs.
_SUFFIX = "-tpl"
# What is written, in the order of its mention, and what it is.
_FILES = {
    "gpu_worker.py": "a function on a GPU, or on the CPU where there is none",
    "cpu_worker.py": "a function, a class that keeps its state, a generator",
    "lb_worker.py": "HTTP routes, one of them streaming",
    "pipeline.py": "an endpoint that calls others",
    "tests/__init__.py": "",
    "tests/test_workers.py": "tests of all that",
    "pyproject.toml": "the project's name and Python",
    "requirements.txt": "packages that every worker gets",
    ".env.example": "settings to copy to .env",
    ".gitignore": "",
    "README.md": "how to run, call and test it",
}
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_CURL = (
    "curl localhost:8888/gpu_worker/runsync -H 'content-type: application/json' \\\n"
    """      -d '{"input": {"message": "hello"}}'"""
)


@click.command()
@click.argument("name", required=False, metavar="[NAME|.]")
@click.option("-f", "--force", is_flag=True, help="Replace files that are there, without asking.")
@click.pass_context
def init(context: click.Context, name: str | None, force: bool) -> None:
    """Write a project that runs: endpoints of each kind, with tests.

    NAME is the directory to make; . is the one you are in. Of the files that are there already,
    those that differ are listed and only replaced with your consent.

    Example: flash init my-project
    """
    if name is None:
        click.echo(context.get_help())
        return
    folder = Path(name)
    _check_place(folder, name)
    contents = _contents(_project_name(folder))
    differing = [file for file in contents if _differs(folder / file, contents[file])]
    if differing and not force and not _may_replace(folder, differing):
        click.echo("Nothing was changed.", err=True)
        return
    for file, text in contents.items():
        _write(folder / file, text)
    _show(folder)


# The name


def _check_place(folder: Path, name: str) -> None:
    """Raise for a name that a project cannot have, and for a place that is no directory."""
    here = folder.absolute()
    for part in (here, *here.parents):
        if os.path.lexists(part):
            if not part.is_dir():
                raise click.ClickException(f"{part} is not a directory; choose another name.")
            break
    own = folder.resolve().name
    if own.lower().replace("-", "_") == "runpod_flash":
        raise click.BadParameter(
            f"{own!r} is the name of Flash's own package, which this would hide; choose another.",
            param_hint="NAME",
        )
    if not folder.is_dir() and not _NAME.fullmatch(own):
        raise click.BadParameter(
            f"{name!r} is no name for a project: use letters, digits, '-', '_' and '.', such as "
            f"{_normalised(own)!r}.",
            param_hint="NAME",
        )


def _project_name(folder: Path) -> str:
    """The directory's name, which may have been chosen by other rules than a project's."""
    own = folder.resolve().name
    return own if _NAME.fullmatch(own) else _normalised(own)


def _normalised(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._") or "my-project"


# The files


def _contents(project_name: str) -> dict[str, str]:
    """The text of every file of the project."""
    return {
        file: _template(file).read_text(encoding="utf-8").replace("{{project_name}}", project_name)
        for file in _FILES
    }


def _template(file: str) -> Path:
    path = _TEMPLATES / file
    name = f"dot-{path.name[1:]}" if path.name.startswith(".") else path.name
    return path.with_name(name + _SUFFIX)


def _differs(path: Path, text: str) -> bool:
    """Whether something else is there already. Raises where no file can be put."""
    if path.parent.exists() and not path.parent.is_dir():
        raise click.ClickException(f"{path.parent} is not a directory; move it away.")
    if path.is_dir():
        raise click.ClickException(f"{path} is a directory, and a file is to go there; move it.")
    if not path.is_file():
        return os.path.lexists(path)
    return path.is_symlink() or path.read_bytes() != text.encode()


def _may_replace(folder: Path, differing: list[str]) -> bool:
    if not output.can_ask():
        raise click.ClickException(
            f"{', '.join(differing)} in {folder.resolve()} would be replaced, and nobody can be "
            "asked here; give --force to replace what is there."
        )
    click.echo(f"There already, and different, in {folder.resolve()}:", err=True)
    for file in differing:
        click.echo(f"  {file}", err=True)
    return output.confirmed(f"Replace {output.counted(len(differing), 'file')}?")


def _write(path: Path, text: str) -> None:
    """Put the file there; a link is replaced, and what it leads to stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.write_text(text, encoding="utf-8", newline="\n")


# The screen


def _show(folder: Path) -> None:
    click.echo(f"\n{click.style(folder.resolve().name + '/', bold=True)}")
    for line in output.table(_tree(_FILES)):
        click.echo(f"  {line}")
    steps = ["flash dev", _CURL]
    if folder.resolve() != Path.cwd():
        steps.insert(0, f"cd {_quoted(folder)}")
    click.echo("\nNext:\n")
    for step in steps:
        click.echo(f"  {step}")
    click.echo("\nflash dev prints the address of everything; curl is for another terminal.")


def _tree(files: Mapping[str, str]) -> list[tuple[str, str]]:
    rows, shown = [], set()
    for file, what in files.items():
        *parents, name = file.split("/")
        for parent in parents:
            if parent not in shown:
                rows.append((f"{parent}/", ""))
                shown.add(parent)
        rows.append(("  " * len(parents) + name, what))
    return rows


def _quoted(folder: Path) -> str:
    import shlex

    return shlex.quote(str(folder))
