"""The error tree.

::

    AsyafwError
    ├── Reject, Retry                  raised by handlers to decide an outcome
    │   └── RateLimited, CircuitOpen   raised by `asyafw.limits`
    ├── ConfigurationError             the set-up is wrong; nothing has run
    │   ├── AppCheckError, InvalidName, MissingExtra, TargetError,
    │   └── UnknownActor, UnknownFlow, UnknownScheme
    ├── DecodeError                    bytes that are no envelope
    ├── PayloadError                   a value that does not match its type
    ├── LimitExceeded                  hops, route, size, children
    ├── HandlerTimeout, DeadlineExceeded, HandlerCancelled, HandlerExited
    ├── RetriesExhausted, ProcessCrashed, WorkerCrashed
    ├── ResultTypeError, JoinFailed
    ├── BlobError                      the claim-check store
    │   └── BlobUnavailable
    ├── TransportError
    │   └── TransportUnavailable, TransportClosed
    └── JobError                       what a client waiting for a job sees
        └── JobFailed, JobCancelled, ResultTimeout

A class's first docstring line is its message where none is given.
All of them can be pickled, so that they cross from one process to another.
"""

from collections.abc import Sequence
from inspect import getdoc
from typing import Any

__all__ = [
    "AppCheckError",
    "AsyafwError",
    "BlobError",
    "BlobUnavailable",
    "CircuitOpen",
    "ConfigurationError",
    "DeadlineExceeded",
    "DecodeError",
    "HandlerCancelled",
    "HandlerExited",
    "HandlerTimeout",
    "InvalidName",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JoinFailed",
    "LimitExceeded",
    "MissingExtra",
    "PayloadError",
    "ProcessCrashed",
    "RateLimited",
    "Reject",
    "ResultTimeout",
    "ResultTypeError",
    "RetriesExhausted",
    "Retry",
    "TargetError",
    "TransportClosed",
    "TransportError",
    "TransportUnavailable",
    "UnknownActor",
    "UnknownFlow",
    "UnknownScheme",
    "WorkerCrashed",
]

_LONGEST_WAIT_S = 1e9  # as `asyafw.envelope.LONGEST_WAIT_S`, which builds on this module


def message_of(error: BaseException) -> str:
    """Give what an exception says, be it that its `__str__` fails, as anybody's may."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 — as the summary says
        return "it does not say why: its __str__ fails"


class AsyafwError(Exception):
    """Something went wrong in asyafw."""

    transient = False
    """Whether the same may go well at another time; if not, no `RetryPolicy` repeats it."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (getdoc(type(self)) or "").partition("\n")[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # The arguments that exceptions keep are not those of every `__init__` here.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[AsyafwError], args: tuple[Any, ...], state: dict[str, Any]) -> AsyafwError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class Retry(AsyafwError):
    """The handler asked to be run again.

    Raise it in a handler.
    `after_s` is the delay in seconds, one that is over counting as none;
    without it the actor's `RetryPolicy` decides.
    The attempt counts, unless `counted` is false: then the message only waits, as for a rate limit.

    Raises:
        ValueError: `after_s` is longer than any message may wait, or NaN.
    """

    def __init__(
        self, reason: str | None = None, *, after_s: float | None = None, counted: bool = True
    ) -> None:
        super().__init__(reason)
        if after_s is not None and not after_s <= _LONGEST_WAIT_S:
            raise ValueError(f"Retry(after_s=...) is at most {_LONGEST_WAIT_S:g}, not {after_s}")
        self.after_s = None if after_s is None else max(0.0, after_s)
        self.counted = counted


class RateLimited(Retry):
    """The message waits for its turn under a rate limit."""


class CircuitOpen(Retry):
    """The message waits because what it would call is out of order."""


class Reject(AsyafwError):
    """The handler refused the message.

    Raise it in a handler: the message becomes a dead letter at once, with no further attempt.
    """


class ConfigurationError(AsyafwError):
    """The set-up is wrong."""


class AppCheckError(ConfigurationError):
    """The app's actors do not fit together.

    `problems` holds one sentence each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class InvalidName(ConfigurationError):
    """A name must match [a-z0-9][a-z0-9-]{0,62}."""


class MissingExtra(ConfigurationError):
    """A package of an extra is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs an extra: pip install 'asyafw[{extra}]'")
        self.extra = extra


class TargetError(ConfigurationError):
    """The target module cannot be loaded."""


class UnknownActor(ConfigurationError):
    """A route names an actor that the app does not have."""


class UnknownFlow(ConfigurationError):
    """The app has no such flow."""


class UnknownScheme(ConfigurationError):
    """No transport has this URL scheme."""


class DecodeError(AsyafwError):
    """These bytes are not an envelope."""


class PayloadError(AsyafwError, ValueError):
    """The payload does not match its type."""


class LimitExceeded(AsyafwError):
    """A bound of the envelope was passed: hops, route length, children or size."""


class HandlerTimeout(AsyafwError, TimeoutError):
    """The handler ran longer than its timeout."""

    transient = True


class HandlerCancelled(AsyafwError):
    """The handler cancelled itself."""

    transient = True


class HandlerExited(AsyafwError):
    """The handler raised what ends a program, such as SystemExit."""


class RetriesExhausted(AsyafwError):
    """The handler asked to be run again more often than its policy allows."""


class ProcessCrashed(AsyafwError):
    """The process that ran the handler died."""

    transient = True


class DeadlineExceeded(AsyafwError, TimeoutError):
    """The deadline of the job has passed."""


class WorkerCrashed(AsyafwError):
    """The message was delivered several times and never settled: it may kill its worker."""


class ResultTypeError(AsyafwError, TypeError):
    """The handler returned something else than it declares."""


class JoinFailed(AsyafwError):
    """Not every sibling of a fan-out arrived at the join."""


class BlobError(AsyafwError):
    """A claim-checked payload cannot be stored or fetched."""


class BlobUnavailable(BlobError):
    """The claim-check store cannot be reached."""

    transient = True


class TransportError(AsyafwError):
    """The transport failed."""

    transient = True


class TransportUnavailable(TransportError):
    """The transport cannot be reached."""


class TransportClosed(TransportError):
    """The transport is closed."""


class JobError(AsyafwError):
    """A job did not give a result.

    `job` is its id.
    """

    def __init__(self, job: str, message: str | None = None) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobError):
    """The job failed.

    `error` is the record kept with its dead letter (`asyafw.envelope.Failure`).
    """

    def __init__(self, job: str, error: Any) -> None:
        super().__init__(job, f"{error.type} in {error.actor}: {error.message}")
        self.error = error


class JobCancelled(JobError):
    """The job was cancelled."""


class ResultTimeout(JobError, TimeoutError):
    """The job did not end in time; it goes on."""
