"""What the suite needs of a transport under test, and its means to look at it."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from typing import Any, Protocol, cast
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup

from asyafw.transport import Consumer, Delivery, Entry, Lag, Message, Out, Send, Transport

__all__ = [
    "Behaviour",
    "Harness",
    "bodies",
    "bounded",
    "check",
    "holds",
    "lag_becomes",
    "never_negative",
    "nothing_comes",
    "read",
    "sends",
    "settle",
    "settle_late",
    "take",
    "together",
    "unique",
]

_POLL_S = 0.02
_WAITS = 30


class Harness(Protocol):
    """A queue service under test.

    ``with anyio.fail_after(patience_s)`` bounds every wait for what must happen, in real seconds;
    a message lost in a crash must be back within it.
    What must not happen is given `quiet_s` real seconds to happen.
    `tick_s` is a span of the service's time that it can tell from none and from two of them,
    and `lease_s` how long it lets a consumer live that gives no sign of life.
    `counts_crashes` is false if it cannot count a delivery whose consumer died.
    """

    @property
    def patience_s(self) -> float: ...

    @property
    def quiet_s(self) -> float: ...

    @property
    def tick_s(self) -> float: ...

    @property
    def lease_s(self) -> float: ...

    @property
    def counts_crashes(self) -> bool: ...

    def open(self) -> AbstractAsyncContextManager[Transport]:
        """Connect once more to the same service."""
        ...

    async def crash(self, transport: Transport) -> None:
        """Make a transport stop as if its process had died.

        Its deliveries are lost to it, and come back to others at once or when a lease is over.
        """
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the service: sleep, or advance its clock."""
        ...


class Behaviour(Protocol):
    """One fact about every transport."""

    __name__: str

    async def __call__(self, harness: Harness, /) -> None:
        """Raise AssertionError or TimeoutError if it is not so."""
        ...


def bounded(behaviour: Behaviour) -> Behaviour:
    """Let no behaviour outlast many times the harness' patience, wherever it hangs."""

    @wraps(behaviour)
    async def within(harness: Harness, /) -> None:
        with anyio.fail_after(_WAITS * harness.patience_s):
            await behaviour(harness)

    return within


@asynccontextmanager
async def together() -> AsyncGenerator[TaskGroup, None]:
    """Open a task group that raises what fails in it as it is, not in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except ExceptionGroup as failures:
        raise _first(failures) from failures


def _first(failure: Exception) -> Exception:
    while isinstance(failure, ExceptionGroup):
        failure = cast("ExceptionGroup[Exception]", failure).exceptions[0]
    return failure


def check(actual: object, expected: object, fact: str) -> None:
    """Compare, and fail with the fact that does not hold."""
    if actual != expected:
        raise AssertionError(f"{fact}: expected {expected!r}, not {actual!r}")


def holds(fact: str, *, condition: bool) -> None:
    """Fail with the fact if it does not hold."""
    if not condition:
        raise AssertionError(fact)


def unique(word: str) -> str:
    """Name a queue or log as no other run does."""
    return f"{word}-{uuid4().hex[:12]}"


def sends(queue: str, count: int) -> list[Send]:
    """Make distinct messages, with keys that spread them over any partitions."""
    return [Send(queue, Message(b"%d" % n, key=f"key-{n}")) for n in range(count)]


def bodies(deliveries: Iterable[Delivery]) -> list[bytes]:
    """The bodies, in an order of their own."""
    return sorted(delivery.message.body for delivery in deliveries)


async def take(harness: Harness, consumer: Consumer, count: int = 1) -> list[Delivery]:
    """Receive so many deliveries."""
    taken: list[Delivery] = []
    with anyio.fail_after(harness.patience_s):
        while len(taken) < count:
            taken += await consumer.receive(count - len(taken))
    check(len(taken), count, "receive gives no more than its limit")
    return taken


async def settle(harness: Harness, delivery: Delivery, *out: Out) -> None:
    """Settle what is in hand."""
    with anyio.fail_after(harness.patience_s):
        holds("a message in hand can be settled", condition=await delivery.settle(*out))


async def settle_late(harness: Harness, delivery: Delivery, *out: Out) -> None:
    """Settle what is no longer in hand."""
    with anyio.fail_after(harness.patience_s):
        settled = await delivery.settle(*out)
    holds("what is not in hand settles to False", condition=not settled)


async def nothing_comes(harness: Harness, consumer: Consumer) -> None:
    """Fail if anything is delivered."""
    came: Sequence[Delivery] = ()
    with anyio.move_on_after(harness.quiet_s):
        came = await consumer.receive(10)
    check([d.message for d in came], [], "nothing is delivered")


async def read(harness: Harness, tail: AsyncIterator[Entry], count: int) -> list[Entry]:
    """Read so many entries."""
    entries: list[Entry] = []
    with anyio.fail_after(harness.patience_s):
        while len(entries) < count:
            entries.append(await anext(tail))
    return entries


async def lag_becomes(harness: Harness, transport: Transport, queue: str, **fields: Any) -> Lag:
    """Ask until a queue's lag is as expected; it is never negative meanwhile."""
    lag: Lag | None = None
    with anyio.move_on_after(harness.patience_s):
        while True:
            lag = await transport.lag(queue)
            never_negative(lag)
            if all(getattr(lag, field) == value for field, value in fields.items()):
                return lag
            await anyio.sleep(_POLL_S)
    raise AssertionError(f"lag becomes {fields}, not {lag}")


def never_negative(lag: Lag) -> None:
    """Fail if a figure is below zero."""
    for figure in (lag.backlog, lag.in_flight, lag.delayed, lag.arrived, lag.oldest_s or 0):
        if figure < 0:
            raise AssertionError(f"lag is never negative: {lag}")
