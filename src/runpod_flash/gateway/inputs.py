"""From a request's body to a job's input, checked against the function's own types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.messages import Refusal, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.project.catalog import Operation


def read_input(body: bytes) -> Any:
    """The `input` of a job request; no body at all is an empty one."""
    if not body.strip():
        return {}
    request = parse_json(body)
    if not isinstance(request, dict) or "input" not in request:
        raise Refusal(
            422,
            'the body is an object with the key "input", such as {"input": {"name": "value"}}',
            detail=[{"loc": ["body", "input"], "msg": "Field required", "type": "missing"}],
        )
    return request["input"]


class Checker:
    """Checks inputs of one operation. The schema is compiled when it is first needed."""

    def __init__(self, operation: Operation) -> None:
        self._schema = operation.input
        self._validate: Callable[[Any], Any] | None = None

    def check(self, value: Any) -> None:
        """Raise `Refusal` (422) that names each field that is missing, unknown or wrong."""
        if not self._schema:
            return
        given = self._by_name(value)
        faults = [*self._names(given), *self._types(given)]
        if faults:
            said = "; ".join(f"{'.'.join(map(str, f['loc'][1:]))}: {f['msg']}" for f in faults)
            raise Refusal(422, f"the input does not fit the function: {said}", detail=faults)

    def _by_name(self, value: Any) -> Any:
        """The input as names and values: it may be the one required parameter as a whole."""
        properties = self._schema.get("properties", {})
        required = self._schema.get("required", [])
        single = required if required else list(properties)
        if isinstance(value, dict) and self._fits(value):
            return value
        if len(single) != 1 or (isinstance(value, dict) and single[0] in value):
            return value
        typed = properties[single[0]].get("type")
        if isinstance(value, dict) and typed not in (None, "object"):
            return value  # it cannot be meant as a whole: a name is missing or wrong
        return {single[0]: value}

    def _fits(self, value: dict[str, Any]) -> bool:
        known = self._schema.get("properties", {}).keys()
        needed = set(self._schema.get("required", ()))
        open_ended = self._schema.get("additionalProperties", False)
        return needed <= value.keys() and (open_ended or value.keys() <= known)

    def _names(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, dict):
            names = ", ".join(self._schema.get("properties", {})) or "no parameters"
            return [_fault([], f"an object with {names} is needed", "dict_type", value)]
        known = self._schema.get("properties", {})
        missing = [name for name in self._schema.get("required", ()) if name not in value]
        faults = [_fault([name], "Field required", "missing") for name in missing]
        if not self._schema.get("additionalProperties", False):
            unknown = [name for name in value if name not in known]
            faults += [
                _fault([name], f"no such parameter{_hint(name, known)}", "extra_forbidden")
                for name in unknown
            ]
        return faults

    def _types(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, dict):
            return []
        import fastjsonschema

        if self._validate is None:
            loose = {**self._schema, "required": [], "additionalProperties": True}
            self._validate = fastjsonschema.compile(loose, use_default=False, use_formats=False)
        try:
            self._validate(value)
        except fastjsonschema.JsonSchemaValueException as error:
            path = list(error.path[1:])
            message = error.message.removeprefix(error.name or "").strip()
            return [_fault(path, message, f"{error.rule}_error", error.value)]
        return []


def _hint(name: str, known: Any) -> str:
    from runpod_flash.suggest import near

    found = near(name, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _fault(path: list[Any], message: str, kind: str, value: Any = None) -> dict[str, Any]:
    fault = {"loc": ["body", "input", *path], "msg": message, "type": kind}
    return fault if value is None else {**fault, "input": value}
