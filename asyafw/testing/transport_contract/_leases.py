"""Who has a message in hand, and what happens when they let go of it."""

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
    unique,
)
from asyafw.transport import Append

__all__ = ["BEHAVIOURS"]


async def a_message_in_hand_is_not_delivered_to_others(harness: Harness) -> None:
    """One consumer's message is nobody else's, even one of the same transport."""
    queue = unique("queue")
    async with harness.open() as transport, harness.open() as other:
        await transport.emit(*sends(queue, 1))
        async with transport.consume(queue) as consumer:
            (delivery,) = await take(harness, consumer)

            async with transport.consume(queue) as second, other.consume(queue) as third:
                await nothing_comes(harness, second)
                await nothing_comes(harness, third)

            await settle(harness, delivery)


async def unsettled_messages_come_back_when_their_consumer_closes(harness: Harness) -> None:
    """What a consumer had in hand as it was closed is delivered again, and counted."""
    queue = unique("queue")
    async with harness.open() as transport:
        await transport.emit(*sends(queue, 3))
        async with transport.consume(queue) as consumer:
            kept, *_ = await take(harness, consumer, 3)
            await settle(harness, kept)

        async with transport.consume(queue) as consumer:
            again = await take(harness, consumer, 2)

            check(len({*bodies(again), kept.message.body}), 3, "the other two come back")
            if harness.counts_crashes:
                check([d.attempt for d in again], [2, 2], "both deliveries count")
            for delivery in again:
                await settle(harness, delivery)
            await nothing_comes(harness, consumer)


async def unsettled_messages_come_back_after_a_crash(harness: Harness) -> None:
    """What a dead process had in hand is delivered to others, and counted."""
    queue = unique("queue")
    async with harness.open() as survivor, harness.open() as transport:
        await transport.emit(*sends(queue, 3))
        async with transport.consume(queue) as consumer:
            await take(harness, consumer, 2)
            await harness.crash(transport)

            async with survivor.consume(queue) as other:
                received = await take(harness, other, 3)
                check(bodies(received), [b"0", b"1", b"2"], "nothing is lost")
                if harness.counts_crashes:
                    attempts = sorted(d.attempt for d in received)
                    check(attempts, [1, 2, 2], "the lost deliveries count")
                for delivery in received:
                    await settle(harness, delivery)


async def closing_with_work_in_hand_loses_nothing(harness: Harness) -> None:
    """All that a transport had received and not settled as it was closed is there for others."""
    queue = unique("queue")
    async with harness.open() as transport:
        await transport.emit(*sends(queue, 10))
        async with transport.consume(queue) as consumer:
            await take(harness, consumer, 4)

    async with harness.open() as transport, transport.consume(queue) as consumer:
        received = await take(harness, consumer, 10)

    check(bodies(received), [b"%d" % n for n in range(10)], "nothing is lost")


async def a_lost_lease_settles_to_false(harness: Harness) -> None:
    """Who settles too late is told so and emits nothing; who has the message now can settle it."""
    source, target, log = unique("source"), unique("target"), unique("log")
    async with harness.open() as transport:
        await transport.emit(*sends(source, 1))
        async with transport.consume(source) as consumer:
            (lost,) = await take(harness, consumer)
        async with transport.consume(source) as consumer:
            (found,) = await take(harness, consumer)

            await settle_late(harness, lost, *sends(target, 1), Append(log, b"late"))

            await settle(harness, found, Append(log, b"in time"))
            async with transport.consume(target) as other:
                await nothing_comes(harness, other)
            tail = transport.tail(log, since_s=100 * harness.tick_s)
            check([e.body for e in await read(harness, tail, 1)], [b"in time"], "the log")


async def a_late_settle_takes_nothing_away(harness: Harness) -> None:
    """A message that went back stays on its queue when its former holder settles or releases it."""
    queue = unique("queue")
    async with harness.open() as transport:
        await transport.emit(*sends(queue, 2))
        async with transport.consume(queue) as consumer:
            settled, released = await take(harness, consumer, 2)

        await settle_late(harness, settled)
        await released.release()

        async with transport.consume(queue) as consumer:
            check(bodies(await take(harness, consumer, 2)), [b"0", b"1"], "both come back")
            await nothing_comes(harness, consumer)


async def a_released_message_comes_back_uncounted(harness: Harness) -> None:
    """Release gives a message back at once, as if it had not been delivered."""
    queue = unique("queue")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(*sends(queue, 1))
        for _ in range(3):
            (delivery,) = await take(harness, consumer)
            check(delivery.attempt, 1, "a release is not an attempt")

            await delivery.release()

            await settle_late(harness, delivery)
        (delivery,) = await take(harness, consumer)
        await settle(harness, delivery)


async def attempts_count_deliveries(harness: Harness) -> None:
    """Each delivery that was neither settled nor released counts."""
    if not harness.counts_crashes:
        return
    queue = unique("queue")
    async with harness.open() as transport:
        await transport.emit(*sends(queue, 1))
        for attempt in (1, 2, 3):
            async with transport.consume(queue) as consumer:
                (released,) = await take(harness, consumer)
                check(released.attempt, attempt, "the deliveries so far")
                await released.release()
                (delivery,) = await take(harness, consumer)
                check(delivery.attempt, attempt, "a release is not an attempt")


async def a_long_handler_keeps_its_lease(harness: Harness) -> None:
    """Work may take longer than a lease, if its process lives."""
    queue = unique("queue")
    async with harness.open() as transport, harness.open() as other:
        await transport.emit(*sends(queue, 1))
        async with transport.consume(queue) as consumer, other.consume(queue) as second:
            (delivery,) = await take(harness, consumer)

            await harness.pass_time(3.5 * harness.lease_s)

            await nothing_comes(harness, second)
            await settle(harness, delivery)


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_message_in_hand_is_not_delivered_to_others,
    unsettled_messages_come_back_when_their_consumer_closes,
    unsettled_messages_come_back_after_a_crash,
    closing_with_work_in_hand_loses_nothing,
    a_lost_lease_settles_to_false,
    a_late_settle_takes_nothing_away,
    a_released_message_comes_back_uncounted,
    attempts_count_deliveries,
    a_long_handler_keeps_its_lease,
)
