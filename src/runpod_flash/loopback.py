"""Which hosts are this machine itself."""

from __future__ import annotations

import re

_NAMES = re.compile(r"(?:[^.]+\.)*localhost|127(?:\.\d{1,3}){3}|::1|\[::1\]")


def is_loopback(host: str) -> bool:
    """Whether a host, without a port, is this machine; only names that nobody else can own are."""
    return _NAMES.fullmatch(host.lower()) is not None
