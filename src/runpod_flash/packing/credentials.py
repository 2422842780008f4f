"""Finds credentials in files that are about to leave this machine."""

from __future__ import annotations

import re
import zipfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from runpod_flash.project.tree import TreeFile

# Of a larger file only so much is read: it is data.
_READ = 2_000_000
_NAMES = re.compile(
    r"(?:^|/)(?:id_(?:rsa|dsa|ecdsa|ed25519)|[\w.-]*\.env|env\.(?:local|prod\w*)|[\w.-]+\.(?:p12|pfx)"
    r"|credentials\.csv|service[-_]account[\w.-]*\.json|\.?netrc|\.?pgpass|\.?pypirc)$"
)
# Each kind by what it begins with, which is quick to look for, and its whole shape.
_SHAPES = (
    ("a private key", b"-----BEGIN ", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    ("an AWS access key", b"AKIA", rb"\bAKIA[0-9A-Z]{16}\b"),
    ("an AWS access key", b"ASIA", rb"\bASIA[0-9A-Z]{16}\b"),
    ("a Hugging Face token", b"hf_", rb"\bhf_[A-Za-z0-9]{30,}\b"),
    ("a GitHub token", b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{60,}\b"),
    ("a GitHub token", b"gh", rb"\bgh[pousr]_[A-Za-z0-9]{36,}\b"),
    ("a GitLab token", b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20,}\b"),
    ("a RunPod key", b"rpa_", rb"\brpa_[A-Za-z0-9]{30,}\b"),
    ("an Anthropic key", b"sk-ant-", rb"\bsk-ant-[A-Za-z0-9_-]{32,}"),
    ("an OpenAI key", b"sk-", rb"\bsk-(?!ant-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{32,}"),
    ("a Google API key", b"AIza", rb"\bAIza[A-Za-z0-9_-]{35}\b"),
    ("a Slack token", b"xox", rb"\bxox[abeoprs]-[A-Za-z0-9-]{20,}"),
    ("a Stripe key", b"_live_", rb"\b[sr]k_live_[A-Za-z0-9]{20,}\b"),
    ("a PyPI token", b"pypi-", rb"\bpypi-AgEI[A-Za-z0-9_-]{50,}"),
)
_KINDS = [(kind, mark, re.compile(shape)) for kind, mark, shape in _SHAPES]
_PASSWORD = re.compile(rb"\b[a-z][a-z0-9+.-]*://[^\s/:@$]+:[^\s/@$]+@")
# A real token has more than a few different characters: an example's x and 0 do not count.
_FEWEST = 10


class Found(NamedTuple):
    """A credential, by its file (a POSIX path), line (0: the file as a whole) and kind."""

    path: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} ({self.kind})" if self.line else f"{self.path}"


def credentials(root: Path, files: Iterable[TreeFile]) -> Iterator[Found]:
    """What looks like one, the first of each file."""
    for file in files:
        with suppress(OSError), (root / file.path).open("rb") as stream:
            if found := _in_file(file.path, stream):
                yield found


def credentials_in_wheel(wheel: Path) -> Iterator[Found]:
    """The same in the files of a wheel, whose paths begin with its name."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                if found := _in_file(f"{wheel.name}/{name}", stream):
                    yield found


def _in_file(path: str, stream: IO[bytes]) -> Found | None:
    if _NAMES.search(path):
        return Found(path, 0, "")
    data = stream.read(_READ)
    if b"\0" in data[:8192]:
        return None
    found = [
        (at, kind) for kind, mark, shape in _KINDS if mark in data for at in _real(shape, data)
    ]
    if _asks_for_packages(path):
        found += [(match.start(), "a password") for match in _PASSWORD.finditer(data)]
    if not found:
        return None
    at, kind = min(found)
    return Found(path, data.count(b"\n", 0, at) + 1, kind)


def _real(shape: re.Pattern[bytes], data: bytes) -> Iterator[int]:
    for match in shape.finditer(data):
        if b"EXAMPLE" not in match[0] and len(set(match[0])) >= _FEWEST:
            yield match.start()


def _asks_for_packages(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name in ("uv.toml", "pip.conf", "pyproject.toml") or (
        name.startswith(("requirements", "constraints")) and name.endswith((".txt", ".in"))
    )
