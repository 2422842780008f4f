"""Annotations become JSON schemas that any JSON value can be checked against."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import typing
import uuid
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, Union

import fastjsonschema  # type: ignore[import-untyped,unused-ignore]
import pydantic
import pytest
import typing_extensions

from runpod_flash.project.schemas import input_schema, output_schema, schema_of, summary

if typing.TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nowhere import Missing  # type: ignore[import-not-found]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


@dataclasses.dataclass
class Box:
    width: int
    label: str = ""
    inner: list[Box] = dataclasses.field(default_factory=list)
    kind: typing.ClassVar[str] = "box"
    area: int = dataclasses.field(init=False, default=0)


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    depth: int


class Options2(Options):
    name: str


class Open(typing_extensions.TypedDict):
    name: str
    depth: typing_extensions.NotRequired[int]


class Node(pydantic.BaseModel):
    value: int = pydantic.Field(description="what it holds")
    children: list[Node] = []
    colour: Colour = Colour.RED


UserId = NewType("UserId", int)

EITHER = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
BOX = {
    "type": "object",
    "properties": {
        "width": {"type": "integer"},
        "label": {"type": "string"},
    },
    "required": ["width"],
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (object, {}),
        (list, {"type": "array"}),
        (typing.List, {"type": "array"}),  # noqa: UP006
        (typing.Dict, {"type": "object"}),  # noqa: UP006
        (typing.Tuple, {"type": "array"}),  # noqa: UP006
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (set[str], {"type": "array", "items": {"type": "string"}}),
        (collections.deque[int], {"type": "array", "items": {"type": "integer"}}),
        (collections.abc.Sequence[int], {"type": "array", "items": {"type": "integer"}}),
        (list[Any], {"type": "array"}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict[str, Any], {"type": "object"}),
        (collections.abc.Mapping, {"type": "object"}),
        (Optional[int], EITHER),  # noqa: UP045
        (Union[int, None], EITHER),  # noqa: UP007
        (int | None, EITHER),
        (Union[int, Any], {}),  # noqa: UP007
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Colour, {"enum": ["red", "blue"]}),
        (Literal[Colour.RED], {"enum": ["red"]}),
        (Size, {"enum": [1]}),
        (Annotated[int, "pixels"], {"type": "integer"}),
        (bytes, {"type": "string", "contentEncoding": "base64"}),
        (datetime.datetime, {"type": "string", "format": "date-time"}),
        (datetime.date, {"type": "string", "format": "date"}),
        (uuid.UUID, {"type": "string", "format": "uuid"}),
        (pathlib.Path, {"type": "string"}),
        (decimal.Decimal, {"type": ["number", "string"]}),
        (UserId, {"type": "integer"}),
        (type("Text", (str,), {}), {"type": "string"}),
        (type("Own", (), {"__iter__": lambda self: iter(())}), {}),
        (collections.abc.Callable[[int], int], {}),
        (type[int], {}),
        ("a text", {}),
        ([1, 2], {}),
    ],
)
def test_each_kind_of_annotation_has_its_schema(hint: Any, schema: Any) -> None:
    assert schema_of(hint) == schema


def test_what_has_fields_tells_them() -> None:
    found = schema_of(Box)
    assert found["properties"]["inner"]["type"] == "array"  # a box that holds boxes has an end
    found["properties"].pop("inner")
    assert found == BOX
    assert schema_of(Options2) == {
        "type": "object",
        "properties": {"depth": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["name"],
    }
    assert schema_of(Point)["maxItems"] == 2


def test_keys_that_need_not_be_there_are_told_though_annotations_are_text() -> None:
    found = schema_of(Open)
    assert found["required"] == ["name"]
    assert found["properties"]["depth"] == {"type": "integer"}


def test_a_model_s_definitions_stand_where_they_are_used_and_recursion_ends() -> None:
    found = schema_of(Node)
    assert "$ref" not in json.dumps(found)
    assert "$defs" not in found
    assert found["properties"]["value"]["description"] == "what it holds"
    assert found["properties"]["colour"]["enum"] == ["red", "blue"]
    assert found["properties"]["colour"]["default"] == "red"


def test_the_input_is_an_object_of_the_parameters() -> None:
    def function(a: int, b: list[float], c: str = "x", *rest: int, d: bool = True) -> None: ...

    assert input_schema(function) == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "array", "items": {"type": "number"}},
            "c": {"type": "string", "default": "x"},
            "d": {"type": "boolean", "default": True},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }


def test_keywords_of_any_name_allow_any_property_and_self_is_no_parameter() -> None:
    class Model:
        def generate(self, prompt: str, **options: Any) -> str:
            return prompt

    found = input_schema(Model.generate)
    assert found["additionalProperties"] is True
    assert list(found["properties"]) == ["prompt"]


def test_a_default_of_none_allows_null() -> None:
    def function(a: int = None, b: int | None = None, c: Any = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    found = input_schema(function)["properties"]
    assert found["a"] == {**EITHER, "default": None}
    assert found["b"] == {**EITHER, "default": None}
    assert found["c"] == {"default": None}


def test_defaults_are_json_or_not_told() -> None:
    def function(
        a: Any = Colour.BLUE,
        b: Any = (1, 2),
        c: Any = object(),  # noqa: B008
        d: float = float("nan"),
        e: str = "x" * 100_000,
    ) -> None: ...

    found = input_schema(function)
    assert found["required"] == []
    assert {n: p["default"] for n, p in found["properties"].items() if "default" in p} == {
        "a": "blue",
        "b": [1, 2],
    }


def test_a_name_that_only_type_checkers_see_hides_no_other() -> None:
    def function(a: Missing, b: int) -> Missing: ...

    assert input_schema(function)["properties"] == {"a": {}, "b": {"type": "integer"}}
    assert output_schema(function, streams=False) == {}


def test_the_output_is_the_result_or_a_stream_s_item() -> None:
    async def one() -> dict[str, int]: ...  # type: ignore[empty-body]

    def many() -> Iterator[int]:
        yield 1

    async def many_more() -> AsyncIterator[str]:
        yield ""

    def untold():  # type: ignore[no-untyped-def]
        yield 1

    assert output_schema(one, streams=False)["additionalProperties"] == {"type": "integer"}
    for function in (many, many_more, untold):
        function.__globals__.update(
            Iterator=collections.abc.Iterator, AsyncIterator=collections.abc.AsyncIterator
        )
    assert output_schema(many, streams=True) == {"type": "integer"}
    assert output_schema(many_more, streams=True) == {"type": "string"}
    assert output_schema(untold, streams=True) == {}


def test_an_annotation_that_raises_allows_anything() -> None:
    class Evil(type):
        def __hash__(cls) -> int:
            raise RuntimeError("no")

        def __subclasscheck__(cls, other: object) -> bool:
            raise RuntimeError("no")

    assert schema_of(Evil("Hint", (), {})) == {}


def test_the_summary_is_the_docstring_s_first_line() -> None:
    def function() -> None:
        """
        Resize it.

        And more.
        """

    assert summary(function) == "Resize it."
    assert summary(object()) == object.__doc__.partition("\n")[0]  # type: ignore[union-attr]
    assert summary(lambda: None) == ""


VALUES = [
    ({"box": {"width": 1}, "number": 2, "colour": "red", "pair": [1, "a"]}, True),
    ({"box": {"width": "1"}, "number": 2, "colour": "red", "pair": [1, "a"]}, False),
    ({"box": {"width": 1}, "number": True, "colour": "red", "pair": [1, "a"]}, False),
    ({"box": {"width": 1}, "number": 2, "colour": "green", "pair": [1, "a"]}, False),
    ({"box": {"width": 1}, "number": 2, "colour": "red", "pair": [1]}, False),
    ({"box": {"width": 1}, "number": 2, "colour": "red"}, False),
    ({"box": {"width": 1}, "number": 2, "colour": "red", "pair": [1, "a"], "more": 1}, False),
]


@pytest.mark.parametrize(("value", "fits"), VALUES)
def test_a_validator_reads_the_schemas(value: dict[str, Any], fits: bool) -> None:
    def function(box: Box, number: float, colour: Colour, pair: tuple[int, str]) -> None: ...

    validate = fastjsonschema.compile(input_schema(function))
    if fits:
        validate(value)
        return
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        validate(value)
