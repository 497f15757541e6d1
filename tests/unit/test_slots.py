import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw import Batch, actor
from asyafw._actor import Actor
from asyafw.memory import MemoryTransport
from asyafw.telemetry import ActorMetrics
from asyafw.transport import Delivery, Message, Send
from asyafw.worker._slots import Lane, Process


def actor_of(**options: Any) -> Actor[..., Any]:
    async def work(payloads: list[Any]) -> list[Any]:
        return payloads

    return actor(name="work", **options)(work)


class Served:
    """A lane, the queue that it serves, and what it has processed."""

    def __init__(self, transport: MemoryTransport, concurrency: int, process: Process) -> None:
        self.metrics = ActorMetrics("work")
        self.lane = Lane(actor_of(concurrency=concurrency), process, self.metrics)
        self.transport = transport

    async def send(self, *bodies: bytes) -> None:
        await self.transport.emit(*[Send("work", Message(body)) for body in bodies])

    async def becomes(self, condition: Callable[[], Any]) -> None:
        with anyio.fail_after(5):
            while not condition():
                await checkpoint()


@asynccontextmanager
async def served(process: Process, concurrency: int = 3) -> AsyncGenerator[Served, None]:
    async with MemoryTransport() as transport, anyio.create_task_group() as tasks:
        found = Served(transport, concurrency, process)
        await tasks.start(found.lane.serve, transport)
        yield found
        tasks.cancel_scope.cancel()


class Recorder:
    """Settles what it gets, in the order in which it gets it, and remembers who did it."""

    def __init__(self, *, reusable: bool = True) -> None:
        self.bodies: list[bytes] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.gate: anyio.Event | None = None
        self.reusable = reusable

    async def __call__(self, delivery: Delivery, task: "asyncio.Task[Any]") -> bool:
        self.bodies.append(delivery.message.body)
        self.tasks.append(task)
        if self.gate is not None:
            await self.gate.wait()
        await delivery.settle()
        return self.reusable


BODIES = [b"%d" % number for number in range(10)]


async def test_deliveries_are_begun_in_their_order() -> None:
    record = Recorder()

    async with served(record) as run:
        await run.send(*BODIES)
        await run.becomes(lambda: len(record.bodies) == 10)

    assert record.bodies == BODIES


async def test_one_slot_does_for_handlers_that_never_wait() -> None:
    record = Recorder()

    async with served(record) as run:
        await run.send(*BODIES)
        await run.becomes(lambda: len(record.bodies) == 10)

    assert len(set(record.tasks)) == 1


async def test_more_slots_start_when_handlers_wait_but_no_more_than_there_are() -> None:
    record = Recorder()
    record.gate = anyio.Event()

    async with served(record) as run:
        await run.send(*BODIES)
        await anyio.wait_all_tasks_blocked()
        begun, lag = len(record.bodies), await run.transport.lag("work")
        in_hand, in_flight = run.lane.in_hand, run.metrics.in_flight
        record.gate.set()
        await run.becomes(lambda: len(record.bodies) == 10)
        await run.lane.drained()
        after = run.lane.in_hand, run.metrics.in_flight

    assert begun == in_hand == in_flight == 3
    assert (lag.backlog, lag.in_flight) == (7, 3)
    assert len(set(record.tasks)) == 3
    assert after == (0, 0)


async def test_slots_are_used_again() -> None:
    record = Recorder()

    async with served(record) as run:
        for body in BODIES:
            await run.send(body)
            await run.becomes(lambda: len(record.bodies) == int(body) + 1)  # noqa: B023 — awaited

    assert len(set(record.tasks)) == 1


async def test_a_slot_that_can_take_no_other_is_replaced() -> None:
    record = Recorder(reusable=False)

    async with served(record, concurrency=2) as run:
        await run.send(*BODIES)
        await run.becomes(lambda: len(record.bodies) == 10)

    assert record.bodies == BODIES
    assert len(set(record.tasks)) == 10


NAME: ContextVar[str] = ContextVar("NAME", default="nobody")


async def test_a_slot_begins_with_the_variables_of_the_lane() -> None:
    seen: list[str] = []

    async def process(delivery: Delivery, task: "asyncio.Task[Any]") -> bool:
        seen.append(NAME.get())
        NAME.set(delivery.message.body.decode())
        await checkpoint()
        await delivery.settle()
        return False

    token = NAME.set("lane")
    async with served(process) as run:
        NAME.reset(token)
        await run.send(*BODIES)
        await run.becomes(lambda: len(seen) == 10)

    assert seen == ["lane"] * 10


async def test_stopping_hands_back_what_no_slot_has_begun() -> None:
    begun: list[Delivery] = []
    gate = anyio.Event()

    async def process(delivery: Delivery, task: "asyncio.Task[Any]") -> bool:
        begun.append(delivery)
        await run.lane.stop()  # while the other two, received together with it, wait their turn
        gate.set()
        await delivery.settle()
        return True

    async with served(process) as run:
        await run.send(b"0", b"1", b"2")
        await gate.wait()
        await run.lane.drained()
        lag = await run.transport.lag("work")

    assert len(begun) == 1
    assert (lag.backlog, lag.in_flight) == (2, 0)


async def test_a_stopped_lane_finishes_what_is_in_hand_and_receives_nothing() -> None:
    record = Recorder()
    record.gate = anyio.Event()

    async with served(record) as run:
        await run.send(*BODIES)
        await anyio.wait_all_tasks_blocked()
        await run.lane.stop()
        record.gate.set()
        with anyio.fail_after(5):
            await run.lane.drained()
        await anyio.wait_all_tasks_blocked()
        lag = await run.transport.lag("work")

    assert record.bodies == BODIES[:3]
    assert (lag.backlog, lag.in_flight) == (7, 0)


async def test_nothing_in_hand_is_drained() -> None:
    async with served(Recorder()) as run:
        with anyio.fail_after(5):
            await run.lane.drained()


async def test_a_defect_of_the_process_is_raised_and_counts_as_nothing_in_hand() -> None:
    async def process(delivery: Delivery, task: "asyncio.Task[Any]") -> bool:
        raise ZeroDivisionError

    lanes: list[Served] = []
    with pytest.raises(ExceptionGroup) as raised:
        async with served(process) as run:
            lanes.append(run)
            await run.send(b"0")
            await anyio.sleep_forever()

    assert raised.group_contains(ZeroDivisionError)
    assert lanes[0].lane.in_hand == lanes[0].metrics.in_flight == 0


@pytest.mark.parametrize(
    ("options", "busy_s"),
    [
        ({}, inf),
        ({"timeout_s": 60}, 360),
        ({"timeout_s": 60, "batch": Batch(max_size=4)}, 600),
    ],
)
async def test_patience_depends_on_how_long_handlers_may_take(
    options: dict[str, Any], busy_s: float
) -> None:
    lane = Lane(actor_of(concurrency=1, **options), Recorder(), ActorMetrics("work"))

    free_s = lane.patience_s
    lane._free = 0

    assert free_s == 60
    assert lane.patience_s == busy_s
