import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw import App, Batch, Job, RetryPolicy, actor
from asyafw._actor import Actor
from asyafw.events import Event
from asyafw.exceptions import TransportClosed
from asyafw.memory import MemoryTransport
from tests.integration.running import PATIENCE_S, becomes


class Handler:
    """Waits to be let go, and tells when it runs."""

    def __init__(self) -> None:
        self.running = 0
        self.finished: list[int] = []
        self.attempts: list[int] = []
        self.gate = anyio.Event()

    async def __call__(self, number: int, ctx: Any) -> int:
        self.running += 1
        self.attempts.append(ctx.attempt)
        try:
            await self.gate.wait()
            self.finished.append(number)
        finally:
            self.running -= 1
        return number


async def first(events: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    """Give so many events of a job that has not ended."""
    with anyio.fail_after(PATIENCE_S):
        async for event in events:
            yield event
            count -= 1
            if not count:
                return


def app_of(handler: Handler, **options: Any) -> App:
    work: Actor[..., Any] = actor(name="work", **options)(handler)
    return App([work])


async def test_stopping_finishes_what_runs() -> None:
    handler, service = Handler(), MemoryTransport()
    app = app_of(handler, concurrency=2)
    jobs: list[Job] = []

    async with service.share() as transport, app.connect(service.share()) as client:
        async with anyio.create_task_group() as tasks, app.worker(service.share()) as worker:
            jobs += [await client.submit(["work"], number) for number in range(5)]
            await becomes(lambda: handler.running == 2)

            async def let_go_while_draining() -> None:
                await becomes(lambda: worker.ready() == "the worker is draining")
                handler.gate.set()

            tasks.start_soon(let_go_while_draining)
        state = worker.ready()
        results = [await job.result(5) for job in jobs[:2]]
        lag = await transport.lag("work")

    assert results == [0, 1]
    assert handler.finished == [0, 1]
    assert state == "the worker is stopped"
    assert (lag.backlog, lag.in_flight) == (3, 0)


async def test_what_does_not_finish_in_time_is_handed_back_and_another_worker_does_it() -> None:
    handler, service = Handler(), MemoryTransport()
    app = app_of(handler, concurrency=2)

    async with service.share() as transport, app.connect(service.share()) as client:
        async with app.worker(service.share(), drain_timeout_s=0.05) as worker:
            jobs = [await client.submit(["work"], number) for number in range(3)]
            await becomes(lambda: handler.running == 2)
        lag = await transport.lag("work")
        handler.gate.set()
        async with app.worker(service.share()):
            results = [await job.result(5) for job in jobs]

    assert (lag.backlog, lag.in_flight) == (3, 0)
    assert worker.metrics.actor("work").in_flight == 0
    assert not any(worker.metrics.actor("work").outcomes.values())
    assert results == [0, 1, 2]
    assert handler.attempts == [1] * 5, "a worker that stops is no failure"


async def test_a_handler_that_ignores_its_cancellation_is_waited_for_a_little() -> None:
    service = MemoryTransport()
    begun = anyio.Event()

    @actor
    async def stubborn(number: int) -> int:
        begun.set()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            for _ in range(100):
                await checkpoint()
        return number

    app = App([stubborn])
    async with service.share() as transport, app.connect(service.share()) as client:
        async with app.worker(service.share(), drain_timeout_s=0.01):
            await client.submit(["stubborn"], 1)
            await begun.wait()
        lag = await transport.lag("stubborn")

    assert (lag.backlog, lag.in_flight) == (1, 0)


async def test_a_thread_that_goes_on_does_not_keep_the_worker() -> None:
    service = MemoryTransport()
    begun, end = threading.Event(), threading.Event()

    @actor
    def stuck(number: int) -> int:
        begun.set()
        end.wait(30)
        return number

    app = App([stuck])
    async with service.share() as transport, app.connect(service.share()) as client:
        with anyio.fail_after(PATIENCE_S):
            async with app.worker(service.share(), drain_timeout_s=0.01):
                job = await client.submit(["stuck"], 1)
                await becomes(begun.is_set)
            lag = await transport.lag("stuck")
        end.set()
        async with app.worker(service.share()):
            result = await job.result(5)

    assert (lag.backlog, lag.in_flight) == (1, 0)
    assert result == 1


async def test_the_items_of_a_batch_that_does_not_finish_are_handed_back() -> None:
    service = MemoryTransport()
    running, gate = anyio.Event(), anyio.Event()

    @actor(batch=Batch(max_size=3, max_wait_s=0.01), concurrency=1)
    async def work(numbers: list[int]) -> list[int]:
        running.set()
        await gate.wait()
        return numbers

    app = App([work])
    async with service.share() as transport, app.connect(service.share()) as client:
        async with app.worker(service.share(), drain_timeout_s=0.05):
            jobs = [await client.submit(["work"], number) for number in range(5)]
            await running.wait()
        lag = await transport.lag("work")
        gate.set()
        async with app.worker(service.share()):
            results = [await job.result(5) for job in jobs]

    assert (lag.backlog, lag.in_flight) == (5, 0)
    assert results == [0, 1, 2, 3, 4]


async def test_a_message_that_waits_to_be_retried_waits_for_the_next_worker() -> None:
    service = MemoryTransport()
    attempts: list[int] = []

    @actor(retry=RetryPolicy(backoff=lambda _: 0.05, jitter=0))
    async def flaky(number: int, ctx: Any) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return number

    app = App([flaky])
    async with app.connect(service.share()) as client:
        async with app.worker(service.share()):
            job = await client.submit(["flaky"], 1)
            await becomes(lambda: attempts)
        async with app.worker(service.share()):
            result = await job.result(5)

    assert result == 1
    assert attempts == [1, 2]


async def test_progress_that_was_not_sent_yet_is_sent_in_the_end() -> None:
    service = MemoryTransport()

    @actor
    async def work(number: int, ctx: Any) -> int:
        await ctx.progress(0.5)
        raise asyncio.CancelledError

    app = App([work])
    async with app.connect(service.share()) as client:
        async with app.worker(service.share()) as worker:
            job = await client.submit(["work"], 1)
            await becomes(lambda: worker.metrics.actor("work").outcomes["retried"])
        kinds = [event.kind async for event in first(job.events(), 3)]

    assert kinds == ["accepted", "retried", "progress"]


async def test_draining_is_told_where_something_is_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler, service = Handler(), MemoryTransport()
    app = app_of(handler)

    with caplog.at_level(logging.WARNING):
        async with (
            app.connect(service.share()) as client,
            app.worker(service.share(), drain_timeout_s=0.01),
        ):
            await client.submit(["work"], 1)
            await becomes(lambda: handler.running)

    assert "the worker stops and gives 1 messages back" in caplog.text


async def test_a_crash_of_its_transport_ends_a_worker_at_once() -> None:
    handler, service = Handler(), MemoryTransport()
    app = app_of(handler)
    own = service.share()

    with anyio.fail_after(PATIENCE_S):
        async with service.share() as transport, app.connect(service.share()) as client:
            worker = app.worker(own)
            with pytest.raises(ExceptionGroup) as raised:
                async with worker:
                    await client.submit(["work"], 1)
                    await becomes(lambda: handler.running)
                    await own.crash()
                    await anyio.sleep_forever()
            lag = await transport.lag("work")

    assert raised.group_contains(TransportClosed)
    assert (lag.backlog, lag.in_flight) == (1, 0)
    assert handler.running == 0
    assert worker.metrics.actor("work").in_flight == 0
    assert worker.ready() == "the worker is stopped"
