"""What happens to a job, as entries of a log.

Every job's events go to one log, `EVENTS`, unless its envelope names another.
The last event of a job travels in the same step as its last acknowledgement.
"""

from typing import Any, Final, Literal, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

from asyafw.envelope import (
    CODECS,
    DECODING_ERRORS,
    Claim,
    Codec,
    Count,
    Failure,
    Id,
    Seconds,
    codec_of,
)
from asyafw.exceptions import DecodeError
from asyafw.transport import Append

__all__ = [
    "CONTROL",
    "DEAD_LETTERS",
    "EVENTS",
    "Cancel",
    "Event",
    "Kind",
    "append",
    "decode_cancel",
    "decode_event",
    "job_of",
]

# Actors cannot have these names: a dot is not allowed in theirs.
EVENTS: Final = "asyafw.events"
CONTROL: Final = "asyafw.control"
DEAD_LETTERS: Final = "asyafw.dead-letters"

Kind: TypeAlias = Literal[
    "accepted",
    "started",
    "progress",
    "hop",
    "retried",
    "child",
    "missing",
    "succeeded",
    "failed",
    "cancelled",
]


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Something that happened to a job.

    ============ ==================================================================
    kind         meaning
    ============ ==================================================================
    accepted     the job was submitted; `next` is its first route
    started      a handler has been running for a while (short runs are not told)
    progress     a handler reported a `fraction` from 0 to 1, or a `message`
    hop          a message was handed on to `next`, or became `children` messages
    retried      a handler failed with `error`; the message runs again after a delay
    child        a child of a fan-out ended, with a result, an `error`, or `children` of its own
    missing      a child of a fan-out will not come to its join; `error` says why
    succeeded    the job ended; its result, unless its children's ends gave it
    failed       the job ended; `error` says why
    cancelled    the job ended, because somebody cancelled it
    ============ ==================================================================

    Times are seconds since the Unix epoch: a message waited from `enqueued_at` to `started_at`
    and ran from there to `at`.
    `path` places a child among its siblings, outermost fan-out first.
    `payload` is the encoded result, which may be null; it is unset where there is none.
    """

    kind: Kind
    job: Id
    id: Id
    at: Seconds
    flow: str | None = None
    actor: str | None = None
    hop: Count = 0
    attempt: Count = 1
    enqueued_at: Seconds = 0
    started_at: Seconds = 0
    next: tuple[str, ...] = ()
    children: Count | None = None
    path: tuple[Count, ...] = ()
    fraction: float | None = None
    message: str | None = None
    payload: Raw | UnsetType = UNSET
    claim: Claim | None = None
    error: Failure | None = None

    @property
    def ends_job(self) -> bool:
        """Whether no further event of the job follows, short of a replay."""
        return self.kind in ("succeeded", "failed", "cancelled")


class Cancel(Struct, frozen=True):
    """An entry of the `CONTROL` log: cancel this job."""

    cancel: Id


class _JobOnly(Struct):
    job: Id


_DECODERS = {codec.name: codec.decoder(Event) for codec in CODECS.values()}
_JOB_DECODERS = {codec.name: codec.decoder(_JobOnly) for codec in CODECS.values()}
_CANCEL_DECODERS = {codec.name: codec.decoder(Cancel) for codec in CODECS.values()}


def append(event: Event, codec: Codec, log: str | None = None) -> Append:
    """Make the entry of an event; its payload is already in that codec."""
    return Append(log or EVENTS, codec.encode(event))


def job_of(body: bytes) -> str:
    """Read only the job's id of an encoded event, at a fraction of the cost.

    Raises:
        DecodeError: these bytes are no event.
    """
    job: str = _decode(_JOB_DECODERS, body).job
    return job


def decode_event(body: bytes) -> Event:
    """Decode an event.

    Raises:
        DecodeError: these bytes are no event.
    """
    event: Event = _decode(_DECODERS, body)
    return event


def decode_cancel(body: bytes) -> Cancel:
    """Decode an entry of the `CONTROL` log.

    Raises:
        DecodeError: these bytes are none.
    """
    cancel: Cancel = _decode(_CANCEL_DECODERS, body)
    return cancel


def _decode(decoders: dict[str, Any], body: bytes) -> Any:
    try:
        return decoders[codec_of(body).name].decode(body)
    except DECODING_ERRORS as error:
        raise DecodeError(f"not an entry of this log: {error}") from error
