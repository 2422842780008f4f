"""Cuts what a process writes into lines."""

from __future__ import annotations

LINE_LIMIT = 64 * 1024


class Lines:
    """Cuts a stream of bytes into lines of at most `LINE_LIMIT` bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, rest = (self._rest + data).split(b"\n")
        full = max(len(rest) - 1, 0) // LINE_LIMIT * LINE_LIMIT
        self._rest = rest[full:]
        if full:
            lines.append(rest[:full])
        return [part for line in lines for part in _cut(line)]

    def rest(self) -> list[str]:
        """The last line, where nothing ended it."""
        rest, self._rest = self._rest, b""
        return _cut(rest) if rest else []


def _cut(line: bytes) -> list[str]:
    starts = range(0, max(len(line), 1), LINE_LIMIT)
    return [line[at : at + LINE_LIMIT].decode(errors="replace") for at in starts]
