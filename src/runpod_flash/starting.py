"""What is to happen in each worker before its first job."""

from __future__ import annotations

import inspect

from runpod_flash.errors import ConfigurationError

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Function = TypeVar("Function", bound=Callable[[], Any])

_functions: list[Callable[[], Any]] = []


def on_start(function: Function = None) -> Function:  # type: ignore[assignment]
    """Have the function called in each worker, after its module was imported and before its jobs.

        MODEL = load_model("cpu")     # once; workers that start later share its memory

        @on_start
        def connect():                # in each worker
            global database
            database = psycopg.connect(URL)

    It takes no arguments, and may be async: it runs on the loop on which async endpoints run. Those
    of a worker are called one by one in the order in which they were decorated. A worker in which
    one raises does not start, as where the module itself does. Nothing is called in other
    processes.

    Connections, threads, locks that they hold, temporary files, and what is on a GPU belong here: a
    worker may be a fork of a process that has imported the module, and shares none of these.
    Raises `ConfigurationError` for what cannot be called without arguments.
    """
    _check(function)
    _functions.append(function)
    return function


def _check(function: Any) -> None:
    if not callable(function):
        raise ConfigurationError("on_start: write @on_start above a function, without parentheses")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(
            f"@on_start above {name}: {error}, but workers call it without any"
        ) from None
    except ValueError:  # some written in C have none
        pass


async def start() -> None:
    """Call them all."""
    for function in _functions:
        given = function()
        if inspect.isawaitable(given):
            await given
