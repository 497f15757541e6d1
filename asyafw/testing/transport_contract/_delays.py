"""Messages whose time has not come."""

from asyafw.testing.transport_contract._harness import (
    Behaviour,
    Harness,
    check,
    nothing_comes,
    settle,
    take,
    unique,
)
from asyafw.transport import Message, Send

__all__ = ["BEHAVIOURS"]


async def a_delayed_message_waits_for_its_time(harness: Harness) -> None:
    """It is not delivered before, and then it is, once."""
    queue = unique("queue")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        message = Message(b"later", key="key")
        await transport.emit(Send(queue, message, delay_s=3 * harness.tick_s))

        await harness.pass_time(harness.tick_s)
        await nothing_comes(harness, consumer)
        await harness.pass_time(2 * harness.tick_s)
        (delivery,) = await take(harness, consumer)

        check(delivery.message, message, "the message is delivered as it was sent")
        check(delivery.attempt, 1, "it has not been delivered before")
        await settle(harness, delivery)
        await nothing_comes(harness, consumer)


async def delays_end_in_due_order(harness: Harness) -> None:
    """The shorter delay ends first, whatever was sent first."""
    queue, tick_s = unique("queue"), harness.tick_s
    async with harness.open() as transport, transport.consume(queue) as consumer:
        for ticks in (6, 2, 4):
            body = b"%d" % ticks
            await transport.emit(Send(queue, Message(body, key="key"), delay_s=ticks * tick_s))

        for expected in (b"2", b"4", b"6"):
            await harness.pass_time(2 * tick_s)
            (delivery,) = await take(harness, consumer)
            check(delivery.message.body, expected, "delays end in due order")
            await settle(harness, delivery)


async def a_delay_holds_nothing_up(harness: Harness) -> None:
    """Messages without a delay pass those with one."""
    queue = unique("queue")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(Send(queue, Message(b"later"), delay_s=3 * harness.tick_s))
        await transport.emit(Send(queue, Message(b"now")))

        (delivery,) = await take(harness, consumer)

        check(delivery.message.body, b"now", "who has no delay is not delayed")


async def a_delay_outlives_its_sender(harness: Harness) -> None:
    """A retry that was settled with a delay comes, though its transport has crashed."""
    queue = unique("queue")
    async with harness.open() as survivor:
        async with harness.open() as transport, transport.consume(queue) as consumer:
            await transport.emit(Send(queue, Message(b"first")))
            (delivery,) = await take(harness, consumer)
            again = Send(queue, Message(b"again"), delay_s=2 * harness.tick_s)
            await settle(harness, delivery, again)
            await harness.crash(transport)

        await harness.pass_time(2 * harness.tick_s)

        async with survivor.consume(queue) as consumer:
            (delivery,) = await take(harness, consumer)
            check(delivery.message.body, b"again", "the delayed message comes")
            await settle(harness, delivery)
            await nothing_comes(harness, consumer)


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_delayed_message_waits_for_its_time,
    delays_end_in_due_order,
    a_delay_holds_nothing_up,
    a_delay_outlives_its_sender,
)
