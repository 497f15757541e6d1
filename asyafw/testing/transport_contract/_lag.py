"""How far a queue is behind."""

import anyio
from anyio.lowlevel import checkpoint

from asyafw.testing.transport_contract._harness import (
    Behaviour,
    Harness,
    check,
    holds,
    lag_becomes,
    never_negative,
    sends,
    settle,
    take,
    together,
    unique,
)
from asyafw.transport import Message, Send

__all__ = ["BEHAVIOURS"]

_MANY = 50


async def a_queue_that_nobody_used_has_no_lag(harness: Harness) -> None:
    """Asking for it is no error: all is zero."""
    async with harness.open() as transport:
        with anyio.fail_after(harness.patience_s):
            lag = await transport.lag(unique("queue"))

    check((lag.backlog, lag.in_flight, lag.delayed, lag.arrived), (0, 0, 0, 0), "all is zero")
    check(lag.oldest_s, None, "nothing waits")


async def lag_follows_a_message(harness: Harness) -> None:
    """A message waits, is in hand, waits again, is in hand and is gone."""
    queue = unique("queue")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(*sends(queue, 1))
        lag = await lag_becomes(harness, transport, queue, backlog=1, in_flight=0, delayed=0)
        holds("what waits has an age", condition=lag.oldest_s is not None)

        (delivery,) = await take(harness, consumer)
        await lag_becomes(
            harness, transport, queue, backlog=0, in_flight=1, delayed=0, oldest_s=None
        )

        await delivery.release()
        await lag_becomes(harness, transport, queue, backlog=1, in_flight=0, delayed=0)

        (delivery,) = await take(harness, consumer)
        await settle(harness, delivery)
        await lag_becomes(
            harness, transport, queue, backlog=0, in_flight=0, delayed=0, oldest_s=None
        )


async def lag_counts_exactly(harness: Harness) -> None:
    """With many messages in every state, each is counted where it is."""
    queue, later_s = unique("queue"), 100 * harness.tick_s
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(*sends(queue, 10))
        await transport.emit(*(Send(queue, s.message, later_s) for s in sends(queue, 4)))
        received = await take(harness, consumer, 5)
        for delivery in received[:2]:
            await settle(harness, delivery)

        await lag_becomes(harness, transport, queue, backlog=5, in_flight=3, delayed=4)


async def lag_counts_what_is_delayed(harness: Harness) -> None:
    """A delayed message waits from its time on, and arrives once."""
    queue = unique("queue")
    async with harness.open() as transport:
        await transport.emit(Send(queue, Message(b"later"), delay_s=3 * harness.tick_s))
        await lag_becomes(
            harness, transport, queue, backlog=0, in_flight=0, delayed=1, oldest_s=None
        )

        await harness.pass_time(3 * harness.tick_s)

        await lag_becomes(harness, transport, queue, backlog=1, delayed=0, arrived=1)


async def lag_tells_the_age_of_the_oldest(harness: Harness) -> None:
    """It is that of the message which has waited longest."""
    queue, tick_s = unique("queue"), harness.tick_s
    async with harness.open() as transport, transport.consume(queue) as consumer:
        began = anyio.current_time()
        await transport.emit(*sends(queue, 1))
        await harness.pass_time(3 * tick_s)
        await transport.emit(*sends(queue, 1))

        lag = await lag_becomes(harness, transport, queue, backlog=2)

        latest_s = 3 * tick_s + anyio.current_time() - began
        age_s = lag.oldest_s or 0
        holds(f"{lag} after three ticks", condition=2 * tick_s < age_s <= latest_s)
        await take(harness, consumer, 2)
        await lag_becomes(harness, transport, queue, backlog=0, oldest_s=None)


async def arrivals_are_counted_once(harness: Harness) -> None:
    """Whatever becomes of a message, it has arrived once."""
    source, target = unique("source"), unique("target")
    async with harness.open() as transport:
        await transport.emit(*sends(source, 3))
        await lag_becomes(harness, transport, source, arrived=3)
        async with transport.consume(source) as consumer:
            for delivery in await take(harness, consumer, 3):
                await delivery.release()
            await take(harness, consumer, 3)
        async with transport.consume(source) as consumer:
            for delivery in await take(harness, consumer, 3):
                await settle(harness, delivery, Send(target, delivery.message))

        await lag_becomes(harness, transport, source, arrived=3, backlog=0, in_flight=0)
        await lag_becomes(harness, transport, target, arrived=3, backlog=3)
        await transport.emit(*sends(source, 2))
        await lag_becomes(harness, transport, source, arrived=5, backlog=2)


async def lag_is_never_negative(harness: Harness) -> None:
    """While messages move, no figure is ever below zero, and arrivals only grow."""
    queue = unique("queue")
    async with harness.open() as transport, harness.open() as observer:
        finished = anyio.Event()

        async def work() -> None:
            async with transport.consume(queue) as consumer:
                for _ in range(_MANY):
                    await transport.emit(*sends(queue, 2))
                    for delivery in await take(harness, consumer, 2):
                        await settle(harness, delivery)
            finished.set()

        arrived = [0]
        with anyio.fail_after(10 * harness.patience_s):
            async with together() as tasks:
                tasks.start_soon(work)
                while not finished.is_set():
                    lag = await observer.lag(queue)
                    never_negative(lag)
                    arrived.append(lag.arrived)
                    await checkpoint()

        check(arrived, sorted(arrived), "arrivals only grow")
        await lag_becomes(harness, observer, queue, backlog=0, in_flight=0, arrived=2 * _MANY)


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_queue_that_nobody_used_has_no_lag,
    lag_follows_a_message,
    lag_counts_exactly,
    lag_counts_what_is_delayed,
    lag_tells_the_age_of_the_oldest,
    arrivals_are_counted_once,
    lag_is_never_negative,
)
