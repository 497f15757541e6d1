import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from msgspec import Raw
from msgspec.structs import replace

from asyafw._outcome import undecodable
from asyafw.dead_letters import Selection, browse, discard, find, replay
from asyafw.envelope import JSON, MSGPACK, Codec, Envelope, Failure, Route, encode_envelope
from asyafw.events import DEAD_LETTERS
from asyafw.exceptions import DecodeError
from asyafw.memory import MemoryTransport
from asyafw.memory._consumer import Consumer
from asyafw.transport import Delivery, Message, Send


@pytest.fixture
async def transport() -> AsyncIterator[MemoryTransport]:
    async with MemoryTransport() as transport:
        yield transport


def letter(name: str, actor: str = "judge", codec: Codec = MSGPACK) -> Envelope:
    return Envelope(
        id=name,
        job=f"job of {name}",
        route=Route(actor, ("publish",), ("enhance",)),
        payload=Raw(codec.encode({"uri": name})),
        headers={"tenant": "acme"},
        attempt=3,
        error=Failure(type="ValueError", message="no", actor=actor, attempts=3),
    )


async def bury(transport: MemoryTransport, *letters: Envelope, codec: Codec = MSGPACK) -> None:
    for each in letters:
        body = encode_envelope(each, codec)
        await transport.emit(Send(DEAD_LETTERS, Message(body)))


async def received(transport: MemoryTransport, queue: str, number: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with transport.consume(queue) as consumer:
        while len(found) < number:
            found += await consumer.receive(number - len(found))
        for delivery in found:
            await delivery.settle()
    return found


async def test_to_browse_takes_nothing_away(transport: MemoryTransport) -> None:
    await bury(transport, letter("a"), letter("b"), letter("c"))

    seen = [await browse(transport, 2) for _ in range(3)]

    assert [[each.id for each in round_] for round_ in seen] == [["a", "b"]] * 3
    lag = await transport.lag(DEAD_LETTERS)
    assert (lag.backlog, lag.in_flight) == (3, 0)


async def test_to_browse_does_not_count_as_a_delivery(transport: MemoryTransport) -> None:
    await bury(transport, letter("a"))
    await browse(transport, 10)

    (delivery,) = await received(transport, DEAD_LETTERS, 1)

    assert delivery.attempt == 1


async def test_an_empty_queue_has_no_dead_letters(transport: MemoryTransport) -> None:
    assert await browse(transport, 10) == []
    assert await find(transport, "a") is None


async def test_more_letters_than_are_received_at_once_are_seen(transport: MemoryTransport) -> None:
    await bury(transport, *(letter(str(number)) for number in range(250)))

    seen = await browse(transport, 1000)

    assert [each.id for each in seen] == [str(number) for number in range(250)]


async def test_a_letter_is_found_with_all_it_holds(transport: MemoryTransport) -> None:
    await bury(transport, letter("a"), letter("b"))

    found = await find(transport, "b")

    assert found is not None
    assert found.envelope == letter("b")
    assert found.payload() == {"uri": "b"}
    assert (found.actor, found.error, found.replayable) == ("judge", letter("b").error, True)


@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=lambda codec: codec.name)
async def test_a_replayed_letter_is_at_its_first_attempt_again(
    transport: MemoryTransport, codec: Codec
) -> None:
    buried = letter("a", codec=codec)
    await bury(transport, buried, codec=codec)
    before = time.time()

    replayed = await replay(transport, Selection(frozenset({"a"})))

    assert (replayed.sent, replayed.refused) == (["a"], [])
    assert await browse(transport, 10) == []
    (delivery,) = await received(transport, "judge", 1)
    envelope = codec.decode(delivery.message.body, type=Envelope)
    assert before <= envelope.enqueued_at <= time.time()
    expected = replace(buried, attempt=1, error=None, enqueued_at=envelope.enqueued_at)
    assert envelope == expected


async def test_a_deadline_that_has_passed_is_dropped(transport: MemoryTransport) -> None:
    later = time.time() + 3600
    await bury(
        transport, replace(letter("late"), deadline_at=1.0), replace(letter("a"), deadline_at=later)
    )

    await replay(transport, Selection())

    deliveries = await received(transport, "judge", 2)
    deadlines = [MSGPACK.decode(each.message.body, type=Envelope) for each in deliveries]
    assert [each.deadline_at for each in deadlines] == [None, later]


async def test_only_those_selected_are_replayed(transport: MemoryTransport) -> None:
    await bury(transport, letter("a"), letter("b", "enhance"), letter("c"))

    by_actor = await replay(transport, Selection(actor="enhance"))
    by_id = await replay(transport, Selection(frozenset({"c", "unknown"})))

    assert (by_actor.sent, by_id.sent) == (["b"], ["c"])
    assert [each.id for each in await browse(transport, 10)] == ["a"]


async def test_letters_that_come_meanwhile_are_not_replayed(transport: MemoryTransport) -> None:
    await bury(transport, letter("a"))

    async def fail_again() -> None:
        async with transport.consume("judge") as consumer:
            while True:
                for delivery in await consumer.receive(1):
                    await delivery.settle(Send(DEAD_LETTERS, delivery.message))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail_again)
        replayed = await replay(transport, Selection())
        assert replayed.sent == ["a"]
        tasks.cancel_scope.cancel()


async def test_bytes_that_are_no_message_are_kept_and_refused(transport: MemoryTransport) -> None:
    outcome = undecodable(b"\xff\x00hello", "judge", DecodeError("not an envelope"), time.time())
    await transport.emit(*outcome.out)
    (found,) = await browse(transport, 10)

    replayed = await replay(transport, Selection())

    assert (found.original, found.replayable) == (b"\xff\x00hello", False)
    assert found.payload() == b"\xff\x00hello"
    assert (replayed.sent, replayed.refused) == ([], [found.id])
    assert len(await browse(transport, 10)) == 1


async def test_what_a_stranger_put_there_can_be_seen_and_discarded(
    transport: MemoryTransport,
) -> None:
    await transport.emit(Send(DEAD_LETTERS, Message(b"not even a letter")))
    (found,) = await browse(transport, 10)

    replayed = await replay(transport, Selection(frozenset({found.id})))
    discarded = await discard(transport, Selection(frozenset({found.id})))

    assert (found.envelope, found.actor, found.error) == (None, None, None)
    assert found.original == b"not even a letter"
    assert replayed.refused == [found.id]
    assert discarded == [found.id]
    assert await browse(transport, 10) == []


async def test_a_payload_that_cannot_be_decoded_is_an_error(transport: MemoryTransport) -> None:
    body = MSGPACK.encode(replace(letter("a"), payload=Raw(b"\xa1\xff")))
    await transport.emit(Send(DEAD_LETTERS, Message(body)))
    (found,) = await browse(transport, 10)

    with pytest.raises(DecodeError, match="the payload cannot be decoded"):
        found.payload()


async def test_discarded_letters_are_gone(transport: MemoryTransport) -> None:
    await bury(transport, letter("a"), letter("b", "enhance"), letter("c"))

    some = await discard(transport, Selection(actor="judge"))
    rest = await discard(transport, Selection())

    assert (some, rest) == (["a", "c"], ["b"])
    assert (await transport.lag(DEAD_LETTERS)).backlog == 0


class Interrupting(MemoryTransport):
    """Whoever has received something is cancelled."""

    scope: anyio.CancelScope

    @asynccontextmanager
    async def consume(self, queue: str) -> AsyncGenerator[Consumer]:
        async with super().consume(queue) as consumer:
            receive = consumer.receive

            async def interrupted(limit: int) -> Sequence[Delivery]:
                deliveries = await receive(limit)
                self.scope.cancel()
                return deliveries

            consumer.receive = interrupted  # type: ignore[assignment, method-assign]
            yield consumer


async def test_letters_go_back_when_the_one_who_looks_is_cancelled() -> None:
    async with Interrupting() as transport:
        await bury(transport, *(letter(str(number)) for number in range(150)))

        with anyio.CancelScope() as transport.scope:
            await browse(transport, 150)

        lag = await transport.lag(DEAD_LETTERS)
    assert (lag.backlog, lag.in_flight) == (150, 0)
