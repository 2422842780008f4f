"""What `flash doctor` finds out: a thing a finding, where it comes from, and a remedy if bad."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """`value` is for people, `data` for programs; `source` says where the value comes from.

    An error keeps Flash from working, a warning does not. Both have a remedy.
    """

    topic: str
    name: str
    value: str
    source: str = ""
    state: State = "ok"
    remedy: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Topic:
    """Makes the findings of one topic."""

    name: str

    def fine(self, name: str, value: str, source: str = "", /, **data: Any) -> Finding:
        return Finding(self.name, name, value, source, data=data)

    def warning(
        self, name: str, value: str, remedy: str, source: str = "", /, **data: Any
    ) -> Finding:
        return Finding(self.name, name, value, source, "warning", remedy, data)

    def error(
        self, name: str, value: str, remedy: str, source: str = "", /, **data: Any
    ) -> Finding:
        return Finding(self.name, name, value, source, "error", remedy, data)
