"""Parts become one delivery."""

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
from asyafw.transport import Append, Delivery, Message, Part, Send

__all__ = ["BEHAVIOURS"]

# No join of the suite is older than this, unless it is meant to be.
_LONG_TICKS = 100


async def a_join_is_delivered_with_its_parts_in_order(harness: Harness) -> None:
    """Whatever order they came in, and once only; the message is empty and has the join's name."""
    queue, join = unique("queue"), unique("join")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        for index in (2, 0, 1):
            await transport.emit(_part(harness, queue, join, index))

        (delivery,) = await take(harness, consumer)

        _check_join(delivery, join, [b"0", b"1", b"2"])
        check(delivery.attempt, 1, "it has not been delivered before")
        await settle(harness, delivery)
        await nothing_comes(harness, consumer)


async def a_join_waits_for_all_its_parts(harness: Harness) -> None:
    """As long as one is missing and its time is not over, nothing is delivered."""
    queue, join = unique("queue"), unique("join")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        for index in (0, 1):
            await transport.emit(_part(harness, queue, join, index))
        await harness.pass_time(harness.tick_s)

        await nothing_comes(harness, consumer)

        await transport.emit(_part(harness, queue, join, 2))
        (delivery,) = await take(harness, consumer)
        _check_join(delivery, join, [b"0", b"1", b"2"])


async def parts_come_with_settles(harness: Harness) -> None:
    """Siblings meet by settling with their parts, beside which anything else is emitted."""
    source, queue, join, log = unique("source"), unique("queue"), unique("join"), unique("log")
    async with harness.open() as transport, transport.consume(source) as siblings:
        await transport.emit(*sends(source, 3))
        for sibling in await take(harness, siblings, 3):
            index = int(sibling.message.body)
            part = _part(harness, queue, join, index)
            await settle(harness, sibling, part, Append(log, b"entry"))

        async with transport.consume(queue) as consumer:
            (delivery,) = await take(harness, consumer)
            _check_join(delivery, join, [b"0", b"1", b"2"])
            await settle(harness, delivery)
            await nothing_comes(harness, consumer)
        await nothing_comes(harness, siblings)
        tail = transport.tail(log, since_s=_LONG_TICKS * harness.tick_s)
        check(len(await read(harness, tail, 3)), 3, "the entries are emitted")


async def repeated_parts_are_ignored(harness: Harness) -> None:
    """The first of its index counts; later ones change nothing, be the join settled or not."""
    queue, join = unique("queue"), unique("join")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        await transport.emit(_part(harness, queue, join, 0))
        for body in (b"0", b"other"):
            await transport.emit(_part(harness, queue, join, 0, body=body))
        await nothing_comes(harness, consumer)
        await transport.emit(*(_part(harness, queue, join, index) for index in (1, 2)))
        (delivery,) = await take(harness, consumer)
        _check_join(delivery, join, [b"0", b"1", b"2"])

        for index in (0, 1, 2):
            await transport.emit(_part(harness, queue, join, index, body=b"late"))
        await nothing_comes(harness, consumer)
        await settle(harness, delivery)
        for index in (0, 1, 2):
            await transport.emit(_part(harness, queue, join, index, body=b"later"))
        await nothing_comes(harness, consumer)


async def a_part_of_a_lost_lease_does_not_count(harness: Harness) -> None:
    """Who settles too late contributes nothing."""
    source, queue, join = unique("source"), unique("queue"), unique("join")
    async with harness.open() as transport:
        await transport.emit(*sends(source, 1))
        async with transport.consume(source) as consumer:
            (lost,) = await take(harness, consumer)

        await settle_late(harness, lost, _part(harness, queue, join, 0, total=1, body=b"late"))

        await transport.emit(_part(harness, queue, join, 0, total=1, body=b"in time"))
        async with transport.consume(queue) as consumer:
            (delivery,) = await take(harness, consumer)
            _check_join(delivery, join, [b"in time"])


async def a_completed_join_survives_a_crash(harness: Harness) -> None:
    """When who held it has died, it is delivered again with all its parts, and still only once."""
    queue, join = unique("queue"), unique("join")
    async with (
        harness.open() as survivor,
        harness.open() as transport,
        transport.consume(queue) as consumer,
    ):
        await transport.emit(*(_part(harness, queue, join, index) for index in range(3)))
        await take(harness, consumer)
        await harness.crash(transport)

        async with survivor.consume(queue) as other:
            (delivery,) = await take(harness, other)
            _check_join(delivery, join, [b"0", b"1", b"2"])
            await survivor.emit(_part(harness, queue, join, 1))
            await settle(harness, delivery)
            await nothing_comes(harness, other)


async def an_incomplete_join_survives_a_crash(harness: Harness) -> None:
    """Parts that a process had sent before it died are kept."""
    queue, join = unique("queue"), unique("join")
    async with (
        harness.open() as survivor,
        harness.open() as transport,
        transport.consume(queue) as consumer,
    ):
        await transport.emit(_part(harness, queue, join, 0), _part(harness, queue, join, 2))
        await nothing_comes(harness, consumer)
        await harness.crash(transport)

        await survivor.emit(_part(harness, queue, join, 1))

        async with survivor.consume(queue) as other:
            (delivery,) = await take(harness, other)
            _check_join(delivery, join, [b"0", b"1", b"2"])


async def a_join_whose_time_is_over_is_delivered_as_it_is(harness: Harness) -> None:
    """The clock starts with the first part; None stands for a part that never came."""
    queue, join = unique("queue"), unique("join")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        timeout_s = 4 * harness.tick_s
        await transport.emit(Part(queue, join, 2, 3, b"2", timeout_s))
        await harness.pass_time(2 * harness.tick_s)
        await transport.emit(Part(queue, join, 0, 3, b"0", timeout_s))
        await nothing_comes(harness, consumer)

        await harness.pass_time(2 * harness.tick_s)

        (delivery,) = await take(harness, consumer)
        _check_join(delivery, join, [b"0", None, b"2"])
        await settle(harness, delivery)
        await nothing_comes(harness, consumer)


async def parts_that_come_too_late_are_dropped(harness: Harness) -> None:
    """A part that comes after the time of its join neither changes it nor starts another."""
    queue, join = unique("queue"), unique("join")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        timeout_s = 3 * harness.tick_s
        await transport.emit(Part(queue, join, 0, 2, b"0", timeout_s))
        await harness.pass_time(timeout_s)
        (delivery,) = await take(harness, consumer)

        await transport.emit(Part(queue, join, 1, 2, b"1", timeout_s))

        await nothing_comes(harness, consumer)
        _check_join(delivery, join, [b"0", None])
        await settle(harness, delivery)
        await harness.pass_time(timeout_s)
        await nothing_comes(harness, consumer)


async def a_join_of_one_is_delivered_once(harness: Harness) -> None:
    """However often it is sent: so a repeated hand-off is recognised."""
    source, queue, join = unique("source"), unique("queue"), unique("join")
    async with harness.open() as transport, transport.consume(queue) as consumer:
        part = _part(harness, queue, join, 0, total=1)
        await transport.emit(part)
        await transport.emit(part, part)
        (delivery,) = await take(harness, consumer)
        _check_join(delivery, join, [b"0"])
        await settle(harness, delivery)

        await transport.emit(*sends(source, 2))
        async with transport.consume(source) as senders:
            for sender in await take(harness, senders, 2):
                await settle(harness, sender, part)

        await nothing_comes(harness, consumer)


async def joins_keep_apart(harness: Harness) -> None:
    """Joins of one queue, or of one name on two queues, have nothing to do with each other."""
    one, two, first, second = unique("one"), unique("two"), unique("first"), unique("second")
    async with harness.open() as transport:
        for index in range(2):
            for queue, join in ((one, first), (one, second), (two, first)):
                body = f"{queue} {join} {index}".encode()
                part = _part(harness, queue, join, index, total=2, body=body)
                await transport.emit(part)

        async with transport.consume(one) as consumer, transport.consume(two) as other:
            both = await take(harness, consumer, 2)
            check(sorted(str(d.message.key) for d in both), sorted((first, second)), "two joins")
            for delivery in both:
                join = str(delivery.message.key)
                _check_join(delivery, join, [f"{one} {join} {n}".encode() for n in range(2)])
            (delivery,) = await take(harness, other)
            _check_join(delivery, first, [f"{two} {first} {n}".encode() for n in range(2)])


async def a_join_is_settled_like_any_message(harness: Harness) -> None:
    """It can be released, lost, forwarded and repeated by who holds it."""
    queue, target, join = unique("queue"), unique("target"), unique("join")
    async with harness.open() as transport:
        await transport.emit(*(_part(harness, queue, join, index) for index in range(3)))
        async with transport.consume(queue) as consumer:
            (delivery,) = await take(harness, consumer)
            await delivery.release()
            (lost,) = await take(harness, consumer)
            check(lost.attempt, 1, "a release is not an attempt")
        async with transport.consume(queue) as consumer:
            (delivery,) = await take(harness, consumer)
            _check_join(delivery, join, [b"0", b"1", b"2"])

            await settle_late(harness, lost, *sends(target, 1))
            await settle(harness, delivery, Send(target, Message(b"forwarded")))

            async with transport.consume(target) as other:
                check(bodies(await take(harness, other)), [b"forwarded"], "the join is forwarded")
                await nothing_comes(harness, other)


def _part(
    harness: Harness,
    queue: str,
    join: str,
    index: int,
    *,
    total: int = 3,
    body: bytes | None = None,
) -> Part:
    own = b"%d" % index if body is None else body
    return Part(queue, join, index, total, own, timeout_s=_LONG_TICKS * harness.tick_s)


def _check_join(delivery: Delivery, join: str, parts: list[bytes | None]) -> None:
    check(delivery.message, Message(b"", key=join), "a join has no body and its name as the key")
    check(list(delivery.parts or ()), parts, "a join has its parts in order")


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_join_is_delivered_with_its_parts_in_order,
    a_join_waits_for_all_its_parts,
    parts_come_with_settles,
    repeated_parts_are_ignored,
    a_part_of_a_lost_lease_does_not_count,
    a_completed_join_survives_a_crash,
    an_incomplete_join_survives_a_crash,
    a_join_whose_time_is_over_is_delivered_as_it_is,
    parts_that_come_too_late_are_dropped,
    a_join_of_one_is_delivered_once,
    joins_keep_apart,
    a_join_is_settled_like_any_message,
)
