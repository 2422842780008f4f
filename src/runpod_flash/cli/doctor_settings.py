"""What `flash doctor` finds out about settings, the project, and this installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import runpod_flash
from runpod_flash import dotenv
from runpod_flash.cli.findings import Topic
from runpod_flash.cli.update import DISTRIBUTION, origin
from runpod_flash.client.chosen import VARIABLE, chosen_target
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.errors import ConfigurationError
from runpod_flash.project.root import find_root, mark_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runpod_flash.cli.findings import Finding

_SETTINGS = Topic("Settings")
_FLASH = Topic("Flash")
_SECONDS = 10.0
# Which runpod_flash a program would import, found without importing it.
_PROBE = """
found = importlib.util.find_spec("runpod_flash")
print(found.origin if found and found.origin else "")
"""


def findings() -> Iterator[Finding]:
    """One after the other."""
    root = find_root(Path.cwd())
    yield from _settings(root)
    yield from _installation(root)


# Settings


def setting(name: str, values: Mapping[str, str]) -> tuple[str, str]:
    """A variable's value and where it is set; `values` are those of the project's .env."""
    if os.environ.get(name):
        return os.environ[name], f"variable {name}"
    if values.get(name):
        return values[name], f"{name} in .env"
    return "", ""


def _settings(root: Path | None) -> Iterator[Finding]:
    try:
        values = dotenv.values()
    except ConfigurationError:
        values = {}
    yield _target()
    app, source = setting("FLASH_APP", values)
    here = root or Path.cwd()
    yield _SETTINGS.fine("app", app or here.name, source or "default: the directory's name")
    environment, source = setting("FLASH_ENV", values)
    yield _SETTINGS.fine("environment", environment or "production", source or "default")
    yield _project(root)
    yield from _dotenv()
    key, source = setting("RUNPOD_API_KEY", values)
    state = "set; it never chooses a target" if key else "not set; nothing here needs it"
    yield _SETTINGS.fine("RUNPOD_API_KEY", state, source, set=bool(key))


def _target() -> Finding:
    chosen = chosen_target()
    if chosen is None:
        return _SETTINGS.fine("target", "none: calls run on workers of this machine", "default")
    address, by = chosen
    variable = by == VARIABLE
    source = f"variable {by}" if variable else f"`{by}`"
    change = f"unset {by}" if variable else f"`{by} none`"
    try:
        place = origin_of(address)
    except ConfigurationError:
        remedy = f"choose an address such as http://localhost:8888, or {change}"
        login = "@" in address.partition("://")[2].partition("/")[0]
        wrong = "takes no user or password" if login else "is no address of a server"
        shown = "/".join(without_credentials(address).split("/")[:3])  # (a path may be a secret)
        return _SETTINGS.error("target", f"{shown} {wrong}", remedy, source)
    if why := _unreachable(place):
        remedy = f"start it, or {change} to run on this machine"
        return _SETTINGS.error("target", f"{place} cannot be reached: {why}", remedy, source)
    try:
        key = "with a key" if key_for(address) else "without a key"
    except ConfigurationError as error:
        return _SETTINGS.error("target", f"{place}: {error}", "use https", source)
    return _SETTINGS.fine("target", f"{place}, which answers; asked {key}", source)


def _unreachable(place: str) -> str:
    """Why the server does not answer; any answer will do."""
    import httpx

    from runpod_flash.client.connection import trusted

    try:
        httpx.get(f"{place}/ping", timeout=3, trust_env=False, verify=trusted(place))
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return ""


def _project(root: Path | None) -> Finding:
    if root is None:
        text = "none: no pyproject.toml or .git here or above, below your home; scripts stand alone"
        return _SETTINGS.fine("project", text)
    return _SETTINGS.fine("project", str(root), f"it has {mark_of(root)}")


def _dotenv() -> Iterator[Finding]:
    file, here = dotenv.find(), Path.cwd() / ".env"
    if file is None:
        if here.exists():
            remedy = f"make it yours: chown $USER {here}"
            yield _SETTINGS.warning(".env", f"{here} is not your file and is not read", remedy)
        else:
            yield _SETTINGS.fine(".env", "none")
        return
    try:
        names = set(dotenv.read(file))
    except ConfigurationError as error:
        remedy = "write it as lines of NAME=value, in UTF-8, and have it readable for you"
        yield _SETTINGS.error(".env", str(error), remedy)
        return
    yield _SETTINGS.fine(".env", file, variables=sorted(names))
    for name in sorted(names - set(dotenv.values())):
        remedy = f"set {name} in the shell: a file in a project chooses no server"
        yield _SETTINGS.warning(name, f"stands in {file} and is not taken from there", remedy)


# This installation


def _installation(root: Path | None) -> Iterator[Finding]:
    here = Path(runpod_flash.__file__).parent
    yield _FLASH.fine("version", runpod_flash.__version__, version=runpod_flash.__version__)
    yield _FLASH.fine("runpod_flash", str(here), path=str(here))
    yield _origin()
    yield from _other_distributions()
    yield from _shadowing(root, here)
    yield from _programs(here)


def _origin() -> Finding:
    remedy = "install it with `pip install FOLDER`, from a clone; then `flash update` works"
    try:
        noted = origin()
    except metadata.PackageNotFoundError:
        return _FLASH.fine("installed from", "nowhere: this is a source tree")
    if noted is None:
        text = "an index or an archive, it seems: an index has another program of this name"
        return _FLASH.warning("installed from", text, remedy)
    kind = "Git" if "vcs_info" in noted else "a folder"
    if "archive_info" in noted:
        kind = "an archive; `flash update` needs a clone"
    elif noted.get("dir_info", {}).get("editable"):
        kind = "a folder, as it is now"
    return _FLASH.fine("installed from", without_credentials(str(noted["url"])), kind)


def _other_distributions() -> Iterator[Finding]:
    """What an installer noted besides this: two copies, or what another program left."""
    found = metadata.distributions(name=DISTRIBUTION)
    places = {str(each.locate_file("")): str(each.version) for each in found}
    for place, version in places.items():
        if version != runpod_flash.__version__:
            text = f"{place} has {DISTRIBUTION} {version}"
            remedy = f"pip uninstall {DISTRIBUTION}, and install it again from the clone"
            yield _FLASH.warning("other copy", text, remedy)


def _shadowing(root: Path | None, here: Path) -> Iterator[Finding]:
    """Files that programs would import in place of this package."""
    places = [*filter(None, (Path.cwd(), root)), *map(Path, filter(None, sys.path))]
    for place in dict.fromkeys(each.resolve() for each in places):
        for name in ("runpod_flash", "runpod_flash.py"):
            other = place / name
            if other.exists() and not _same(other, here) and _is_importable(other):
                text = f"{other} may be imported in place of this one"
                yield _FLASH.warning("other copy", text, "rename it, or move it away")


def _is_importable(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _programs(here: Path) -> Iterator[Finding]:
    """Whether the `python` of the command line runs programs with this very package."""
    python = shutil.which("python") or shutil.which("python3")
    if python is None or Path(python).parent == Path(sys.executable).parent:
        return
    remedy = f"run programs with {sys.executable}, or activate its environment"
    found = _imported_by(python)
    if not found:
        yield _FLASH.warning("your python", f"{python} has no runpod_flash", remedy)
    elif not _same(Path(found).parent, here):
        yield _FLASH.warning("your python", f"{python} imports {Path(found).parent}", remedy)
    else:
        yield _FLASH.fine("your python", f"{python}, which imports this package")


def _imported_by(python: str) -> str:
    command = [python, "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return os.fsdecode(done.stdout).strip()
