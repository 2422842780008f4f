"""Every exception that a user of Flash can meet.

    FlashError
    ├── ConfigurationError (also ValueError)   a declaration or setting is wrong
    ├── NotAvailableError (also RuntimeError)  a public name that does not work here yet
    ├── UnguardedCallError                     a script calls its endpoint while a worker imports it
    ├── MissingDependencyError (also ImportError)  an absent package is used
    ├── MissingVariableError (also KeyError)   a variable the caller has and the worker has not
    ├── EnvironmentBuildError                  dependencies could not be resolved or installed
    ├── WorkerStartError                       no worker of the endpoint could start
    ├── SerializationError                     a value cannot travel
    │   └── PayloadTooLargeError
    ├── ConnectionClosedError                  the plane or the worker went away
    ├── FlashAppError                          the server refuses what FlashApp asks
    │   ├── FlashAppNotFoundError
    │   └── FlashEnvironmentNotFoundError
    ├── StoreFullError                         the server has no room for another job
    └── JobError                               a job ended without a result
        ├── RemoteError                        the function raised a type unknown here
        ├── WorkerLostError                    the worker died with the job
        ├── JobCancelledError
        └── JobTimeoutError (also TimeoutError)

A message is one sentence that names what failed, the value, and what to do.
"""

from __future__ import annotations


class FlashError(Exception):
    """Base of everything that Flash raises by itself."""


class ConfigurationError(FlashError, ValueError):
    """A declaration, parameter or setting is wrong; the message names it and what is allowed."""


class NotAvailableError(FlashError, RuntimeError):
    """A public name that this version, or this target, does not offer yet."""


class UnguardedCallError(FlashError):
    """A module calls an endpoint at its top level, and a worker imported that module."""


class MissingDependencyError(FlashError, ImportError):
    """A package that is not installed here was used; the message says where to declare it."""


class MissingVariableError(FlashError, KeyError):
    """An environment variable is set for the caller but not for the worker."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote the sentence.
        return str(self.args[0]) if self.args else ""


class EnvironmentBuildError(FlashError):
    """The endpoint's Python or packages could not be resolved or installed."""


class WorkerStartError(FlashError):
    """No worker of the endpoint could start; the message holds the cause and the last output."""


class SerializationError(FlashError):
    """A value cannot be sent to a worker, or cannot be read here."""


class PayloadTooLargeError(SerializationError):
    """A value is larger than the target accepts."""


class ConnectionClosedError(FlashError):
    """The other end of a link went away before it answered."""


class FlashAppError(FlashError):
    """The server refuses what `FlashApp` asks of it; the message has its words."""


class FlashAppNotFoundError(FlashAppError):
    """The server has no app of that name."""


class FlashEnvironmentNotFoundError(FlashAppError):
    """The app has no environment of that name."""


class StoreFullError(FlashError):
    """The store has reached its bound, or the disk is full; jobs that it has are safe."""


class JobError(FlashError):
    """A job ended without a result."""


class RemoteError(JobError):
    """The function raised an exception whose type is not imported here.

    `type_name` is its qualified type, `remote_message` its text, `remote_traceback` the worker's
    formatted traceback.
    """

    def __init__(self, type_name: str, remote_message: str, remote_traceback: str = "") -> None:
        super().__init__(type_name, remote_message, remote_traceback)
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.remote_message}" if self.type_name else self.remote_message


class WorkerLostError(JobError):
    """The worker died while it ran the job, and the job may not (or not again) be rerun."""


class JobCancelledError(JobError):
    """The job was cancelled before it ended."""


class JobTimeoutError(JobError, TimeoutError):
    """The job ran longer than `execution_timeout_ms`, or was not finished in its time to live."""
