"""JSON text, written and read with less around it than `json` has: most values are small.

`json.JSONEncoder.encode` makes an encoder for each value, which takes longer than to write a small
one, as those of a warm call are.
"""

from __future__ import annotations

import json
from json import encoder, scanner
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


# The value that a text has at a place, and where it ends; raises `StopIteration` or `ValueError`
# where none is, or not a whole one.
scan: Callable[[str, int], tuple[Any, int]]
scan = scanner.make_scanner(json.JSONDecoder())  # type: ignore[arg-type]


_SPACE = " \t\n\r"


def loader(**options: Any) -> Callable[[str], Any]:
    """Reads JSON as a `json.JSONDecoder` with these options does."""
    decoder = json.JSONDecoder(**options)
    whole = scanner.make_scanner(decoder)  # type: ignore[arg-type]

    def load(text: str) -> Any:
        try:
            value, end = whole(text, 0)
        except StopIteration:
            end = -1
        if end == len(text) or (end > 0 and not text[end:].strip(_SPACE)):
            return value
        return decoder.decode(text)  # with white space before it, or an error that says where

    return load


def dumper(
    *, ensure_ascii: bool, allow_nan: bool, separators: tuple[str, str] = (",", ":")
) -> Callable[[Any], str]:
    """Writes JSON. There is no check for cycles: the caller knows the value.

    Raises `TypeError` and `ValueError` as `json.dumps` does.
    """
    portable = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        check_circular=False,
        allow_nan=allow_nan,
        separators=separators,
    )
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:  # an interpreter whose json is written in Python
        return portable.encode
    quote = encoder.encode_basestring_ascii if ensure_ascii else encoder.encode_basestring
    write = make(None, portable.default, quote, None, *separators[::-1], False, False, allow_nan)
    return lambda value: "".join(write(value, 0))
