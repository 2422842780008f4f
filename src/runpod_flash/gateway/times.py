"""Times as the control API writes them."""

from __future__ import annotations

import datetime


def rfc3339(seconds: float) -> str:
    """A time since 1970 in UTC, to the second."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
