"""Names in sentences: every "Did you mean" of Flash comes from here, and a few of many.

`difflib` is loaded only once somebody made a mistake: importing this costs nothing.
"""

from __future__ import annotations

from enum import Enum, EnumMeta

from runpod_flash.errors import ConfigurationError

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SHORTEST_FRAGMENT = 3


def near(word: str, allowed: Iterable[str], limit: int = 3) -> list[str]:
    """Up to `limit` of `allowed` that somebody who wrote `word` may have meant, nearest first.

    Case and punctuation do not count. A name that holds the whole of `word` goes before one that is
    merely spelled alike, so that `RTX_4090` and `NVIDIA_RTX4090` give `NVIDIA_GEFORCE_RTX_4090`,
    and not `RTX_A4000`.
    """
    from difflib import SequenceMatcher, get_close_matches

    spelled = {_folded(name): name for name in reversed(list(allowed))}
    folded = _folded(word)
    holding = [name for name in spelled if _holds(name, folded)]
    if holding:
        holding.sort(key=lambda name: (-SequenceMatcher(None, folded, name).ratio(), name))
    else:
        holding = get_close_matches(folded, spelled, n=limit, cutoff=0.6)
    return [spelled[name] for name in holding[:limit]]


def did_you_mean(word: str, allowed: Iterable[str], limit: int = 1) -> str:
    """ " Did you mean 'x'?" to append to a sentence, or "" if nothing is near."""
    quoted = [repr(name) for name in near(word, allowed, limit)]
    if not quoted:
        return ""
    *others, last = quoted
    listed = f"{', '.join(others)} or {last}" if others else last
    return f" Did you mean {listed}?"


def refuse_unknown(owner: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise `ConfigurationError` if a name in `given` is not one of `owner`'s `allowed` fields."""
    fields = list(allowed)
    for name in given:
        if name not in fields:
            raise ConfigurationError(
                f"{owner} has no field {name!r}.{did_you_mean(name, fields)}"
                f" Its fields are: {', '.join(fields)}."
            )


class _SuggestingMeta(EnumMeta):
    if not TYPE_CHECKING:  # with this, a checker would let every misspelled member pass

        def __getattr__(cls, name: str) -> Any:
            # Up to Python 3.11 members are found here, not by ordinary look-up.
            members = cls.__dict__.get("_member_map_", {})
            if name in members:
                return members[name]
            if name.startswith("_"):
                raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
            hint = did_you_mean(name, members, limit=3)
            # `obj` is set so that the interpreter does not append a suggestion of its own.
            raise AttributeError(f"{cls.__name__} has no member {name!r}.{hint}", name=name, obj=0)


class SuggestingEnum(Enum, metaclass=_SuggestingMeta):
    """An enum that answers a wrong member or value with the near ones.

    A wrong member raises `AttributeError`, a wrong value `ConfigurationError` (a `ValueError`).
    """

    @classmethod
    def _missing_(cls, value: object) -> Any:
        raise cls._wrong_value(value)

    @classmethod
    def _wrong_value(cls, value: object) -> ConfigurationError:
        allowed = [str(member.value) for member in cls]
        hint = did_you_mean(str(value), allowed, limit=3)
        return ConfigurationError(
            f"{value!r} is not a {cls.__name__}.{hint} Allowed: {', '.join(allowed)}."
        )


def _holds(name: str, word: str) -> bool:
    parts, wanted = name.split(), word.split()
    joined, whole = "".join(wanted), "".join(parts)
    if len(joined) < _SHORTEST_FRAGMENT:
        return False
    return set(wanted) <= set(parts) or joined in whole or _has_pieces(whole, word)


def _has_pieces(whole: str, word: str) -> bool:
    """Whether each run of letters and of digits is in it. (Single ones are in nearly anything.)"""
    import re

    pieces = re.findall(r"\d+|[^\W\d]+", word)
    return all(len(piece) > 1 and piece in whole for piece in pieces)


def _folded(text: str) -> str:
    words = "".join(char if char.isalnum() else " " for char in text.casefold())
    return " ".join(words.split())


def listed(names: Iterable[str], most: int) -> str:
    """The first of the names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"{', '.join(every[:most])}{more}"
