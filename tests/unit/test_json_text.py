"""Reading JSON with less around it gives what `json` gives (wire/json_text.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runpod_flash.wire.json_text import loader

load = loader()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(values, st.text(" \t\r\n", max_size=3), st.text(" \t\r\n", max_size=3))
def test_a_value_is_read_with_what_may_stand_around_it(value: Any, before: str, after: str) -> None:
    assert load(f"{before}{json.dumps(value)}{after}") == value


@pytest.mark.parametrize("text", ["", " ", "{", '{"a": }', "[1, 2", "1 2", '"a', "nul", "{} x"])
def test_what_is_wrong_is_said_as_json_says_it(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as found:
        load(text)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    assert str(found.value) == str(expected.value)


def test_its_options_are_those_of_the_decoder() -> None:
    assert loader(parse_float=str)("[1.50]") == ["1.50"]
