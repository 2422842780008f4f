"""How an `input` becomes arguments (rule 13 of the behaviour)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.worker.arguments import bind

if TYPE_CHECKING:
    from collections.abc import Callable


def one(data: Any) -> Any:
    return data


def one_and_optional(data: Any, n: int = 1) -> Any:
    return data, n


def two(a: Any, b: Any) -> Any:
    return a, b


def optional(a: Any = 1) -> Any:
    return a


def two_optional(a: Any = 1, b: Any = 2) -> Any:
    return a, b


def nothing() -> Any:
    return "nothing"


def keywords(**named: Any) -> Any:
    return named


def one_and_keywords(a: Any, **named: Any) -> Any:
    return a, named


def keyword_only(*, data: Any) -> Any:
    return data


def positional(a: Any, b: Any, /) -> Any:
    return a, b


def positional_defaults(a: Any = 1, b: Any = 2, /, c: Any = 3) -> Any:
    return a, b, c


def rest(a: Any, *args: Any) -> Any:
    return a, args


def call(function: Callable[..., Any], value: Any) -> Any:
    args, kwargs = bind(function, value, "input")
    return function(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "value", "result"),
    [
        (one, {"data": 5}, 5),
        (one, {"x": 5}, {"x": 5}),
        (one, {"x": 5, "y": 6}, {"x": 5, "y": 6}),
        (one, {}, {}),
        (one, [1, 2], [1, 2]),
        (one, "text", "text"),
        (one, None, None),
        (one_and_optional, {"data": 5}, (5, 1)),
        (one_and_optional, {"data": 5, "n": 6}, (5, 6)),
        (one_and_optional, {"n": 6}, ({"n": 6}, 1)),
        (one_and_optional, 5, (5, 1)),
        (two, {"a": 1, "b": 2}, (1, 2)),
        (two, {"b": 2, "a": 1}, (1, 2)),
        (optional, {}, 1),
        (optional, {"a": 5}, 5),
        (optional, {"x": 5}, {"x": 5}),
        (optional, 5, 5),
        (two_optional, {}, (1, 2)),
        (two_optional, {"b": 5}, (1, 5)),
        (nothing, {}, "nothing"),
        (keywords, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        (one_and_keywords, {"a": 1, "b": 2}, (1, {"b": 2})),
        (one_and_keywords, {"b": 2}, ({"b": 2}, {})),
        (keyword_only, {"data": 5}, 5),
        (keyword_only, {"x": 5}, {"x": 5}),
        (positional, {"b": 2, "a": 1}, (1, 2)),
        (positional_defaults, {"b": 5}, (1, 5, 3)),
        (positional_defaults, {"c": 5}, (1, 2, 5)),
        (rest, {"a": 1}, (1, ())),
        (rest, [1, 2], ([1, 2], ())),
    ],
)
def test_an_input_is_mapped_by_name_or_given_whole(
    function: Callable[..., Any], value: Any, result: Any
) -> None:
    assert call(function, value) == result


@pytest.mark.parametrize(
    ("function", "value", "words"),
    [
        (two, {"a": 1}, "lacks 'b'"),
        (two, {"a": 1, "c": 2}, "lacks 'b' and has unknown 'c'"),
        (two, [1, 2], "must be an object"),
        (two, {}, "lacks 'a', 'b'"),
        (two_optional, {"c": 1}, "has unknown 'c'"),
        (nothing, {"a": 1}, "the function takes no parameters"),
        (one, {"data": 1, "tpyo": 2}, "has unknown 'tpyo'"),
        (one_and_optional, {"data": 1, "m": 2}, "has unknown 'm'"),
    ],
)
def test_an_input_that_fits_no_way_is_refused_by_name(
    function: Callable[..., Any], value: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        call(function, value)


def test_a_bound_method_takes_its_input_without_self() -> None:
    class Model:
        def predict(self, text: str) -> str:
            return text

    assert call(Model().predict, {"text": "x"}) == "x"
    assert call(Model().predict, {"other": "x"}) == {"other": "x"}


def test_a_call_is_taken_as_it_is() -> None:
    assert bind(two, {"args": [1], "kwargs": {"b": 2}}, "call") == ([1], {"b": 2})
