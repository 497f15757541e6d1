"""The seam between asyafw and a queue service.

A transport moves bytes and knows nothing of envelopes.
It has two primitives: a *queue*, whose every message goes to one consumer, and a *log*,
which is retained and can be read by everyone who asks, from an age or a position.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self, TypeAlias

from msgspec import Struct

__all__ = [
    "Append",
    "Consumer",
    "Delivery",
    "Entry",
    "Lag",
    "Message",
    "Out",
    "Part",
    "Send",
    "Transport",
    "check_parts",
    "misfit",
]


class Message(Struct, frozen=True):
    """What a queue carries: opaque bytes, and a key by which a service may partition.

    The delivery of a completed join has an empty body, and the join's name as its key.
    """

    body: bytes
    key: str | None = None


class Send(Struct, frozen=True):
    """Put a message on a queue, to be delivered once `delay_s` seconds have passed."""

    queue: str
    message: Message
    delay_s: float = 0


class Part(Struct, frozen=True):
    """Contribute one of `total` parts to a join on a queue.

    When every index has arrived, or `timeout_s` seconds after the first,
    exactly one delivery with all parts appears on the queue, however often a part was sent.
    A join is remembered for at least `timeout_s` from its first part; later repeats are dropped.
    """

    queue: str
    join: str
    index: int
    total: int
    body: bytes
    timeout_s: float


class Append(Struct, frozen=True):
    """Add an entry to a log."""

    log: str
    body: bytes


Out: TypeAlias = Send | Part | Append


def check_parts(outs: Iterable[Out]) -> None:
    """Check those parts by themselves, and against each other, that are to be emitted in one step.

    Raises:
        ValueError: an index, total or time-out makes no sense, or those of one join differ.
    """
    totals: dict[tuple[str, str], int] = {}
    for part in outs:
        if not isinstance(part, Part):
            continue
        if not 0 <= part.index < part.total:
            raise ValueError(
                f"part {part.index} of {part.total} of join {part.join!r}: "
                f"the index must be in 0..{part.total - 1}"
            )
        if not part.timeout_s >= 0:
            raise ValueError(f"join {part.join!r} has a time-out of {part.timeout_s} s")
        total = totals.setdefault((part.queue, part.join), part.total)
        if part.total != total:
            raise misfit(part, total)


def misfit(part: Part, total: int) -> ValueError:
    """Say that the first part of a join, which decides, was one of `total`."""
    return ValueError(
        f"part {part.index} of join {part.join!r} is one of {part.total}, "
        f"but the first was one of {total}"
    )


class Entry(Struct, frozen=True):
    """One entry of a log.

    `position` orders the entries and can be given back to `Transport.tail`.
    """

    position: str
    body: bytes


class Lag(Struct, frozen=True):
    """How far a queue is behind.

    `backlog` counts messages that wait to be delivered, `in_flight` those in hand,
    `delayed` those whose time has not come.
    `oldest_s` is the age in seconds of the oldest waiting message, None where none waits.
    `arrived` only grows: differences of it give the rate of arrival, whoever consumes.
    `max_consumers` bounds useful consumers (Kafka's partitions), None where nothing does.
    """

    backlog: int
    in_flight: int
    delayed: int
    oldest_s: float | None
    arrived: int
    max_consumers: int | None = None


class Delivery(Protocol):
    """One message in hand, to be settled exactly once."""

    @property
    def message(self) -> Message:
        """The message."""
        ...

    @property
    def parts(self) -> Sequence[bytes | None] | None:
        """The parts of a completed join in order, None for one that never came.

        None for a plain message.
        """
        ...

    @property
    def attempt(self) -> int:
        """Deliveries of this message so far, crashes included, from 1.

        As far as the transport can know.
        """
        ...

    async def settle(self, *out: Out) -> bool:
        """Acknowledge the message and emit `out`, in one step.

        Returns False if the lease was lost:
        then somebody else has the message and nothing was emitted.

        Raises:
            TransportError: it is unknown whether the step happened; the message may come again.
        """
        ...

    async def release(self) -> None:
        """Hand the message back for immediate redelivery; this one does not count as an attempt."""
        ...


class Consumer(Protocol):
    """A subscription to one queue; not calling `receive` is the back-pressure."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one message and return up to `limit`.

        A cancelled call loses nothing.
        """
        ...


class Transport(Protocol):
    """A connection to a queue service, opened with ``async with``.

    Closing it closes its consumers, whose unsettled deliveries go back to their queues.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> bool | None: ...

    async def emit(self, *out: Out) -> None:
        """Emit `out` in one step; returns once durably accepted.

        Raises:
            TransportError: it is unknown whether the step happened.
        """
        ...

    def consume(self, queue: str) -> AbstractAsyncContextManager[Consumer]:
        """Subscribe to a queue, which need not exist yet."""
        ...

    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        """Read a log and go on as it grows.

        Begins with the entries of the last `since_s` seconds, or behind the position `after`.
        """
        ...

    async def lag(self, queue: str) -> Lag:
        """Measure a queue; a queue that nobody has used yet is all zeros."""
        ...
