"""Requirement lines: what a declaration and a requirements.txt say, made ready for uv."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.errors import EnvironmentBuildError

_OWN_NAME = "runpod-flash"
_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?=$|[\[@<>=!~;(,\s])")
_EGG = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9._-]+)")
_FILE_URL = re.compile(r"(?:^|@\s*)file:(?://)?(?:localhost)?([^\s;#]+)")
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")
# Long name of each short option; True where it is followed by a value.
_SHORT = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable"}
_SHORT |= {"-i": "--index-url", "-f": "--find-links"}
_OPTIONS = {
    "--requirement": True,
    "--constraint": True,
    "--editable": True,
    "--index-url": True,
    "--extra-index-url": True,
    "--find-links": True,
    "--no-index": False,
    "--no-binary": True,
    "--only-binary": True,
    "--pre": False,
    "--trusted-host": True,
    # Without an effect on what uv installs:
    "--prefer-binary": False,
    "--require-hashes": False,
    "--use-feature": True,
}
_SKIPPED_DIRECTORIES = {"__pycache__", "node_modules", "build", "dist"}


@dataclass(frozen=True)
class Requirements:
    """Sorted requirement lines, and option lines in their order; paths are absolute."""

    lines: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """How each requirement is called in a message, in order."""
        return tuple(requirement_name(line) or without_credentials(line) for line in self.lines)

    @property
    def hashes(self) -> dict[str, str]:
        """The `--hash` options of each line that has some, by the package's name."""
        found = (
            (requirement_name(line), re.findall(r"--hash[= ]\S+", line)) for line in self.lines
        )
        return {name: " ".join(hashes) for name, hashes in found if name and hashes}

    @property
    def local_names(self) -> tuple[str | None, ...]:
        """The packages whose source directories are named; None for one that doesn't tell."""
        named = (local_path(line) for line in self.lines)
        return tuple(project_name(path) for path in named if path and path.is_dir())

    @property
    def local_archives(self) -> tuple[Path, ...]:
        """The wheels and source archives that the lines name."""
        named = (local_path(line) for line in self.lines)
        return tuple(path for path in named if path and path.is_file())

    def values(self, option: str) -> tuple[str, ...]:
        return tuple(value for name, value in self.options if name == option)

    def text(self, lines: str) -> str:
        """These options, then `lines`, as uv reads them."""
        passed = {"--index-url", "--extra-index-url", "--find-links", "--no-index"}
        passed |= {"--no-binary", "--only-binary", "--constraint"}
        head = [f"{name} {value}".rstrip() for name, value in self.options if name in passed]
        return "\n".join([*head, lines.rstrip(), ""])

    def stamps(self) -> tuple[str, ...]:
        """What identifies the present content of every local file that the lines name."""
        named = [path for line in self.lines if (path := local_path(line))]
        named += [Path(path) for path in self.values("--constraint")]
        return tuple(sorted({f"{path} {content_stamp(path)}" for path in named}))


def parse_requirements(lines: tuple[str, ...], root: Path) -> Requirements:
    """Read lines as in a requirements.txt that lies in `root`.

    `-r` files are read in, lines that name runpod-flash are dropped: workers see this very source.
    Raises `EnvironmentBuildError` for an option that is not known and a file that is not there.
    """
    found: list[str] = []
    options: list[tuple[str, str]] = []
    _read(lines, root, found, options, set())
    kept = {line for line in found if requirement_name(line) != _OWN_NAME}
    return Requirements(tuple(sorted(kept)), tuple(dict.fromkeys(options)))


def _read(
    lines: tuple[str, ...],
    base: Path,
    found: list[str],
    options: list[tuple[str, str]],
    seen: set[Path],
) -> None:
    for line in _logical_lines(lines):
        if not line.startswith("-"):
            found.append(_absolute_requirement(line, base))
            continue
        name, value = _split_option(line)
        if name == "--editable":
            found.append(f"-e {_absolute_requirement(value, base)}")
        elif name == "--requirement":
            path = (base / os.path.expandvars(value)).resolve()
            if path not in seen:
                _read(_file_lines(path, line), path.parent, found, options, seen | {path})
        elif name == "--constraint":
            path = (base / os.path.expandvars(value)).resolve()
            _file_lines(path, line)
            options.append((name, str(path)))
        elif name == "--find-links":
            options.append((name, _absolute_location(value, base)))
        else:
            options.append((name, value))


def _logical_lines(lines: tuple[str, ...]) -> list[str]:
    """Lines without comments, continuations joined, blank ones left out."""
    text = re.sub(r"\\\r?\n[ \t]*", " ", "\n".join(lines))
    stripped = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in stripped if line]


def _file_lines(path: Path, line: str) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise EnvironmentBuildError(
            f"The requirement line {line!r} names {path}, which cannot be read: {reason}."
        ) from error


def _split_option(line: str) -> tuple[str, str]:
    match = re.match(r"(--[a-z-]+|-[a-zA-Z])\s*[= ]?\s*(.*)$", line)
    name = _SHORT.get(match[1], match[1]) if match else line
    value = match[2].strip().strip("\"'") if match else ""
    if name not in _OPTIONS:
        raise EnvironmentBuildError(
            f"The requirement line {without_credentials(line)!r} starts with an option that is not "
            "known here; options of pip's requirement files that choose packages are."
        )
    if _OPTIONS[name] and not value:
        raise EnvironmentBuildError(f"The requirement line {line!r} lacks a value after {name}.")
    return name, value


def _absolute_requirement(line: str, base: Path) -> str:
    """A requirement with its path, if it is one, made absolute (extras and markers kept)."""
    if not _is_path(line):
        return re.sub(r"\s+", " ", line)
    path, rest = _split_path(line)
    return f"{(base / Path(path).expanduser()).resolve()}{rest}"


def _absolute_location(value: str, base: Path) -> str:
    return value if "://" in value else str((base / Path(value).expanduser()).resolve())


def _split_path(line: str) -> tuple[str, str]:
    match = re.match(r"(.*?)(\[[^\]]*\])?(\s*;.*|\s+--.*)?$", line)
    return (match[1].strip(), (match[2] or "") + (match[3] or "")) if match else (line, "")


def _is_path(line: str) -> bool:
    if "://" in line or "@ " in line:
        return False
    path, _ = _split_path(line)
    return path.startswith((".", "/", "~")) or "/" in path or path.endswith(_ARCHIVES)


def local_path(line: str) -> Path | None:
    """The file or directory that a requirement line installs, if it is on this machine."""
    line = line.removeprefix("-e ")
    if match := _FILE_URL.search(line):
        return Path(unquote(match[1]))
    return Path(_split_path(line)[0]) if _is_path(line) else None


def with_wheel(line: str, wheel: Path) -> str:
    """A line about something local, with that wheel in its place; extras and markers stay."""
    line = line.removeprefix("-e ")
    if match := _FILE_URL.search(line):
        before, rest = line[: match.start()], line[match.end() :]
    else:
        before = rest = _split_path(line)[1]
    extras = re.search(r"\[[^\]]*\]", before)
    rest = rest.removeprefix(extras[0] if extras else "").strip()
    name = normalised(wheel.name.partition("-")[0])
    return f"{name}{extras[0] if extras else ''} @ {wheel.as_uri()} {rest}".rstrip()


def project_name(directory: Path) -> str | None:
    """What the project file of a source directory says; None where it says nothing."""
    try:
        text = (directory / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.search(r"^name\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
    return match[1] if match else None


def requirement_name(line: str) -> str | None:
    """The normalised name of the package that a line asks for, or None where it doesn't say."""
    if egg := _EGG.search(line):
        return normalised(egg[1])
    body = line.removeprefix("-e ").strip()
    if "://" in body.partition("@ ")[0] or _is_path(body):
        archive = re.split(r"[?#;\s]", _split_path(body)[0])[0].rpartition("/")[2]
        if archive.endswith(".whl"):
            return normalised(archive.partition("-")[0])
        return normalised(m[1]) if (m := re.match(r"(.+?)-\d.*\.(tar|tgz|zip)", archive)) else None
    match = _NAME.match(body)
    return normalised(match[1]) if match else None


def normalised(name: str) -> str:
    """A package's name as indexes compare it: runs of `-`, `_` and `.` are one `-`, lower case."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_lines(requirements: Requirements) -> None:
    """Raise `EnvironmentBuildError` that names the first line which is no requirement."""
    for line in requirements.lines:
        _validate(line)


def _validate(line: str) -> None:
    from packaging.requirements import InvalidRequirement, Requirement

    if line.startswith("-") and not line.startswith("-e "):
        _split_option(line)
        return
    body = re.split(r"\s--", line.removeprefix("-e ").strip())[0]
    if _is_path(body) or re.match(r"[a-z][a-z0-9+.-]*://", body):
        return
    try:
        # uv expands ${VARIABLE} itself; packaging would refuse the braces.
        Requirement(re.sub(r"\$\{(\w+)\}", r"\1", body))
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0].rstrip(".:")
        raise EnvironmentBuildError(
            f"The dependency {without_credentials(line)!r} is not a valid requirement: {reason}; "
            'write it like "numpy>=1.26".'
        ) from None


def content_stamp(path: Path) -> str:
    """A short text that changes when the file, or any file of the directory, does."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else _files(path):
        stat = file.stat()
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(directory: Path) -> list[Path]:
    """The files of a source tree, without hidden ones and what builds leave there."""
    found: list[Path] = []
    for parent, directories, names in os.walk(directory):
        skipped = {d for d in directories if d.startswith(".") or d.endswith(".egg-info")}
        directories[:] = sorted(set(directories) - skipped - _SKIPPED_DIRECTORIES)
        found += [p for name in sorted(names) if (p := Path(parent, name)).is_file()]
    return found
