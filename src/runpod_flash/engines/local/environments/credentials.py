"""Takes credentials out of URLs in text that is kept or shown, and puts them back for uv."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/?#@]*(?:@[^\s/?#@]*)*)@")
_FULL_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s,;'\"]+")


def without_credentials(text: str) -> str:
    """The text with `user:password@` taken out of every URL.

    Two forms stay, for they are no secrets: `${VARIABLE}` references, which uv expands itself, and
    the bare user name of an ssh URL (`git+ssh://git@host`).
    """
    return _URL.sub(_bare, text)


def _bare(match: re.Match[str]) -> str:
    scheme, user = match["scheme"], match["user"]
    is_reference = re.fullmatch(r"(\$\{\w+\}:?)+", user) is not None
    is_ssh_user = scheme.endswith("ssh") and ":" not in user
    return match[0] if is_reference or is_ssh_user else f"{scheme}://"


def with_credentials(lock: str, sources: Iterable[str]) -> str:
    """The lock's text with the credentials of the same URLs in `sources` put back."""
    for source in sources:
        for url in _FULL_URL.findall(source):
            full = _address(url)
            bare = without_credentials(full)
            if bare != full:
                quoted = full.replace("\\", r"\\")
                lock = re.sub(rf"{re.escape(bare)}(?=[@#?\s]|$)", quoted, lock)
    return lock


def _address(url: str) -> str:
    """The URL up to its revision, query and fragment: what uv leaves as it was."""
    url = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, _, rest = url.partition("://")
    # A revision is an @ in the path, not the one that ends the credentials.
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority}{slash}{path.partition('@')[0]}"
