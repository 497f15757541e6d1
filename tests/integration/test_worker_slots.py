import threading
from collections import Counter

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec import Raw

from asyafw import App, Batch, actor
from asyafw.envelope import MSGPACK, Envelope, Route, new_id
from asyafw.transport import Message, Send
from tests.integration.running import becomes, running, submit_all


class Crowd:
    """Counts who is inside, and lets them go when it is told to."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.gate = anyio.Event()

    async def pass_through(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1


async def test_as_many_messages_run_as_the_concurrency_says() -> None:
    crowd = Crowd()

    @actor(concurrency=3)
    async def work(number: int) -> int:
        await crowd.pass_through()
        return number

    async with running(work) as run:
        jobs = await submit_all(run, range(20))
        await becomes(lambda: crowd.inside == 3)
        lag = await run.transport.lag("work")
        crowd.gate.set()
        results = [await job.result(5) for job in jobs]

    assert results == list(range(20))
    assert crowd.most == 3
    assert (lag.in_flight, lag.backlog) == (3, 17)


async def test_as_many_threads_run_as_the_concurrency_says() -> None:
    barrier, lock, inside, most = threading.Barrier(3, timeout=10), threading.Lock(), [0], [0]

    @actor(concurrency=3)
    def work(number: int) -> int:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        barrier.wait()  # only three together get on
        with lock:
            inside[0] -= 1
        return number

    async with running(work) as run:
        results = [await job.result(10) for job in await submit_all(run, range(30))]

    assert results == list(range(30))
    assert most == [3]


async def test_as_many_batches_run_as_the_concurrency_says() -> None:
    crowd = Crowd()
    sizes: list[int] = []

    @actor(concurrency=2, batch=Batch(max_size=4, max_wait_s=10))
    async def work(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        await crowd.pass_through()
        return numbers

    async with running(work) as run:
        jobs = await submit_all(run, range(24))
        await becomes(lambda: crowd.inside == 2)
        lag = await run.transport.lag("work")
        crowd.gate.set()
        results = [await job.result(5) for job in jobs]

    assert results == list(range(24))
    assert crowd.most == 2
    assert set(sizes) == {4}
    assert (lag.in_flight, lag.backlog) == (8, 16)


async def test_a_slot_that_is_free_is_filled_although_others_are_busy() -> None:
    crowd = Crowd()

    @actor(concurrency=2)
    async def work(number: int) -> int:
        if number < 0:
            await crowd.pass_through()
        return number

    async with running(work) as run:
        slow = await run.submit(-1)
        await becomes(lambda: crowd.inside)
        results = [await job.result(5) for job in await submit_all(run, range(10))]
        crowd.gate.set()
        await slow.result(5)

    assert results == list(range(10))


async def test_no_more_is_received_than_there_are_slots_for() -> None:
    most = [0]

    @actor(concurrency=4)
    async def work(number: int) -> int:
        await checkpoint()
        return number

    async with running(work) as run:
        jobs = await submit_all(run, range(200))

        async def observe() -> None:
            while True:
                most[0] = max(most[0], (await run.transport.lag("work")).in_flight)
                assert run.worker.metrics.actor("work").in_flight <= 4
                await checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(observe)
            for job in jobs:
                await job.result(5)
            tasks.cancel_scope.cancel()

    assert 0 < most[0] <= 4


@pytest.mark.parametrize("waits", [True, False])
async def test_a_flooded_actor_does_not_starve_another(*, waits: bool) -> None:
    order: list[str] = []

    @actor(concurrency=4)
    async def flooded(number: int) -> int:
        order.append("flooded")
        if waits:
            await checkpoint()
        return number

    @actor(concurrency=4)
    async def quiet(number: int) -> int:
        order.append("quiet")
        if waits:
            await checkpoint()
        return number

    async with running(flooded, quiet) as run:
        await run.transport.emit(*_sends("flooded", 5_000))
        await becomes(lambda: len(order) > 100)
        order.clear()
        await run.transport.emit(*_sends("quiet", 100))
        await becomes(lambda: order.count("quiet") == 100)
        ratio = Counter(order)["flooded"] / 100

    assert 0.2 < ratio < 5


async def test_two_workers_of_one_name_share_the_work() -> None:
    handled: Counter[str] = Counter()

    @actor(concurrency=1)
    async def work(number: int) -> int:
        await checkpoint()
        return number

    app = App([work])
    async with (
        app.worker("memory://shared") as first,
        app.worker("memory://shared") as second,
        app.connect("memory://shared") as client,
    ):
        jobs = [await client.submit(["work"], number) for number in range(50)]
        results = [await job.result(5) for job in jobs]
        handled["first"] = first.metrics.actor("work").outcomes["finished"]
        handled["second"] = second.metrics.actor("work").outcomes["finished"]

    assert results == list(range(50))
    assert sum(handled.values()) == 50
    assert min(handled.values()) > 10


async def test_a_worker_serves_only_the_actors_that_it_is_told_to() -> None:
    @actor
    async def here(number: int) -> int:
        return number

    @actor
    async def elsewhere(number: int) -> int:
        return number

    async with running(here, elsewhere, options={"actors": ["here"]}) as run:
        await run.submit(1)
        await becomes(lambda: run.outcomes("here"))
        lag = await run.transport.lag("elsewhere")

    assert lag.backlog == 1
    assert list(run.worker.actors) == ["here"]


def _sends(queue: str, count: int) -> list[Send]:
    sends: list[Send] = []
    for number in range(count):
        envelope = Envelope(
            id=new_id(), job=new_id(), route=Route(queue), payload=Raw(MSGPACK.encode(number))
        )
        sends.append(Send(queue, Message(MSGPACK.encode(envelope))))
    return sends
