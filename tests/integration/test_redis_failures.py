"""What happens to a Redis, to connections and to processes, and what becomes of the messages."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import uuid4

import anyio
import pytest
from asyafw_redis import from_url

from asyafw import App, Context, actor
from asyafw.exceptions import TransportError, TransportUnavailable
from asyafw.transport import Append, Consumer, Delivery, Message, Part, Send, Transport
from tests.servers.redis import DURABLE, RedisServer, redis_server

PATIENCE_S = 10.0
LEASE_S = 0.6
GROUP = "asyafw"


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server(*DURABLE) as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server that the test may kill."""
    with redis_server(*DURABLE) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return uuid4().hex[:8]


@pytest.fixture
def opened(shared: RedisServer, prefix: str) -> Callable[..., Any]:
    def open_one(server: RedisServer = shared, **options: Any) -> Any:
        given = {"prefix": prefix, "lease_s": LEASE_S, **options}
        return from_url(f"{server.url}?" + "&".join(f"{k}={v}" for k, v in given.items()))

    return open_one


async def take(consumer: Consumer, count: int = 1) -> list[Delivery]:
    taken: list[Delivery] = []
    with anyio.fail_after(PATIENCE_S):
        while len(taken) < count:
            try:
                taken += await consumer.receive(count - len(taken))
            except TransportUnavailable:
                await anyio.sleep(0.02)
    return taken


async def becomes(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 — a server tells nobody
            await anyio.sleep(0.01)


def messages(count: int, queue: str = "queue") -> Sequence[Send]:
    return [Send(queue, Message(b"%d" % n)) for n in range(count)]


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return sorted(delivery.message.body for delivery in deliveries)


def pending(server: RedisServer, prefix: str, stream: str = "queue:queue") -> int:
    return int(server.client().xpending(f"{prefix}:{stream}", GROUP)["pending"])


async def test_a_killed_redis_has_lost_nothing_that_was_accepted(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(own) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(200))
        (first,) = await take(consumer)
        assert await first.settle(Append("log", b"done"))

        own.kill()
        own.start()

        rest = await take(consumer, 199)
        assert bodies([first, *rest]) == bodies([*map(as_delivery, range(200))])
        for delivery in rest:
            assert await settled(delivery)
        lag = await transport.lag("queue")
        assert (lag.backlog, lag.in_flight, lag.arrived) == (0, 0, 200)


def as_delivery(number: int) -> Any:
    class Expected:
        message = Message(b"%d" % number)

    return Expected


async def settled(delivery: Delivery, *out: Any) -> bool:
    """Settle as a worker does: what is in doubt is tried again."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                return await delivery.settle(*out)
            except TransportUnavailable:
                await anyio.sleep(0.02)


async def test_an_emit_waits_for_a_redis_that_is_away_for_a_moment(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(own, timeout_s=5) as transport:
        await transport.emit(*messages(1))
        own.kill()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.emit, *messages(1))
            await anyio.wait_all_tasks_blocked()
            own.start()

        assert (await transport.lag("queue")).backlog == 2


async def test_waits_for_a_redis_that_stays_away_are_bounded(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(own, timeout_s=0.5) as transport, transport.consume("queue") as consumer:
        own.kill()

        for call in calls(transport, consumer):
            with anyio.fail_after(3), pytest.raises(TransportUnavailable, match=str(own.port)):
                await call()


async def test_waits_for_a_redis_that_does_not_answer_are_bounded(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(own, timeout_s=0.5) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(1))
        for delivery in await take(consumer):
            await delivery.settle()
        own.pause()

        for call in calls(transport, consumer):
            with anyio.fail_after(5), pytest.raises(TransportUnavailable, match="does not answer"):
                await call()

        own.resume()
        # What was in doubt has happened: Redis reads what was sent to it before it sees the end.
        assert bodies(await take(consumer)) == [b"0"]


def calls(transport: Transport, consumer: Consumer) -> Sequence[Callable[[], Any]]:
    return (
        lambda: transport.emit(*messages(1)),
        lambda: consumer.receive(1),
        lambda: transport.lag("queue"),
    )


async def test_what_was_read_for_a_connection_that_broke_is_read_again(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    """An entry that Redis gave to us and that we never saw is in our own pending list."""
    async with opened(lease_s=60) as transport, transport.consume("queue") as consumer:
        raw = shared.client()
        raw.xadd(f"{prefix}:queue:queue", {"b": b"unseen"})
        raw.xreadgroup(GROUP, consumer.name, {f"{prefix}:queue:queue": ">"})
        raw.client_kill_filter(_id=consumer._client_id)

        (delivery,) = await take(consumer)

        assert delivery.message.body == b"unseen"
        assert delivery.attempt == 1
        assert await delivery.settle()


async def test_what_is_in_hand_is_not_read_again_after_a_reconnect(
    shared: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(lease_s=60) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(5))
        (held,) = await take(consumer)
        shared.client().client_kill_filter(_id=consumer._client_id)

        rest = await take(consumer, 4)

        assert bodies([held, *rest]) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_cancelled_receive_leaves_nothing_behind(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    """What comes later is not given to who has stopped waiting."""
    async with opened(lease_s=60) as transport, transport.consume("queue") as gave_up:
        taken: list[Delivery] = []
        for _ in range(20):
            with anyio.move_on_after(0.005):
                taken += await gave_up.receive(10)
            await transport.emit(*messages(3))

        async with opened(lease_s=60) as other, other.consume("queue") as consumer:
            taken += await take(consumer, 60 - len(taken))

        assert len(taken) == 60


async def test_a_receive_that_was_cancelled_ends_the_wait_in_the_server(
    shared: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        with anyio.move_on_after(0.05):
            await consumer.receive(1)

        began = time.monotonic()
        await becomes(lambda: not blocked(shared))
        assert time.monotonic() - began < 1


def blocked(server: RedisServer) -> int:
    return int(server.client().info("clients")["blocked_clients"])


async def test_scripts_that_the_server_forgot_are_sent_again(
    shared: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        for _ in range(3):
            shared.client().script_flush()
            await transport.emit(*messages(1))
            shared.client().script_flush()
            (delivery,) = await take(consumer)
            shared.client().script_flush()
            assert await delivery.settle()
            shared.client().script_flush()
            assert (await transport.lag("queue")).in_flight == 0


async def test_a_queue_that_was_deleted_begins_again(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(1))
        (lost,) = await take(consumer)
        shared.client().delete(f"{prefix}:queue:queue", f"{prefix}:again:queue")

        await transport.emit(Send("queue", Message(b"new")))

        (delivery,) = await take(consumer)
        assert delivery.message.body == b"new"
        assert await delivery.settle()
        assert not await lost.settle(*messages(1))


async def test_what_is_settled_takes_no_memory(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(500))
        for delivery in await take(consumer, 500):
            await delivery.settle()

    raw = shared.client()
    assert raw.xlen(f"{prefix}:queue:queue") == 0
    assert raw.memory_usage(f"{prefix}:queue:queue") < 2_000


async def test_a_consumer_that_leaves_is_forgotten_with_nothing_pending(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    async with opened() as transport:
        await transport.emit(*messages(45))
        async with transport.consume("queue") as consumer:
            await take(consumer, 45)

        consumers = shared.client().xinfo_consumers(f"{prefix}:queue:queue", GROUP)
        assert consumers == []
        assert (await transport.lag("queue")).backlog == 45


async def test_dead_consumers_are_forgotten_once_nothing_is_pending(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    stream = f"{prefix}:queue:queue"
    raw = shared.client()
    async with opened(lease_s=0.1) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(3))
        raw.xreadgroup(GROUP, "dead", {stream: ">"}, count=3)

        await take(consumer, 3)
        await becomes(lambda: [c["name"] for c in raw.xinfo_consumers(stream, GROUP)] != [])
        await becomes(
            lambda: b"dead" not in [c["name"] for c in raw.xinfo_consumers(stream, GROUP)]
        )


async def test_thousands_of_messages_of_a_dead_worker_come_back(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    """The sweep takes a hundred at a time, and goes on where it stopped."""
    async with opened(lease_s=0.3) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(1_000))
        shared.client().xreadgroup(GROUP, "dead", {f"{prefix}:queue:queue": ">"}, count=1_000)

        taken = await take(consumer, 1_000)

        assert len(set(bodies(taken))) == 1_000
        assert {delivery.attempt for delivery in taken} == {2}


async def test_what_came_back_is_delivered_before_what_is_new(opened: Callable[..., Any]) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(10))
        first, second = await take(consumer, 2)
        await first.release()
        await second.release()

        again = await take(consumer, 2)

        assert bodies(again) == bodies([first, second])


async def test_what_was_left_twice_is_delivered_alone(
    opened: Callable[..., Any],
) -> None:
    """It may kill whoever takes it: others that came back with it are not to be blamed for that."""
    async with opened() as transport:
        await transport.emit(*messages(5))
        for _ in range(2):
            async with transport.consume("queue") as consumer:
                await take(consumer, 5)

        seen: list[Delivery] = []
        async with transport.consume("queue") as consumer:
            for left in (4, 3, 2, 1, 0):
                (delivery,) = await take(consumer)
                assert delivery.attempt == 3
                lag = await transport.lag("queue")
                assert (lag.backlog, lag.in_flight) == (left, 1)
                with anyio.move_on_after(0.05):
                    pytest.fail(f"a second one: {await consumer.receive(5)}")
                seen.append(delivery)
                assert await delivery.settle()

        assert bodies(seen) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_process_has_one_suspect_of_all_its_queues(opened: Callable[..., Any]) -> None:
    """Queues of one worker come back together, too: what kills it is on one of them."""
    queues = [f"queue-{n}" for n in range(3)]
    async with opened() as transport:
        for queue in queues:
            await transport.emit(*messages(2, queue))
            for _ in range(2):
                async with transport.consume(queue) as consumer:
                    await take(consumer, 2)

        seen: list[Delivery] = []
        in_hand = 0
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:

            async def serve(consumer: Consumer) -> None:
                while True:
                    for delivery in await consumer.receive(5):
                        tasks.start_soon(handle, delivery)

            async def handle(delivery: Delivery) -> None:
                nonlocal in_hand
                in_hand += 1
                assert in_hand == 1
                await anyio.sleep(0.05)
                in_hand -= 1
                seen.append(delivery)
                assert await delivery.settle()

            for queue in queues:
                consumer = await stack.enter_async_context(transport.consume(queue))
                tasks.start_soon(serve, consumer)
            await becomes(lambda: len(seen) == 6)
            tasks.cancel_scope.cancel()

        assert {delivery.attempt for delivery in seen} == {3}


async def test_what_is_delivered_alone_holds_up_nothing_else(opened: Callable[..., Any]) -> None:
    async with opened() as transport:
        await transport.emit(*messages(2))
        for _ in range(2):
            async with transport.consume("queue") as consumer:
                await take(consumer, 2)
        async with transport.consume("queue") as consumer, opened() as another:
            (alone,) = await take(consumer)
            await transport.emit(*(Send("queue", Message(b"new %d" % n)) for n in range(3)))

            assert bodies(await take(consumer, 3)) == [b"new 0", b"new 1", b"new 2"]

            async with another.consume("queue") as second:
                (other,) = await take(second)
            assert bodies([alone, other]) == [b"0", b"1"]


async def test_what_others_have_put_into_a_queue_is_delivered_as_it_is(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    raw, stream = shared.client(), f"{prefix}:queue:queue"
    foreign: list[dict[str, bytes]] = [
        {"x": b"1"},
        {"x": b"1", "y": b"2"},
        {"k": b"\xff", "b": b"body"},
        {"k": b"join", "p": b"\0\0"},
        {"b": b"body", "a": b"many"},
    ]
    async with opened() as transport, transport.consume("queue") as consumer:
        for fields in foreign:
            raw.xadd(stream, fields)
        for delivery in await take(consumer, len(foreign)):
            assert await delivery.settle()


async def test_what_exceeds_a_limit_is_left_to_others(opened: Callable[..., Any]) -> None:
    """What came back and what is new come from two streams, each of which could fill a call."""
    async with opened(lease_s=60) as transport, transport.consume("queue") as first:
        await transport.emit(*messages(1))
        (delivery,) = await take(first)
        await delivery.release()
        await transport.emit(Send("queue", Message(b"new")))
        (again,) = await take(first)
        assert again.message.body == b"0"

        async with transport.consume("queue") as second:
            assert bodies(await take(second)) == [b"new"]


async def test_all_that_a_lost_reply_held_is_read_again_at_once(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    async with opened(lease_s=60) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(10))
        raw = shared.client()
        raw.xreadgroup(GROUP, consumer.name, {f"{prefix}:queue:queue": ">"}, count=10)
        raw.client_kill_filter(_id=consumer._client_id)

        taken = [*await take(consumer, 1), *await take(consumer, 9)]

        assert len(set(bodies(taken))) == 10
        assert {delivery.attempt for delivery in taken} == {1}


async def test_a_consumer_closes_at_once_after_a_reconnect(
    shared: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(lease_s=60) as transport:
        async with transport.consume("queue") as consumer:
            shared.client().client_kill_filter(_id=consumer._client_id)
            for _ in range(2):
                with anyio.move_on_after(0.2), suppress(TransportUnavailable):
                    await consumer.receive(1)
            began = time.monotonic()

        assert time.monotonic() - began < 1


async def test_the_age_is_that_of_the_oldest_that_came_back(opened: Callable[..., Any]) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(1))
        await anyio.sleep(0.5)
        await transport.emit(Send("queue", Message(b"young")))
        old, young = await take(consumer, 2)
        await young.release()
        await old.release()

        lag = await transport.lag("queue")

        assert lag.oldest_s >= 0.5


async def test_a_suspect_waits_for_nobody_who_does_not_receive(opened: Callable[..., Any]) -> None:
    async with opened() as transport:
        for queue in ("one", "two"):
            await transport.emit(*messages(2, queue))
            for _ in range(2):
                async with transport.consume(queue) as consumer:
                    await take(consumer, 2)

        async with transport.consume("one") as first, transport.consume("two"):
            for _ in range(2):
                (delivery,) = await take(first)
                assert await delivery.settle()


async def test_joins_of_queues_whose_names_have_colons_keep_apart(
    opened: Callable[..., Any],
) -> None:
    async with opened() as transport:
        await transport.emit(Part("a", "b:x", 0, 3, b"0", 0.2), Part("a:b", "x", 0, 2, b"1", 0.2))

        for queue, parts in (("a", (b"0", None, None)), ("a:b", (b"1", None))):
            async with transport.consume(queue) as consumer:
                (delivery,) = await take(consumer)
                assert delivery.parts == parts


async def test_a_join_that_was_deleted_holds_up_nothing(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(Part("queue", "join", 0, 2, b"0", 0.2))
        shared.client().delete(f"{prefix}:join:5:queue:join")
        await transport.emit(Send("queue", Message(b"later"), delay_s=0.3))

        assert bodies(await take(consumer)) == [b"later"]


async def test_a_queue_is_opened_though_redis_is_away_for_a_moment(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(own) as transport:
        own.kill()

        async with anyio.create_task_group() as tasks:

            async def consume() -> None:
                async with transport.consume("queue"):
                    tasks.cancel_scope.cancel()

            tasks.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
            own.start()
            with anyio.fail_after(PATIENCE_S):
                await anyio.sleep_forever()


async def test_endless_delays_are_long_ones(opened: Callable[..., Any]) -> None:
    async with opened() as transport:
        await transport.emit(Send("queue", Message(b"0"), delay_s=float("inf")))
        await transport.emit(Part("queue", "join", 0, 1, b"0", float("inf")))

        lag = await transport.lag("queue")

        assert (lag.delayed, lag.backlog) == (1, 1)


async def test_a_redis_without_memory_refuses_new_messages_and_settles_old_ones(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    raw = own.client()
    async with opened(own) as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(1))
        (delivery,) = await take(consumer)
        raw.config_set("maxmemory", 1)

        with pytest.raises(TransportUnavailable, match="maxmemory"):
            await transport.emit(*messages(1))
        assert await delivery.settle(Send("next", Message(b"handed on")))

        raw.config_set("maxmemory", 0)
        await transport.emit(*messages(1))
        async with transport.consume("next") as other:
            assert bodies(await take(other)) == [b"handed on"]


async def test_a_settle_that_the_server_refuses_leaves_the_message(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    """A foreign key in the way of a queue is an error, and no loss."""
    raw = shared.client()
    raw.set(f"{prefix}:queue:next", "in the way")
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(2))
        stuck, fine = await take(consumer, 2)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fine.settle)
            with pytest.raises(TransportError, match="WRONGTYPE"):
                await stuck.settle(Send("next", Message(b"handed on")))

        assert (await transport.lag("queue")).in_flight == 1
        raw.delete(f"{prefix}:queue:next")
        assert await stuck.settle(Send("next", Message(b"handed on")))
        async with transport.consume("next") as other:
            assert bodies(await take(other)) == [b"handed on"]


async def test_errors_do_not_show_what_messages_hold(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    shared.client().set(f"{prefix}:queue:queue", "in the way")
    async with opened() as transport:
        with pytest.raises(TransportError) as caught:
            await transport.emit(Send("queue", Message(b"a secret")))

    assert "secret" not in str(caught.value)


async def test_a_message_larger_than_redis_takes_is_refused_by_name(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyafw_redis._commits._LARGEST_BYTES", 1_000)
    async with opened() as transport:
        with pytest.raises(ValueError, match="1001 bytes"):
            await transport.emit(Send("queue", Message(b"x" * 1_001)))


async def test_logs_are_trimmed_by_age(
    shared: RedisServer, opened: Callable[..., Any], prefix: str
) -> None:
    async with opened(retention_s=1) as transport:
        await transport.emit(*(Append("log", b"x" * 100) for _ in range(500)))
        await anyio.sleep(1.2)

        await transport.emit(Append("log", b"last"))

    # Redis trims whole nodes of a hundred entries.
    assert shared.client().xlen(f"{prefix}:log:log") <= 101


async def test_ten_thousand_outputs_are_one_step(opened: Callable[..., Any]) -> None:
    async with opened() as transport, transport.consume("queue") as consumer:
        await transport.emit(*messages(1))
        (delivery,) = await take(consumer)

        assert await delivery.settle(*messages(10_000, "next"))

        assert (await transport.lag("next")).backlog == 10_000


async def test_a_handler_that_blocks_the_loop_for_three_leases_runs_once(
    opened: Callable[..., Any],
) -> None:
    runs: list[int] = []

    @actor
    async def block(seconds: float, ctx: Context) -> float:
        runs.append(ctx.attempt)
        time.sleep(seconds)  # noqa: ASYNC251 — this is the misdeed
        return seconds

    app = App([block])
    async with (
        app.connect(opened()) as client,
        opened() as other,
        app.worker(opened()),
        other.consume("block") as second,
    ):
        job = await client.submit(["block"], 3 * LEASE_S)
        # The first in line is served: it may be this consumer, which then lets go.
        with anyio.move_on_after(0.1):
            for delivery in await second.receive(1):
                await delivery.release()
        with anyio.move_on_after(4 * LEASE_S):
            stolen = await second.receive(1)
            pytest.fail(f"{stolen} was delivered twice")

        assert await job.result(PATIENCE_S) == 3 * LEASE_S

    assert runs == [1]


async def test_who_was_stopped_for_longer_than_a_lease_settles_in_vain(
    opened: Callable[..., Any], prefix: str
) -> None:
    async with opened() as zombie, opened() as other:
        async with zombie.consume("queue") as consumer:
            await zombie.emit(*messages(1))
            (lost,) = await take(consumer)
            stop_keeper(zombie)

            async with other.consume("queue") as second:
                (found,) = await take(second)
                assert found.attempt == 2
                assert not await lost.settle(*messages(1, "next"))
                assert await found.settle()
        assert (await other.lag("next")).backlog == 0


def stop_keeper(transport: Any) -> None:
    transport._keeper.stop()
    transport._keeper.join()


async def test_delays_of_a_dead_sender_end(opened: Callable[..., Any]) -> None:
    async with opened() as survivor, survivor.consume("queue") as consumer:
        async with opened() as sender:
            await sender.emit(Send("queue", Message(b"later"), delay_s=0.3))
            await sender.crash()

        assert bodies(await take(consumer)) == [b"later"]


@pytest.mark.parametrize("harm", [RedisServer.kill, RedisServer.pause])
async def test_a_transport_closes_though_redis_is_gone_or_does_not_answer(
    own: RedisServer, opened: Callable[..., Any], harm: Callable[[RedisServer], None]
) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with opened(own, timeout_s=0.5) as transport, transport.consume("queue") as consumer:
            await transport.emit(*messages(1))
            await take(consumer)
            harm(own)


async def test_a_reader_of_a_log_goes_on_after_a_restart(
    own: RedisServer, opened: Callable[..., Any]
) -> None:
    async with opened(own) as transport:
        await transport.emit(Append("log", b"before"))
        tail = transport.tail("log", since_s=60)
        assert (await anext(tail)).body == b"before"
        own.kill()
        own.start()

        await again(transport, Append("log", b"after"))

        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    entry = await anext(tail)
                except TransportUnavailable:
                    continue
                break
        assert entry.body == b"after"


async def again(transport: Transport, *out: Any) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                return await transport.emit(*out)
            except TransportUnavailable:
                await anyio.sleep(0.02)


async def test_closing_ends_who_waits(opened: Callable[..., Any]) -> None:
    ended: list[str] = []

    async def expect_end(call: Callable[[], Any]) -> None:
        try:
            await call()
        except TransportError as error:
            ended.append(type(error).__name__)

    async def receive(transport: Transport) -> None:
        async with transport.consume("queue") as consumer:
            await consumer.receive(1)

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks, opened() as transport:
            tail = transport.tail("log")
            tasks.start_soon(expect_end, lambda: anext(tail))
            tasks.start_soon(expect_end, lambda: receive(transport))
            await becomes(lambda: len(transport._consumers) == 1)
            await anyio.wait_all_tasks_blocked()

    assert ended == ["TransportClosed", "TransportClosed"]
