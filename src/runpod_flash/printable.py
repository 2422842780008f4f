"""Texts that others have chosen, as a terminal may show them."""

from __future__ import annotations

# What texts of several lines may hold.
LINES = "\n\t"


def printable(text: str, keep: str = "") -> str:
    """A text that a client may have chosen, without what would steer a terminal or end the line.

    Such characters become escapes, but for those in `keep`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
