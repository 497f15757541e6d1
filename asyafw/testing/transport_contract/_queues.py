"""Messages go in and come out."""

import anyio

from asyafw.exceptions import TransportClosed
from asyafw.testing.transport_contract._harness import (
    Behaviour,
    Harness,
    bodies,
    check,
    read,
    sends,
    settle,
    take,
    together,
    unique,
)
from asyafw.transport import Append, Message, Send

__all__ = ["BEHAVIOURS"]


async def a_message_is_delivered_as_it_was_sent(harness: Harness) -> None:
    """Bodies are any bytes, none or many, and a key is kept."""
    queue = unique("queue")
    messages = [
        Message(b""),
        Message(bytes(range(256)), key="a key"),
        Message(b"\r\n\x00\xff", key=""),
        Message(b"x" * 256 * 1024, key="large"),
    ]
    async with harness.open() as transport, transport.consume(queue) as consumer:
        for message in messages:
            await transport.emit(Send(queue, message))

            (delivery,) = await take(harness, consumer)

            check(delivery.message, message, "a message is delivered as it was sent")
            check(delivery.parts, None, "a plain message has no parts")
            await settle(harness, delivery)


async def one_emit_reaches_many_queues_and_logs(harness: Harness) -> None:
    """All that one emit names arrives."""
    one, two, log = unique("one"), unique("two"), unique("log")
    async with harness.open() as transport:
        await transport.emit(*sends(one, 3), Append(log, b"entry"), *sends(two, 2))

        async with transport.consume(one) as first, transport.consume(two) as second:
            check(bodies(await take(harness, first, 3)), [b"0", b"1", b"2"], "the first queue")
            check(bodies(await take(harness, second, 2)), [b"0", b"1"], "the second queue")
        tail = transport.tail(log, since_s=100 * harness.tick_s)
        check([e.body for e in await read(harness, tail, 1)], [b"entry"], "the log")


async def messages_wait_for_their_first_consumer(harness: Harness) -> None:
    """What was sent before anybody consumed is not lost, even if its sender has gone."""
    queue = unique("queue")
    async with harness.open() as transport:
        await transport.emit(*sends(queue, 3))

    async with harness.open() as transport, transport.consume(queue) as consumer:
        received = await take(harness, consumer, 3)

    check(bodies(received), [b"0", b"1", b"2"], "all messages waited")


async def each_message_goes_to_one_consumer(harness: Harness) -> None:
    """Consumers share a queue: together they get every message, and each of them once."""
    queue = unique("queue")
    got: list[bytes] = []
    everything = anyio.Event()

    async def work() -> None:
        async with harness.open() as transport, transport.consume(queue) as consumer:
            while True:
                for delivery in await consumer.receive(3):
                    await settle(harness, delivery)
                    got.append(delivery.message.body)
                    if len(got) >= 60:  # noqa: PLR2004 - as many as are sent
                        everything.set()

    async with harness.open() as transport:
        with anyio.fail_after(harness.patience_s):
            async with together() as tasks:
                tasks.start_soon(work)
                tasks.start_soon(work)
                await transport.emit(*sends(queue, 60))
                await everything.wait()
                tasks.cancel_scope.cancel()

    check(sorted(got), sorted(b"%d" % n for n in range(60)), "every message is delivered once")


async def a_closed_transport_says_so(harness: Harness) -> None:
    """Who uses a transport that was closed gets `TransportClosed`."""
    async with harness.open() as transport:
        pass

    try:
        with anyio.fail_after(harness.patience_s):
            await transport.emit(*sends(unique("queue"), 1))
    except TransportClosed:
        return
    raise AssertionError("a closed transport accepts nothing")


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_message_is_delivered_as_it_was_sent,
    one_emit_reaches_many_queues_and_logs,
    messages_wait_for_their_first_consumer,
    each_message_goes_to_one_consumer,
    a_closed_transport_says_so,
)
