"""`os.environ` in a worker: modules see the caller's variables while imported, functions do not."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runpod_flash.errors import MissingVariableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class _WorkerEnviron(os._Environ):  # type: ignore[type-arg]
    """The process's own environment object, with an answer for variables that are missing."""

    _caller: Mapping[str, str]
    _importing: bool
    _endpoint: str

    def __getitem__(self, key: str) -> str:
        try:
            value: str = super().__getitem__(key)
        except KeyError:
            if key not in self._caller:
                raise
            if self._importing:
                return self._caller[key]
            raise MissingVariableError(
                f"{key!r} is set where you call from but not in the workers of "
                f"{self._endpoint!r}: list it in env={{{key!r}: os.environ[{key!r}]}}"
            ) from None
        return value


@contextmanager
def caller_variables(caller: Mapping[str, str], endpoint: str) -> Iterator[None]:
    """Let `os.environ` fall back to the caller's variables; afterwards only names are kept."""
    environ = os.environ
    environ.__class__ = _WorkerEnviron
    vars(environ).update(_caller=caller, _importing=True, _endpoint=endpoint)
    try:
        yield
    finally:
        vars(environ).update(_caller=dict.fromkeys(caller, ""), _importing=False)
