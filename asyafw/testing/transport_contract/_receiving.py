"""Consumers ask, wait, give up and take turns."""

from contextlib import AsyncExitStack

import anyio
from anyio.lowlevel import checkpoint

from asyafw.testing.transport_contract._harness import (
    Behaviour,
    Harness,
    bodies,
    check,
    holds,
    nothing_comes,
    sends,
    settle,
    take,
    together,
    unique,
)
from asyafw.transport import Consumer, Delivery, Message, Send

__all__ = ["BEHAVIOURS"]

_RACES = 60
_CONSUMERS = 3


async def receive_keeps_its_limit(harness: Harness) -> None:
    """No more messages are delivered than were asked for."""
    queue = unique("queue")
    received: list[Delivery] = []
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(*sends(queue, 10))

        with anyio.fail_after(harness.patience_s):
            while len(received) < 10:  # noqa: PLR2004 - as many as were sent
                batch = await consumer.receive(3)
                holds("as many are given as were asked for", condition=len(batch) in {1, 2, 3})
                received += batch

        check(bodies(received), [b"%d" % n for n in range(10)], "all messages are delivered")
        await nothing_comes(harness, consumer)


async def receive_waits_for_a_message(harness: Harness) -> None:
    """A call that finds nothing returns when something has come."""
    queue = unique("queue")
    received: list[Delivery] = []
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await nothing_comes(harness, consumer)

        with anyio.fail_after(harness.patience_s):
            async with together() as tasks:

                async def receive() -> None:
                    received.extend(await consumer.receive(10))

                tasks.start_soon(receive)
                await checkpoint()
                await transport.emit(*sends(queue, 1))

        check(bodies(received), [b"0"], "the message was delivered to who waited")


async def a_cancelled_receive_loses_nothing(harness: Harness) -> None:
    """A message that comes after a waiting call was cancelled is delivered to the next call."""
    queue = unique("queue")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await nothing_comes(harness, consumer)
        await transport.emit(*sends(queue, 2))

        received = await take(harness, consumer, 2)

        check(bodies(received), [b"0", b"1"], "all messages are delivered")
        check([d.attempt for d in received], [1, 1], "they have not been delivered before")


async def cancelling_as_messages_arrive_loses_nothing(harness: Harness) -> None:
    """At whatever moment a call is cancelled, every message is delivered, by it or later."""
    queue = unique("queue")
    received: list[Delivery] = []
    async with harness.open() as transport, transport.consume(queue) as consumer:

        async def receive(scope: anyio.CancelScope) -> None:
            with scope:
                received.extend(await consumer.receive(2))

        for race in range(_RACES):
            with anyio.fail_after(harness.patience_s):
                async with together() as tasks:
                    scope = anyio.CancelScope()
                    tasks.start_soon(receive, scope)
                    tasks.start_soon(transport.emit, Send(queue, Message(b"%d" % race)))
                    for _ in range(race % 6):
                        await checkpoint()
                    scope.cancel()
        received += await take(harness, consumer, _RACES - len(received))

        check(bodies(received), sorted(b"%d" % n for n in range(_RACES)), "none is lost or doubled")
        for delivery in received:
            await settle(harness, delivery)


async def every_waiting_consumer_is_served(harness: Harness) -> None:
    """Nobody waits in vain while others are served, up to the service's `Lag.max_consumers`."""
    queue = unique("queue")
    served: list[Delivery] = []
    all_served = anyio.Event()
    async with AsyncExitStack() as stack:
        transports = [await stack.enter_async_context(harness.open()) for _ in range(_CONSUMERS)]
        consumers = [await stack.enter_async_context(t.consume(queue)) for t in transports]
        bound = (await transports[0].lag(queue)).max_consumers
        useful = _CONSUMERS if bound is None else min(bound, _CONSUMERS)

        async def receive_one(consumer: Consumer) -> None:
            served.extend(await consumer.receive(1))
            if len(served) >= useful:
                all_served.set()

        with anyio.move_on_after(harness.patience_s):
            async with together() as tasks:
                for consumer in consumers:
                    tasks.start_soon(receive_one, consumer)
                await anyio.wait_all_tasks_blocked()
                await transports[0].emit(*sends(queue, 30 * _CONSUMERS))
                await all_served.wait()
                tasks.cancel_scope.cancel()

        check(len(served), useful, "every useful consumer is served")
        for delivery in served:
            await settle(harness, delivery)


BEHAVIOURS: tuple[Behaviour, ...] = (
    receive_keeps_its_limit,
    receive_waits_for_a_message,
    a_cancelled_receive_loses_nothing,
    cancelling_as_messages_arrive_loses_nothing,
    every_waiting_consumer_is_served,
)
