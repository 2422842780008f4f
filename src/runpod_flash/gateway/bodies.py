"""Bodies of the control API: closed objects, described once for reading and for /docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.problems import invalid
from runpod_flash.gateway.resources import read_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.gateway.messages import Receive, Scope

    Schema = dict[str, Any]


class Body:
    """A JSON object: its fields' schemas, and which of them it must have."""

    def __init__(self, properties: Mapping[str, Schema], required: Sequence[str] = ()) -> None:
        self.schema = closed(properties, required)
        self._properties = properties
        self._required = required
        self._checks: dict[str, Callable[[Any], Any]] = {}

    async def read(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """The fields that were sent; 422 says what is wrong with each.

        Integers are `int`, also where they were sent as 2.0.
        """
        fields = await read_fields(scope, receive, self._properties)
        wrong = [f"$: {name!r} is needed" for name in self._required if name not in fields]
        wrong += filter(None, (self._fault(name, value) for name, value in fields.items()))
        if wrong:
            raise invalid(*wrong)
        return {name: _integers(self._properties[name], value) for name, value in fields.items()}

    def _fault(self, name: str, value: Any) -> str:
        import fastjsonschema

        check = self._checks.get(name)
        if check is None:
            check = fastjsonschema.compile(
                self._properties[name], use_default=False, use_formats=False
            )
            self._checks[name] = check
        try:
            check(value)
        except fastjsonschema.JsonSchemaValueException as error:
            place = f"$.{name}{(error.name or 'data').removeprefix('data')}"
            return f"{place}: {error.message.removeprefix(error.name or '').strip()}"
        return ""


def _integers(schema: Schema, value: Any) -> Any:
    """A value that fits the schema, with `int` for its integers: to JSON Schema 2.0 is one."""
    if isinstance(value, float):
        return int(value) if schema.get("type") == "integer" else value
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {name: _integers(known.get(name, {}), each) for name, each in value.items()}
    if isinstance(value, list):
        return [_integers(schema.get("items", {}), each) for each in value]
    return value


def closed(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    """The schema of an object that has these fields and no others."""
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    return {**schema, "required": list(required)} if required else schema


def listed(items: Schema, **more: Any) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": items, **more}
