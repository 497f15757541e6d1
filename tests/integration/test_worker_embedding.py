"""A worker inside another app, which has task groups, timeouts and exceptions of its own."""

import asyncio
from typing import Any, Self

import anyio
import pytest

from asyafw import App, actor
from asyafw.exceptions import ConfigurationError
from asyafw.memory import MemoryTransport
from asyafw.transport import Consumer, Delivery
from tests.integration.running import PATIENCE_S, becomes, running


class Slow:
    """A handler that takes long enough to be running when something else happens."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.finished = 0

    async def __call__(self, number: int) -> int:
        self.begun.set()
        for _ in range(50):
            await anyio.sleep(0.001)
        self.finished += 1
        return number


async def test_a_cancelled_task_group_drains_the_worker_first() -> None:
    slow, service = Slow(), MemoryTransport()
    app = App([actor(name="slow")(slow)])

    async with service.share() as transport, app.connect(service.share()) as client:
        job = await client.submit(["slow"], 1)
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                async with app.worker(service.share()):
                    await anyio.sleep_forever()

            tasks.start_soon(serve)
            await slow.begun.wait()
            tasks.cancel_scope.cancel()
        finished = slow.finished
        result = await job.result(5)
        lag = await transport.lag("slow")

    assert finished == 1
    assert result == 1
    assert (lag.backlog, lag.in_flight) == (0, 0)


async def test_a_cancelled_scope_around_the_worker_drains_it_first() -> None:
    slow, service = Slow(), MemoryTransport()
    app = App([actor(name="slow")(slow)])

    async with app.connect(service.share()) as client:
        job = await client.submit(["slow"], 1)
        with anyio.CancelScope() as scope:
            async with app.worker(service.share()):
                await slow.begun.wait()
                scope.cancel()
                await anyio.sleep_forever()
        result = await job.result(5)

    assert scope.cancelled_caught
    assert (slow.finished, result) == (1, 1)


async def test_asyncios_timeout_around_the_worker_drains_it_first() -> None:
    slow, service = Slow(), MemoryTransport()
    app = App([actor(name="slow")(slow)])

    async with app.connect(service.share()) as client:
        job = await client.submit(["slow"], 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit, app.worker(service.share()):
                await slow.begun.wait()
                limit.reschedule(0)
                await asyncio.Event().wait()
        result = await job.result(5)

    assert (slow.finished, result) == (1, 1)


async def test_a_cancelled_task_of_asyncio_drains_the_worker_first() -> None:
    slow, service = Slow(), MemoryTransport()
    app = App([actor(name="slow")(slow)])

    async def serve() -> None:
        async with app.worker(service.share()):
            await asyncio.Event().wait()

    async with app.connect(service.share()) as client:
        task = asyncio.create_task(serve())
        job = await client.submit(["slow"], 1)
        await slow.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await job.result(5)

    assert (slow.finished, result) == (1, 1)


async def test_an_exception_of_the_body_passes_as_it_is_and_drains_the_worker() -> None:
    slow, service = Slow(), MemoryTransport()
    app = App([actor(name="slow")(slow)])

    async with app.connect(service.share()) as client:
        worker = app.worker(service.share())
        job = await client.submit(["slow"], 1)
        with pytest.raises(ZeroDivisionError):
            async with worker:
                await slow.begun.wait()
                raise ZeroDivisionError
        result = await job.result(5)

    assert (slow.finished, result) == (1, 1)
    assert worker.ready() == "the worker is stopped"


async def test_a_worker_may_be_asked_before_during_and_after() -> None:
    app = App([actor(name="slow")(Slow())])
    worker = app.worker(MemoryTransport())

    before = worker.ready(), worker.healthy()
    async with worker:
        during = worker.ready(), worker.healthy()
    after = worker.ready(), worker.healthy()

    assert before == ("the worker is starting", None)
    assert during == (None, None)
    assert after == ("the worker is stopped", None)


async def test_a_worker_serves_once() -> None:
    worker = App([actor(name="slow")(Slow())]).worker(MemoryTransport())

    async with worker:
        pass
    with pytest.raises(ConfigurationError, match="a worker serves once"):
        async with worker:
            pytest.fail("it has not started")


async def test_a_worker_that_is_cancelled_while_it_starts_leaves_nothing_behind() -> None:
    entered, left = anyio.Event(), anyio.Event()

    class Loading:
        async def __aenter__(self) -> Self:
            entered.set()
            try:
                await anyio.sleep_forever()
            finally:
                left.set()
            return self

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError("it was not entered")

        async def __call__(self, number: int) -> int:
            return number

    app = App([actor(name="loads")(Loading)])

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                async with app.worker(MemoryTransport()):
                    pytest.fail("it has not started")

            tasks.start_soon(serve)
            await entered.wait()
            tasks.cancel_scope.cancel()

    assert left.is_set()


async def test_a_lane_that_crashes_ends_the_worker_and_says_why() -> None:
    class Defective(MemoryTransport):
        def consume(self, queue: str) -> Any:
            return _Defective()

    app = App([actor(name="slow")(Slow())])

    with anyio.fail_after(PATIENCE_S), pytest.raises(ExceptionGroup) as raised:
        async with app.worker(Defective()):
            await anyio.sleep_forever()

    (error,) = raised.value.exceptions
    assert isinstance(error, KeyError)
    assert error.args == ("a defect",)
    assert isinstance(error.__cause__, ValueError)


class _Defective:
    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def receive(self, limit: int) -> list[Delivery]:
        raise KeyError("a defect") from ValueError("somewhere below")


async def test_an_exception_of_an_actors_exit_is_raised() -> None:
    class Leaving:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            raise ConnectionError("nobody to say goodbye to")

        async def __call__(self, number: int) -> int:
            return number

    app = App([actor(name="leaves")(Leaving)])

    with pytest.raises(ExceptionGroup) as raised:
        async with app.worker(MemoryTransport()):
            pass

    assert raised.group_contains(ConnectionError, match="nobody to say goodbye to")


async def test_workers_may_be_nested_and_share_a_loop() -> None:
    @actor
    async def same(number: int) -> int:
        return number

    async with running(same) as first, running(same) as second:
        results = [await first.result(1), await second.result(2)]

    assert results == [1, 2]


async def test_actors_of_one_app_may_be_served_by_several_workers() -> None:
    @actor
    async def first(number: int) -> int:
        return number + 1

    @actor
    async def second(number: int) -> int:
        return number * 10

    app = App([first, second], flows={"both": ["first", "second"]})
    async with (
        app.worker("memory://split", actors=["first"]),
        app.worker("memory://split", actors=["second"]),
        app.connect("memory://split") as client,
    ):
        result = await (await client.submit("both", 1)).result(5)

    assert result == 20


async def test_the_state_says_draining_while_it_drains() -> None:
    slow, service = Slow(), MemoryTransport()
    seen: list[int] = []
    app = App([actor(name="slow")(slow)])

    async with (
        app.connect(service.share()) as client,
        anyio.create_task_group() as tasks,
    ):
        worker = app.worker(service.share())
        async with worker:

            async def watch() -> None:
                await becomes(lambda: worker.ready() == "the worker is draining")
                seen.append(slow.finished)

            tasks.start_soon(watch)
            await client.submit(["slow"], 1)
            await slow.begun.wait()

    assert seen == [0]
