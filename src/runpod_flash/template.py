"""PodTemplate: what a worker's container looks like beyond what `Endpoint` itself says.

Field names are camelCase because programs write them so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.suggest import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

DEFAULT_CONTAINER_DISK_GB = 64


class KeyValuePair:
    """One environment variable of a template. Its value is never shown by `repr`."""

    __slots__ = ("key", "value")

    def __init__(self, *, key: str, value: str, **unknown: NoReturn) -> None:
        refuse_unknown("KeyValuePair", unknown, self.__slots__)
        self.key = _checked("KeyValuePair.key", key, str)
        if not isinstance(value, str):
            # The value may be a secret: only its type is named.
            raise ConfigurationError(
                f"The value of environment variable {key!r} must be a str,"
                f" not {type(value).__name__}."
            )
        self.value = value

    @classmethod
    def from_dict(cls, variables: Mapping[str, str]) -> list[KeyValuePair]:
        """One pair for each variable, in the mapping's order."""
        return [cls(key=key, value=value) for key, value in variables.items()]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyValuePair):
            return NotImplemented
        return (self.key, self.value) == (other.key, other.value)

    def __hash__(self) -> int:
        return hash((self.key, self.value))

    def __repr__(self) -> str:
        return f"KeyValuePair(key={self.key!r}, value='***')"


class PodTemplate:
    """Overrides of the worker's container: disk, registry access, arguments, ports.

    `containerDiskInGb` is in GB. `env` takes `KeyValuePair`s or `{"key": ..., "value": ...}`
    mappings. After construction `name` reads `<name>__<resource_id>`. Raises `ConfigurationError`
    (a `ValueError`) for an unknown field or a value of another type.
    """

    def __init__(
        self,
        *,
        advancedStart: bool = False,
        config: Mapping[str, Any] | None = None,
        containerDiskInGb: int | None = None,
        containerRegistryAuthId: str = "",
        dockerArgs: str = "",
        env: Sequence[KeyValuePair | Mapping[str, str]] | None = None,
        imageName: str = "",
        name: str = "",
        ports: str = "",
        startScript: str = "",
        id: str | None = None,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("PodTemplate", unknown, _FIELDS)
        self.advancedStart = _checked("PodTemplate.advancedStart", advancedStart, bool)
        self.config = dict(
            _checked("PodTemplate.config", {} if config is None else config, Mapping)
        )
        self.containerDiskInGb = _disk(
            DEFAULT_CONTAINER_DISK_GB if containerDiskInGb is None else containerDiskInGb
        )
        self.containerRegistryAuthId = _text("containerRegistryAuthId", containerRegistryAuthId)
        self.dockerArgs = _text("dockerArgs", dockerArgs)
        self.env = [] if env is None else _pairs(env)
        self.imageName = _text("imageName", imageName)
        self.name = _text("name", name)
        self.ports = _text("ports", ports)
        self.startScript = _text("startScript", startScript)
        self.id = None if id is None else _text("id", id)
        self._env_declared = env is not None
        self._disk_declared = containerDiskInGb is not None
        self._resource_id = self._digest()
        self.name = f"{name}__{self._resource_id}"

    @property
    def resource_id(self) -> str:
        """Identity of what was declared; values of environment variables have no part in it."""
        return self._resource_id

    @property
    def env_declared(self) -> bool:
        """Whether `env` was given, be it empty: only then does an empty one mean no variables."""
        return self._env_declared

    @property
    def disk_declared(self) -> bool:
        """Whether `containerDiskInGb` was given: the default asks for nothing."""
        return self._disk_declared

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PodTemplate):
            return NotImplemented
        return vars(self) == vars(other)

    def __repr__(self) -> str:
        changed = [
            f"{field}={getattr(self, field)!r}"
            for field, default in _FIELDS.items()
            if getattr(self, field) != default
        ]
        return f"PodTemplate({', '.join(changed)})"

    def _digest(self) -> str:
        import hashlib

        declared = {field: getattr(self, field) for field in _FIELDS}
        declared["env"] = sorted(pair.key for pair in self.env)
        declared["config"] = sorted(self.config.items(), key=repr)
        text = repr(declared)
        return f"PodTemplate_{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"


_FIELDS: dict[str, Any] = {
    "advancedStart": False,
    "config": {},
    "containerDiskInGb": DEFAULT_CONTAINER_DISK_GB,
    "containerRegistryAuthId": "",
    "dockerArgs": "",
    "env": [],
    "imageName": "",
    "name": "",
    "ports": "",
    "startScript": "",
    "id": None,
}


def _disk(size: int) -> int:
    # bool is an int to Python, but True is no size.
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(
            f"PodTemplate.containerDiskInGb must be a whole number of GB from 1, not {size!r}."
        )
    return size


def _text(field: str, value: str) -> str:
    return str(_checked(f"PodTemplate.{field}", value, str))


def _checked(field: str, value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        expected = "dict" if kind is Mapping else kind.__name__
        raise ConfigurationError(f"{field} must be a {expected}, not {value!r}.")
    return value


def _pairs(env: Sequence[KeyValuePair | Mapping[str, str]]) -> list[KeyValuePair]:
    if isinstance(env, Mapping):
        raise ConfigurationError(
            "PodTemplate.env must be a list, not a dict; write KeyValuePair.from_dict({...})."
        )
    if not isinstance(env, (list, tuple)):
        raise ConfigurationError(f"PodTemplate.env must be a list, not {type(env).__name__}.")
    return [_pair(index, item) for index, item in enumerate(env)]


def _pair(index: int, item: KeyValuePair | Mapping[str, str]) -> KeyValuePair:
    if isinstance(item, KeyValuePair):
        return item
    if isinstance(item, Mapping) and {"key", "value"} <= set(item):
        refuse_unknown(f"PodTemplate.env[{index}]", item, KeyValuePair.__slots__)
        return KeyValuePair(key=item["key"], value=item["value"])
    raise ConfigurationError(
        f"PodTemplate.env[{index}] must be a KeyValuePair or a dict with 'key' and 'value',"
        f" not {type(item).__name__}."
    )
