import asyncio
import time
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw.context import Context
from asyafw.events import Event
from asyafw.exceptions import DeadlineExceeded, HandlerTimeout, JobCancelled
from asyafw.telemetry import Metrics
from asyafw.testing import make_context
from asyafw.worker import _watch
from asyafw.worker._watch import Sweep, begin, calm, is_stopping


@pytest.fixture
def sweep() -> Sweep:
    return Sweep(Metrics())


class Run:
    """A handler in a task of its own, which waits until it is interrupted."""

    def __init__(self, **fields: Any) -> None:
        self.ctx = make_context(**fields)
        self.cancellations = 0

    async def __call__(self, sweep: Sweep) -> None:
        self.ctx.task = asyncio.current_task()
        sweep.enter(self.ctx)
        try:
            while not self.cancellations:
                try:
                    await anyio.sleep_forever()
                except asyncio.CancelledError:
                    self.cancellations += 1
        finally:
            sweep.leave(self.ctx)


async def interrupted(sweep: Sweep, *runs: Run) -> None:
    """Sweep until all runs have been interrupted."""
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweep.run)
            async with anyio.create_task_group() as handlers:
                for run in runs:
                    handlers.start_soon(run, sweep)
            tasks.cancel_scope.cancel()


async def test_who_ran_for_too_long_is_cancelled_with_the_reason(sweep: Sweep) -> None:
    run = Run()
    begin(run.ctx, 0.03)

    await interrupted(sweep, run)

    assert isinstance(run.ctx.interrupt, HandlerTimeout)
    assert str(run.ctx.interrupt).startswith("actor ran for 0.0")


async def test_a_deadline_is_told_from_a_timeout(sweep: Sweep) -> None:
    run = Run(deadline_at=time.time() + 0.03)
    begin(run.ctx, 60)

    await interrupted(sweep, run)

    assert isinstance(run.ctx.interrupt, DeadlineExceeded)


async def test_only_the_handlers_of_a_job_are_cancelled_with_it(sweep: Sweep) -> None:
    mine, other = Run(), Run()
    seen: list[BaseException | None] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mine, sweep)
        tasks.start_soon(other, sweep)
        await anyio.wait_all_tasks_blocked()
        sweep.cancel_job(mine.ctx.job)
        await anyio.wait_all_tasks_blocked()
        seen.append(other.ctx.interrupt)
        sweep.interrupt_all(KeyError("the end"))

    assert isinstance(mine.ctx.interrupt, JobCancelled)
    assert mine.ctx.interrupt.job == mine.ctx.job
    assert seen == [None]
    assert isinstance(other.ctx.interrupt, KeyError)


async def test_a_handler_is_interrupted_once(sweep: Sweep) -> None:
    run = Run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, sweep)
        await anyio.wait_all_tasks_blocked()
        sweep.cancel_job(run.ctx.job)
        sweep.interrupt_all(KeyError("the end"))

    assert isinstance(run.ctx.interrupt, JobCancelled)
    assert run.cancellations == 1
    assert run.ctx.expires_at == inf


async def test_who_runs_for_a_while_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_ANNOUNCE_AFTER_S", 0.03)
    told: list[Event] = []
    sweep, run = Sweep(Metrics()), Run(told=told)
    begin(run.ctx, 0.1)

    await interrupted(sweep, run)

    assert [event.kind for event in told] == ["started"]


async def test_who_is_done_soon_is_not_announced(sweep: Sweep) -> None:
    told: list[Event] = []
    run = Run(told=told)
    begin(run.ctx, 0.03)

    await interrupted(sweep, run)

    assert told == []


async def test_a_blocked_loop_is_measured() -> None:
    metrics = Metrics()
    sweep, run = Sweep(metrics), Run()
    begin(run.ctx, 0.03)

    async def block() -> None:
        for _ in range(10):  # turns of the loop, until the sweep sleeps
            await checkpoint()
        time.sleep(0.2)  # noqa: ASYNC251 — the point

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        await interrupted(sweep, run)

    assert metrics.loop_lag.total_s > 0.1


async def test_an_idle_sweep_tells_that_the_loop_runs(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_IDLE_TICK_S", 0)
    sweep.swept_at = before = time.monotonic() - 3600

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sweep.run)
        with anyio.fail_after(5):
            while sweep.swept_at <= before + 3600.01:
                await checkpoint()
        tasks.cancel_scope.cancel()


def test_a_timeout_begins_for_all_contexts_of_a_batch() -> None:
    contexts = [make_context(), make_context(deadline_at=time.time() + 5), make_context()]
    contexts[2].expires_at = 0

    begin(contexts, 60)
    limits_s = [ctx.expires_at - time.monotonic() for ctx in contexts]
    begin(contexts, None)

    assert limits_s == pytest.approx([60, 5, 60], abs=0.5)
    assert [ctx.expires_at == inf for ctx in contexts] == [True, False, True]


async def test_a_task_is_calmed_of_all_that_was_asked_of_it() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    task.cancel()

    await calm(task)
    await checkpoint()

    assert task.cancelling() == 0


async def test_the_end_of_the_worker_is_told_from_a_cancelled_task() -> None:
    seen: list[bool] = []

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            seen.append(is_stopping())
            raise

    task = asyncio.create_task(handler())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handler)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert seen == [False, True]


def test_a_context_without_a_task_is_left_alone() -> None:
    ctx: Context = make_context()

    _watch.interrupt(ctx, KeyError("the end"))

    assert ctx.interrupt is None
