"""A delivery is settled, once, and its consequences follow."""

import anyio

from asyafw.testing.transport_contract._harness import (
    Behaviour,
    Harness,
    bodies,
    check,
    nothing_comes,
    read,
    sends,
    settle,
    settle_late,
    take,
    together,
    unique,
)
from asyafw.transport import Append, Delivery, Message, Send

__all__ = ["BEHAVIOURS"]

_MANY = 100


async def a_settled_message_is_gone(harness: Harness) -> None:
    """What was settled is not delivered again, whoever consumes."""
    queue = unique("queue")
    async with harness.open() as transport:
        async with transport.consume(queue) as consumer:
            await transport.emit(*sends(queue, 2))
            for delivery in await take(harness, consumer, 2):
                await settle(harness, delivery)

            await nothing_comes(harness, consumer)
        async with transport.consume(queue) as consumer:
            await nothing_comes(harness, consumer)


async def settle_forwards_and_appends(harness: Harness) -> None:
    """The messages and entries given to settle are emitted, once."""
    source, one, two, log = unique("source"), unique("one"), unique("two"), unique("log")
    async with harness.open() as transport, transport.consume(source) as consumer:
        await transport.emit(*sends(source, 1))
        (delivery,) = await take(harness, consumer)

        await settle(harness, delivery, *sends(one, 2), Append(log, b"entry"), *sends(two, 1))

        async with transport.consume(one) as first, transport.consume(two) as second:
            check(bodies(await take(harness, first, 2)), [b"0", b"1"], "the first queue")
            check(bodies(await take(harness, second)), [b"0"], "the second queue")
            await nothing_comes(harness, first)
        tail = transport.tail(log, since_s=100 * harness.tick_s)
        check([e.body for e in await read(harness, tail, 1)], [b"entry"], "the log")
        await nothing_comes(harness, consumer)


async def a_second_settle_does_nothing(harness: Harness) -> None:
    """Settling twice gives False the second time, and emits nothing then."""
    source, target = unique("source"), unique("target")
    async with harness.open() as transport, transport.consume(source) as consumer:
        await transport.emit(*sends(source, 1))
        (delivery,) = await take(harness, consumer)
        await settle(harness, delivery)

        await settle_late(harness, delivery, *sends(target, 1))

        async with transport.consume(target) as other:
            await nothing_comes(harness, other)


async def a_message_can_be_sent_to_its_own_queue(harness: Harness) -> None:
    """A settle that sends to the queue it settles on makes a new message, at its first attempt."""
    queue = unique("queue")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(Send(queue, Message(b"first", key="key")))
        (delivery,) = await take(harness, consumer)

        await settle(harness, delivery, Send(queue, Message(b"second", key="key")))

        (again,) = await take(harness, consumer)
        check(again.message, Message(b"second", key="key"), "the new message is delivered")
        check(again.attempt, 1, "it has not been delivered before")
        await settle(harness, again)
        await nothing_comes(harness, consumer)


async def concurrent_settles_keep_apart(harness: Harness) -> None:
    """Many settles at once are all done, each with what was given to it."""
    source, target = unique("source"), unique("target")
    settled: list[bool] = []

    async def forward(delivery: Delivery) -> None:
        settled.append(await delivery.settle(Send(target, delivery.message)))

    async with harness.open() as transport, transport.consume(source) as consumer:
        await transport.emit(*sends(source, _MANY))
        received = await take(harness, consumer, _MANY)

        with anyio.fail_after(harness.patience_s):
            async with together() as tasks:
                for delivery in received:
                    tasks.start_soon(forward, delivery)

        check(settled, [True] * _MANY, "each is settled")
        async with transport.consume(target) as other:
            forwarded = await take(harness, other, _MANY)
            check(bodies(forwarded), bodies(received), "each is forwarded")
            await nothing_comes(harness, other)


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_settled_message_is_gone,
    settle_forwards_and_appends,
    a_second_settle_does_nothing,
    a_message_can_be_sent_to_its_own_queue,
    concurrent_settles_keep_apart,
)
