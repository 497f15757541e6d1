import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw.exceptions import ConfigurationError, TransportClosed
from asyafw.memory import MemoryTransport, from_url
from asyafw.testing import ManualClock
from asyafw.transport import Append, Delivery, Message, Out, Part, Send, Transport

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def transport(clock: ManualClock) -> AsyncIterator[MemoryTransport]:
    async with MemoryTransport(clock) as transport:
        yield transport


def send(*bodies: int, queue: str = "queue", delay_s: float = 0) -> list[Send]:
    return [Send(queue, Message(b"%d" % body), delay_s) for body in bodies]


def bodies(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.message.body) for delivery in deliveries]


async def receive(transport: Transport, limit: int = 100, queue: str = "queue") -> list[int]:
    """Take what is there, and settle it."""
    got: Sequence[Delivery] = ()
    async with transport.consume(queue) as consumer:
        with anyio.fail_after(5):
            got = await consumer.receive(limit)
        for delivery in got:
            await delivery.settle()
    return bodies(got)


async def until_blocked() -> None:
    await anyio.wait_all_tasks_blocked()


class TestOrder:
    async def test_messages_come_in_the_order_of_their_arrival(
        self, transport: MemoryTransport
    ) -> None:
        for n in range(10):
            await transport.emit(*send(n))

        async with transport.consume("queue") as consumer:
            received = [*await consumer.receive(4), *await consumer.receive(100)]

        assert bodies(received) == list(range(10))

    async def test_what_comes_back_takes_its_old_place(self, transport: MemoryTransport) -> None:
        await transport.emit(*send(0, 1, 2, 3, 4))
        async with transport.consume("queue") as consumer:
            zero, one, two = await consumer.receive(3)

            await two.release()
            await zero.release()
            await one.settle()

            assert bodies(await consumer.receive(2)) == [0, 2]
        assert await receive(transport) == [0, 2, 3, 4]

    async def test_a_limit_below_one_is_refused(self, transport: MemoryTransport) -> None:
        async with transport.consume("queue") as consumer:
            with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
                await consumer.receive(0)


class TestFairness:
    async def test_waiting_consumers_are_served_in_turn(self, transport: MemoryTransport) -> None:
        served: list[str] = []

        async def work(name: str) -> None:
            async with transport.consume("queue") as consumer:
                while True:
                    for delivery in await consumer.receive(1):
                        served.append(name)
                        await delivery.settle()

        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(work, name)
                await until_blocked()
            for n in range(9):
                await transport.emit(*send(n))
                await until_blocked()
            tasks.cancel_scope.cancel()

        assert served == list("abcabcabc")

    async def test_a_burst_is_shared_by_those_who_wait(self, transport: MemoryTransport) -> None:
        sizes: list[int] = []

        async def work() -> None:
            async with transport.consume("queue") as consumer:
                sizes.append(len(await consumer.receive(100)))
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(work)
            await until_blocked()
            await transport.emit(*send(*range(10)))
            await until_blocked()
            tasks.cancel_scope.cancel()

        assert sorted(sizes) == [2, 2, 3, 3]

    async def test_a_consumer_of_a_full_queue_lets_others_run(
        self, transport: MemoryTransport
    ) -> None:
        await transport.emit(*send(*range(100)))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await checkpoint()

        async with anyio.create_task_group() as tasks, transport.consume("queue") as consumer:
            tasks.start_soon(other)
            for _ in range(100):
                for delivery in await consumer.receive(1):
                    await delivery.settle()
            tasks.cancel_scope.cancel()

        assert turns >= 99

    async def test_who_gives_up_passes_its_turn_on(self, transport: MemoryTransport) -> None:
        got: list[int] = []

        async def work() -> None:
            async with transport.consume("queue") as consumer:
                got.extend(bodies(await consumer.receive(1)))

        await transport.emit(*send(0, queue="source"))
        async with transport.consume("source") as consumer:
            (delivery,) = await consumer.receive(1)
            first, second = asyncio.create_task(work()), asyncio.create_task(work())
            await until_blocked()

            await delivery.settle(*send(1))
            # The message is there and the first was woken, but has not run.
            first.cancel()
            await asyncio.wait_for(second, 5)

        assert first.cancelled()
        assert got == [1]


class TestRoom:
    async def test_emit_waits_while_a_queue_is_full(self) -> None:
        async with MemoryTransport(capacity=2) as transport, anyio.create_task_group() as tasks:
            await transport.emit(*send(0, 1))

            tasks.start_soon(transport.emit, *send(2))
            await until_blocked()

            assert (await transport.lag("queue")).backlog == 2
            assert await receive(transport, limit=1) == [0]
            await until_blocked()
            assert (await transport.lag("queue")).backlog == 2
            assert await receive(transport) == [1, 2]

    async def test_those_who_wait_for_room_go_in_turn(self) -> None:
        async with MemoryTransport(capacity=1) as transport, anyio.create_task_group() as tasks:
            await transport.emit(*send(0))
            for n in range(1, 5):
                tasks.start_soon(transport.emit, *send(n))
                await until_blocked()

            got: list[int] = []
            while len(got) < 5:
                got += await receive(transport, limit=1)
            assert got == [0, 1, 2, 3, 4]

    async def test_a_step_is_visible_as_a_whole_or_not_at_all(self) -> None:
        async with MemoryTransport(capacity=1) as transport, anyio.create_task_group() as tasks:
            await transport.emit(*send(0, queue="full"))
            outs: list[Out] = [
                *send(1, queue="free"),
                *send(1, queue="full"),
                Append("log", b"entry"),
            ]

            tasks.start_soon(transport.emit, *outs)
            await until_blocked()

            assert (await transport.lag("free")).backlog == 0
            assert transport._broker.logs["log"]._size == 0
            assert await receive(transport, queue="full") == [0]
            assert await receive(transport, queue="full") == [1]
            assert await receive(transport, queue="free") == [1]
            assert transport._broker.logs["log"]._size == 1

    async def test_steps_across_queues_do_not_wait_for_each_other_for_ever(self) -> None:
        async with MemoryTransport(capacity=1) as transport, anyio.create_task_group() as tasks:
            await transport.emit(*send(0, queue="a"), *send(0, queue="b"))
            for n in range(1, 6):
                queues = ("a", "b") if n % 2 else ("b", "a")
                tasks.start_soon(transport.emit, *[s for q in queues for s in send(n, queue=q)])
            got: dict[str, list[int]] = {"a": [], "b": []}
            for n in range(6):
                for queue in ("a", "b") if n % 3 else ("b", "a"):
                    got[queue] += await receive(transport, limit=1, queue=queue)
            assert got == {"a": [0, 1, 2, 3, 4, 5], "b": [0, 1, 2, 3, 4, 5]}

    async def test_a_cancelled_emit_has_emitted_nothing_and_lets_the_next_go(self) -> None:
        async with MemoryTransport(capacity=1) as transport:
            await transport.emit(*send(0))
            first, second = (asyncio.create_task(transport.emit(*send(n))) for n in (1, 2))
            await until_blocked()

            async with transport.consume("queue") as consumer:
                assert bodies(await consumer.receive(1)) == [0]
                # There is room and the first was woken, but has not run.
                first.cancel()
                await asyncio.wait_for(second, 5)
                assert bodies(await consumer.receive(1)) == [2]

        assert first.cancelled()

    async def test_settle_never_waits_for_room(self) -> None:
        async with MemoryTransport(capacity=1) as transport:
            await transport.emit(*send(0, queue="source"))
            async with transport.consume("source") as consumer:
                (delivery,) = await consumer.receive(1)
                coroutine = delivery.settle(*send(1, 2, 3))

                with pytest.raises(StopIteration):
                    coroutine.send(None)

            assert await receive(transport) == [1, 2, 3]

    async def test_parts_wait_for_room_too(self) -> None:
        async with MemoryTransport(capacity=1) as transport, anyio.create_task_group() as tasks:
            await transport.emit(*send(0))

            tasks.start_soon(transport.emit, Part("queue", "join", 0, 1, b"part", 60))
            await until_blocked()

            assert (await transport.lag("queue")).backlog == 1
            await receive(transport)
            async with transport.consume("queue") as consumer:
                (delivery,) = await consumer.receive(1)
                assert delivery.parts == (b"part",)


class TestNames:
    async def test_who_opens_the_same_name_meets(self) -> None:
        name = uuid4().hex
        async with from_url(f"memory://{name}") as one, from_url(f"memory://{name}") as two:
            await one.emit(*send(1))

            assert await receive(two) == [1]

    async def test_no_name_is_a_name(self) -> None:
        queue = uuid4().hex
        async with from_url("memory://") as one, from_url("memory://") as two:
            await one.emit(*send(1, queue=queue))

            assert await receive(two, queue=queue) == [1]

    async def test_what_is_on_the_queues_outlives_the_handles(self) -> None:
        url = f"memory://{uuid4().hex}"
        async with from_url(url) as one:
            await one.emit(*send(1))

        async with from_url(url) as two:
            assert await receive(two) == [1]

    async def test_other_names_and_unnamed_handles_are_apart(self) -> None:
        async with from_url(f"memory://{uuid4().hex}") as one, MemoryTransport() as two:
            await one.emit(*send(1))

            assert (await two.lag("queue")).backlog == 0

    async def test_share_gives_another_handle_on_the_same_queues(
        self, transport: MemoryTransport
    ) -> None:
        async with transport.share() as other:
            await other.emit(*send(1))

        assert await receive(transport) == [1]

    async def test_options_bound_the_queues_whoever_gives_them(self) -> None:
        name = uuid4().hex
        plain = from_url(f"memory://{name}")
        from_url(f"memory://{name}?capacity=1&log_capacity=7&retention_s=0.5")

        async with plain, anyio.create_task_group() as tasks:
            await plain.emit(*send(0))
            tasks.start_soon(plain.emit, *send(1))
            await until_blocked()
            assert (await plain.lag("queue")).backlog == 1
            tasks.cancel_scope.cancel()

        bounds = plain._broker.bounds
        assert (bounds.capacity, bounds.log_capacity, bounds.retention_s) == (1, 7, 0.5)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("memory://x?size=1", "unknown option 'size'; there are capacity, log_capacity, ret"),
            ("memory://x?capacity=many", "capacity must be a positive number, not 'many'"),
            ("memory://x?capacity=0", "capacity must be a positive number, not '0'"),
            ("memory://x?log_capacity=", "log_capacity must be a positive number, not ''"),
            ("memory://x?retention_s=nan", "retention_s must be a positive number, not 'nan'"),
            ("memory://x/y", "'memory://x/y' is not memory://NAME"),
        ],
    )
    def test_a_bad_url_is_refused(self, url: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            from_url(url)

    def test_two_values_of_one_option_are_refused(self) -> None:
        name = uuid4().hex
        from_url(f"memory://{name}?capacity=1")

        with pytest.raises(ConfigurationError, match="already has capacity=1"):
            from_url(f"memory://{name}?capacity=2")

    async def test_a_clock_holds_while_it_is_in_use(self) -> None:
        url = f"memory://{uuid4().hex}"
        first, second = ManualClock(), ManualClock()
        async with from_url(url, clock=first), from_url(url) as transport:
            await transport.emit(*send(1, delay_s=5))
            with pytest.raises(ConfigurationError, match="another clock"):
                await from_url(url, clock=second).__aenter__()
            await first.advance(5)
            assert await receive(transport) == [1]

        async with from_url(url, clock=second) as transport:
            await transport.emit(*send(2, delay_s=5))
            await second.advance(5)
            assert await receive(transport) == [2]


class TestEventLoops:
    def test_one_loop_after_another_may_use_a_name(self) -> None:
        url = f"memory://{uuid4().hex}"

        async def emit() -> None:
            async with from_url(url) as transport:
                await transport.emit(*send(1))

        async def take() -> list[int]:
            async with from_url(url) as transport:
                return await receive(transport)

        asyncio.run(emit())

        assert asyncio.run(take()) == [1]

    def test_two_loops_at_a_time_are_refused(self) -> None:
        url = f"memory://{uuid4().hex}"

        async def enter() -> None:
            async with from_url(url):
                pass

        async def both() -> None:
            async with from_url(url):
                await asyncio.to_thread(asyncio.run, enter())

        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(both())

    def test_a_loop_that_ended_with_an_open_transport_blocks_nobody(self) -> None:
        left_open = MemoryTransport()

        async def leave_open() -> None:
            await left_open.__aenter__()
            await left_open.emit(*send(1))
            consumer = await left_open.consume("queue").__aenter__()
            await consumer.receive(1)

        async def take() -> list[int]:
            async with left_open.share() as transport:
                return await receive(transport)

        asyncio.run(leave_open())

        assert asyncio.run(take()) == [1]


class TestClosing:
    async def test_every_call_of_a_closed_transport_says_so(self) -> None:
        transport = MemoryTransport()
        async with transport, transport.consume("queue") as consumer:
            tail = transport.tail("log")

        for call in (
            transport.emit(*send(1)),
            transport.lag("queue"),
            transport.consume("queue").__aenter__(),
            consumer.receive(1),
            anext(tail),
        ):
            with pytest.raises(TransportClosed):
                await call
        with pytest.raises(TransportClosed):
            transport.tail("log")

    async def test_a_crash_ends_the_calls_that_wait(self) -> None:
        ended: list[str] = []

        async with MemoryTransport(capacity=1) as owner, owner.share() as transport:
            await owner.emit(*send(0))

            async def receive_one() -> None:
                async with transport.consume("empty") as consumer:
                    with pytest.raises(TransportClosed):
                        await consumer.receive(1)
                ended.append("receive")

            async def emit() -> None:
                with pytest.raises(TransportClosed):
                    await transport.emit(*send(1))
                ended.append("emit")

            async def read() -> None:
                with pytest.raises(TransportClosed):
                    await anext(transport.tail("log"))
                ended.append("tail")

            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    for work in (receive_one, emit, read):
                        tasks.start_soon(work)
                    await until_blocked()
                    await transport.crash()

            assert sorted(ended) == ["emit", "receive", "tail"]
            assert await receive(owner) == [0]

    async def test_errors_pass_through_as_they_are(self) -> None:
        with pytest.raises(KeyError):
            async with MemoryTransport():
                raise KeyError

    async def test_a_transport_can_be_opened_again_but_not_twice(self) -> None:
        transport = MemoryTransport()
        async with transport:
            await transport.emit(*send(1))
            with pytest.raises(ConfigurationError, match="already open"):
                await transport.__aenter__()

        async with transport:
            assert await receive(transport) == [1]


class TestDelays:
    async def test_an_earlier_delay_wakes_the_mover(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        await transport.emit(*send(2, delay_s=100))
        await clock.advance(1)
        await transport.emit(*send(1, delay_s=1))

        await clock.advance(1)
        assert await receive(transport) == [1]
        await clock.advance(98)
        assert await receive(transport) == [2]

    async def test_another_handle_moves_when_the_mover_is_gone(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        async with transport.share() as other:
            await transport.emit(*send(1, delay_s=10))
            await clock.advance(1)
            await transport.crash()
            await clock.advance(9)

            assert await receive(other) == [1]

    async def test_a_delay_ends_by_the_system_clock(self) -> None:
        async with MemoryTransport() as transport:
            await transport.emit(*send(2, delay_s=0.02), *send(1, delay_s=0.01))

            assert await receive(transport, limit=1) == [1]
            assert await receive(transport, limit=1) == [2]

    async def test_nothing_is_scheduled_for_what_is_not_delayed(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        await transport.emit(*send(*range(100)))
        await clock.advance(0)

        assert not transport._broker.schedule._heap
        assert not clock._sleepers


class TestJoins:
    @pytest.mark.parametrize(
        ("part", "message"),
        [
            (Part("queue", "join", 2, 2, b"", 60), "index must be in 0..1"),
            (Part("queue", "join", -1, 2, b"", 60), "index must be in 0..1"),
            (Part("queue", "join", 0, 0, b"", 60), "part 0 of 0"),
            (Part("queue", "join", 0, 3, b"", 60), "one of 3, but the first was one of 2"),
            (Part("queue", "join", 0, 2, b"", float("nan")), "time-out of nan"),
        ],
    )
    async def test_a_part_that_does_not_fit_is_refused_with_all_its_step(
        self, transport: MemoryTransport, part: Part, message: str
    ) -> None:
        await transport.emit(Part("queue", "join", 1, 2, b"", 60), *send(0, queue="source"))
        async with transport.consume("source") as consumer:
            (delivery,) = await consumer.receive(1)

            with pytest.raises(ValueError, match=message):
                await transport.emit(*send(1), part)
            with pytest.raises(ValueError, match=message):
                await delivery.settle(*send(1), part)

            assert (await transport.lag("queue")).arrived == 0
            assert await delivery.settle()

    async def test_parts_of_one_step_must_fit_each_other(self, transport: MemoryTransport) -> None:
        parts = (Part("queue", "join", 0, 2, b"", 60), Part("queue", "join", 1, 3, b"", 60))

        with pytest.raises(ValueError, match="one of 3, but the first was one of 2"):
            await transport.emit(*parts)

        assert len(transport._broker.joins) == 0

    async def test_joins_are_forgotten_in_the_end(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        for n in range(100):
            await transport.emit(Part("queue", f"whole-{n}", 0, 1, b"", 60))
            await transport.emit(Part("queue", f"partial-{n}", 0, 2, b"", 60))

        await clock.advance(60)
        assert (await transport.lag("queue")).arrived == 200
        assert len(transport._broker.joins) == 200
        await clock.advance(60)

        assert len(transport._broker.joins) == 0
        assert not transport._broker.schedule._heap

    async def test_a_forgotten_name_can_be_used_again(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        part = Part("queue", "join", 0, 1, b"", 60)
        await transport.emit(part)
        await clock.advance(120)

        await transport.emit(part)

        assert (await transport.lag("queue")).arrived == 2


class TestLogs:
    async def test_a_tail_begins_where_the_log_was_when_it_was_made(
        self, transport: MemoryTransport
    ) -> None:
        await transport.emit(Append("log", b"before"))
        tail = transport.tail("log")
        await transport.emit(Append("log", b"after"))

        assert (await anext(tail)).body == b"after"

    async def test_positions_are_strings_in_order(self, transport: MemoryTransport) -> None:
        tail = transport.tail("log")
        await transport.emit(*(Append("log", b"") for _ in range(12)))

        positions = [(await anext(tail)).position for _ in range(12)]

        assert positions == sorted(positions)
        assert [int(p) - int(positions[0]) for p in positions] == list(range(12))

    async def test_a_cancelled_read_loses_nothing(self, transport: MemoryTransport) -> None:
        tail = transport.tail("log")
        with anyio.move_on_after(0.001):
            await anext(tail)

        await transport.emit(Append("log", b"entry"))

        assert (await anext(tail)).body == b"entry"
        assert not transport._broker.logs["log"]._waiters

    async def test_a_log_keeps_its_last_entries(self, clock: ManualClock) -> None:
        async with MemoryTransport(clock, log_capacity=3) as transport:
            await transport.emit(*(Append("log", b"%d" % n) for n in range(10)))

            tail = transport.tail("log", since_s=60)

            assert [(await anext(tail)).body for _ in range(3)] == [b"7", b"8", b"9"]

    async def test_a_log_keeps_entries_for_so_long(self, clock: ManualClock) -> None:
        async with MemoryTransport(clock, retention_s=60) as transport:
            for n in range(4):
                await transport.emit(Append("log", b"%d" % n))
                await clock.advance(30)

            tail = transport.tail("log", since_s=1000)

            assert [(await anext(tail)).body for _ in range(2)] == [b"2", b"3"]
            assert transport._broker.logs["log"]._size == 2

    async def test_an_open_tail_still_reads_what_is_trimmed(self, clock: ManualClock) -> None:
        async with MemoryTransport(clock, log_capacity=3) as transport:
            tail = transport.tail("log")
            await transport.emit(*(Append("log", b"%d" % n) for n in range(1000)))

            assert [int((await anext(tail)).body) for _ in range(1000)] == list(range(1000))

    async def test_what_a_forgotten_tail_has_not_read_is_freed(self) -> None:
        async with MemoryTransport(log_capacity=1) as transport:
            tail = transport.tail("log")
            await transport.emit(*(Append("log", b"%d" % n) for n in range(200_000)))

            del tail
            gc.collect()

            assert transport._broker.logs["log"]._size == 1

    @pytest.mark.parametrize("position", ["", "x", "-1", "1.5", "²"])
    async def test_what_is_no_position_is_refused(
        self, transport: MemoryTransport, position: str
    ) -> None:
        with pytest.raises(ValueError, match="is not a position of this log"):
            transport.tail("log", after=position)

    async def test_a_position_beyond_the_end_is_refused(self, transport: MemoryTransport) -> None:
        with pytest.raises(ValueError, match="beyond the end of the log"):
            transport.tail("log", after="9" * 20)

    async def test_a_position_of_an_earlier_process_lies_before_all_entries(self) -> None:
        async with MemoryTransport(ManualClock(start=1000)) as earlier:
            tail = earlier.tail("log")
            await earlier.emit(Append("log", b"earlier"))
            entry = await anext(tail)
        async with MemoryTransport(ManualClock(start=1001)) as later:
            await later.emit(Append("log", b"later"))

            tail = later.tail("log", after=entry.position)

            assert (await anext(tail)).body == b"later"


class TestLag:
    async def test_the_oldest_keeps_its_age_when_it_comes_back(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        await transport.emit(*send(0))
        await clock.advance(10)
        await transport.emit(*send(1))
        async with transport.consume("queue") as consumer:
            zero, _one = await consumer.receive(2)
            await clock.advance(5)
            await zero.release()

            assert (await transport.lag("queue")).oldest_s == 15
        assert await receive(transport, limit=1) == [0]
        assert (await transport.lag("queue")).oldest_s == 5

    async def test_a_delayed_message_ages_from_its_time_on(
        self, clock: ManualClock, transport: MemoryTransport
    ) -> None:
        await transport.emit(*send(0, delay_s=10))
        assert (await transport.lag("queue")).arrived == 0

        await clock.advance(13)

        lag = await transport.lag("queue")
        assert (lag.oldest_s, lag.arrived) == (3, 1)

    async def test_asking_leaves_no_trace(self, transport: MemoryTransport) -> None:
        await transport.lag("queue")

        assert not transport._broker.queues
