"""The little of GraphQL that the hosted SDK needs."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runpod_flash.gateway.hosted.selection import parse, pick

ASKED = """
    query getIt($input: String!, $more: Int = 3) {
        it(input: $input, text: "a { } ( \\" b") { id # a comment {
            inner { name, deep { x } }
        }
    }
"""


def test_a_document_says_which_field_it_asks_for_and_which_of_its_fields() -> None:
    asked = parse(ASKED)
    assert asked.field == "it"
    assert asked.selection == {"id": {}, "inner": {"name": {}, "deep": {"x": {}}}}
    assert parse("mutation { deleteIt(id: 3) }") == ("deleteIt", {})
    assert parse("{ a { b } }") == ("a", {"b": {}})


def test_an_answer_has_what_was_asked_for_and_no_more() -> None:
    value = {"id": 1, "secret": 2, "inner": [{"name": "a", "other": 3}]}
    assert pick(value, {"id": {}, "lacking": {}, "inner": {"name": {}}}) == {
        "id": 1, "lacking": None, "inner": [{"name": "a"}],
    }  # fmt: skip
    assert pick(None, {"id": {}}) is None
    assert pick({"any": {"json": 1}}, {"any": {}}) == {"any": {"json": 1}}


@pytest.mark.parametrize(
    "document",
    [
        *("", "query", "{", "{ a", "{ a { b }", "{ }", "{ a b }", "{ a(", "{ { } }", "{ ...F }"),
        "x" * 30_000,
        "{a" * 50 + "}" * 50,
    ],
)
def test_what_is_no_such_document_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match=r"document|understood|selection"):
        parse(document)


@given(st.text(alphabet='{}()",:$ab#\n \\.!'))
def test_any_text_is_read_or_refused(document: str) -> None:
    with suppress(ValueError):
        parse(document)
