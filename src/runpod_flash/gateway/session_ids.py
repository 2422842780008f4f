"""What names a program's app: digits of the program's own making."""

from __future__ import annotations

import re

_ID = re.compile(r"[0-9a-f]{32}")


def is_session_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None
