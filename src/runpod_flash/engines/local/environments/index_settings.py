"""Where packages come from: the user's uv settings as they are, pip's translated for uv."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Set by a user for a virtual environment of their own; each would bend a build of ours.
_DROPPED = {"UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "UV_REQUIRE_HASHES"}
_DROPPED |= {"UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIRECTORY", "UV_WORKING_DIR"}
_DROPPED |= {"UV_VENV_SEED", "UV_VENV_CLEAR", "UV_DRY_RUN", "UV_NO_SYNC", "UV_FROZEN", "UV_LOCKED"}
_DROPPED |= {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "RUST_LOG"}
# How uv works, not what it resolves to.
_NOT_RESOLUTION = {"UV_CACHE_DIR", "UV_LINK_MODE", "UV_NO_PROGRESS", "UV_HTTP_TIMEOUT"}
_NOT_RESOLUTION |= {"UV_CONCURRENT_DOWNLOADS", "UV_CONCURRENT_BUILDS", "UV_CONCURRENT_INSTALLS"}
_UV_DEFAULT = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
_UV_EXTRA = ("UV_INDEX", "UV_EXTRA_INDEX_URL")
_PLACES = (*_UV_DEFAULT, *_UV_EXTRA, "UV_FIND_LINKS")
_PIP_PLACES = ("index-url", "extra-index-url", "find-links", "no-index")
_UV_INDEX_OPTION = re.compile(
    r"^\s*(\[\[(tool\.uv\.)?index\]\]|(index-url|extra-index-url|find-links|no-index|index)\s*=)",
    re.MULTILINE,
)
_PIP_INDEX_OPTION = re.compile(rf"^\s*({'|'.join(_PIP_PLACES)})\s*[=:]", re.MULTILINE)


@dataclass(frozen=True)
class IndexSettings:
    """The environment for uv, the places it will look at, and a digest of all of that.

    `variables` may hold credentials; `fingerprint` shows nothing of them.
    """

    variables: Mapping[str, str]
    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    fingerprint: str
    # uv has an option for this and no variable.
    no_index: bool = False


def index_settings(environ: Mapping[str, str], root: Path, prefix: Path) -> IndexSettings:
    """What uv shall see, given the caller's environment variables.

    `root` is the directory uv runs in (its configuration there counts), `prefix` the caller's own
    environment, which may hold a pip.conf. uv's own settings win over pip's.
    """
    variables = {name: value for name, value in environ.items() if name not in _DROPPED}
    files = _uv_files(environ, root)
    configured = any(_UV_INDEX_OPTION.search(_text(file)) for file in files)
    pip = pip_settings(environ, prefix)
    no_index = _is_true(pip.get("no-index")) and not configured
    for name, value in _translated(pip, configured, environ).items():
        variables.setdefault(name, value)
    found = _places(variables, ("UV_FIND_LINKS",))
    return IndexSettings(
        variables=variables,
        indexes=_places(variables, _UV_DEFAULT + _UV_EXTRA),
        find_links=found,
        fingerprint=_fingerprint(variables, files, found, no_index),
        no_index=no_index,
    )


def pip_settings(environ: Mapping[str, str], prefix: Path) -> dict[str, list[str]]:
    """pip's options by name (`index-url`), from its files in its order and then its variables."""
    found: dict[str, list[str]] = {}
    for file in _pip_files(environ, prefix):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(_text(file))
        except configparser.Error:
            continue  # pip itself will tell the user
        for section in ("global", "install"):
            if parser.has_section(section):
                for name, value in parser.items(section):
                    found[name.lower().replace("_", "-")] = value.split()
    for name, value in environ.items():
        if name.startswith("PIP_") and value.strip():
            found[name[4:].lower().replace("_", "-")] = value.split()
    return found


def setting_sources(environ: Mapping[str, str], root: Path, prefix: Path) -> list[str]:
    """The variables and files that say where packages come from."""
    pip = [f"PIP_{name.upper().replace('-', '_')}" for name in _PIP_PLACES]
    uv_files = [f for f in _uv_files(environ, root) if _UV_INDEX_OPTION.search(_text(f))]
    pip_files = [f for f in _pip_files(environ, prefix) if _PIP_INDEX_OPTION.search(_text(f))]
    named = [name for name in (*_PLACES, *pip) if environ.get(name)]
    return [*named, *map(str, (*uv_files, *pip_files))]


def _pip_files(environ: Mapping[str, str], prefix: Path) -> list[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    shared = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    files = [Path(named)] if named else []
    files += [Path(directory) / "pip/pip.conf" for directory in reversed(shared) if directory]
    files += [Path("/etc/pip.conf"), home / ".pip/pip.conf"]
    mac = home / "Library/Application Support/pip"
    files.append(
        mac / "pip.conf" if sys.platform == "darwin" and mac.is_dir() else config / "pip/pip.conf"
    )
    files.append(prefix / "pip.conf")
    if active := environ.get("VIRTUAL_ENV"):
        files.append(Path(active) / "pip.conf")
    return list(dict.fromkeys(files))


def _uv_files(environ: Mapping[str, str], root: Path) -> list[Path]:
    if environ.get("UV_NO_CONFIG"):
        return []
    if named := environ.get("UV_CONFIG_FILE"):
        return [Path(named)]
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/uv/uv.toml"), config / "uv/uv.toml"]
    # uv takes the nearest directory's file only, whichever of the two.
    for directory in (root, *root.parents):
        if (directory / "uv.toml").is_file():
            return [*files, directory / "uv.toml"]
        if "[tool.uv" in _text(directory / "pyproject.toml"):
            return [*files, directory / "pyproject.toml"]
    return files


def _translated(
    pip: Mapping[str, list[str]], uv_configured: bool, environ: Mapping[str, str]
) -> dict[str, str]:
    """uv's variables for pip's options; none about places where the user told uv about them."""
    variables: dict[str, str] = {}
    if not uv_configured:
        variables.update(_translated_places(pip, environ))
    if certificates := pip.get("cert"):
        variables["SSL_CERT_FILE"] = certificates[0]
    if hosts := pip.get("trusted-host"):
        variables["UV_INSECURE_HOST"] = " ".join(hosts)
    if proxy := pip.get("proxy"):
        variables |= dict.fromkeys(_absent(("HTTPS_PROXY", "HTTP_PROXY"), environ), proxy[0])
    return variables


def _translated_places(
    pip: Mapping[str, list[str]], environ: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    if (index := pip.get("index-url")) and _all_absent(_UV_DEFAULT, environ):
        yield "UV_DEFAULT_INDEX", index[0]
    extra = [url for url in pip.get("extra-index-url", []) if _exists(url)]
    if extra and _all_absent(_UV_EXTRA, environ):
        yield "UV_INDEX", " ".join(extra)
        # pip takes the best version of all its indexes, and these were set up for pip.
        yield "UV_INDEX_STRATEGY", "unsafe-best-match"
    if links := [place for place in pip.get("find-links", []) if _exists(place)]:
        yield "UV_FIND_LINKS", ",".join(links)


def _all_absent(names: tuple[str, ...], environ: Mapping[str, str]) -> bool:
    return not any(environ.get(name) for name in names)


def _absent(names: tuple[str, ...], environ: Mapping[str, str]) -> list[str]:
    return [n for n in names if not (environ.get(n) or environ.get(n.lower()))]


def _is_true(value: list[str] | None) -> bool:
    return value is not None and " ".join(value).lower() in {"1", "true", "yes", "on"}


def local_directory(place: str) -> Path | None:
    """The path of a find-links place or index that is on this machine, else None."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in place else Path(place).expanduser()


def _exists(place: str) -> bool:
    local = local_directory(place)
    return local is None or local.exists()


def _places(variables: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...]:
    values = (variables.get(name, "") for name in names)
    # An index may be written NAME=URL.
    places = (re.sub(r"^\w[\w.-]*=(?=\w+:)", "", p) for v in values for p in re.split(r"[,\s]+", v))
    return tuple(place for place in places if place)


def _fingerprint(
    variables: Mapping[str, str], files: list[Path], find_links: tuple[str, ...], no_index: bool
) -> str:
    """Changes with every setting that may lead to other versions, new local wheels included."""
    digest = hashlib.sha256(b"no index\n" if no_index else b"")
    for name in sorted(set(variables) - _NOT_RESOLUTION):
        if name.startswith("UV_"):
            digest.update(f"{name}={variables[name]}\n".encode())
    for file in files:
        digest.update(f"{file}:{_text(file)}\n".encode())
    for place in find_links:
        digest.update(listing(place).encode())
    return digest.hexdigest()


def listing(place: str) -> str:
    """The names and sizes of the files in a local find-links directory, one a line."""
    directory = local_directory(place)
    if directory is None or not directory.is_dir():
        return ""
    with os.scandir(directory) as entries:
        return "".join(sorted(f"{e.name} {e.stat().st_size}\n" for e in entries if e.is_file()))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
