"""Jobs from their first event to their last: cancelled, late, told and counted."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from asyafw import App, Batch, Context, JobCancelled, Reject, Retry, RetryPolicy, actor
from asyafw.memory import MemoryTransport
from asyafw.transport import Message, Send
from asyafw.worker import _watch, _worker
from tests.integration.running import becomes, events, kinds, running, submit_all

ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(backoff=lambda _: 0)


@actor
async def same(number: int) -> int:
    return number


class Patient:
    """A handler that waits for ever, and tells how it ended."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended = anyio.Event()

    async def __call__(self, number: int) -> int:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.ended.set()
        return number


async def test_a_running_handler_of_a_cancelled_job_is_cancelled() -> None:
    patient = Patient()

    async with running(actor(name="waits")(patient)) as run:
        job = await run.submit(1)
        await patient.begun.wait()
        await job.cancel()
        told = await kinds(job)
        outcomes = run.outcomes("waits")
        with pytest.raises(JobCancelled):
            await job.result(5)

    assert told == ["accepted", "cancelled"]
    assert patient.ended.is_set()
    assert outcomes == {"cancelled": 1}


async def test_only_the_cancelled_job_is() -> None:
    gate = anyio.Event()

    @actor
    async def waits(number: int) -> int:
        await gate.wait()
        return number

    async with running(waits) as run:
        first, second = await submit_all(run, [1, 2])
        await becomes(lambda: run.worker.metrics.actor("waits").in_flight == 2)
        await first.cancel()
        told = await kinds(first)
        gate.set()
        result = await second.result(5)

    assert told[-1] == "cancelled"
    assert result == 2


async def test_a_waiting_message_of_a_cancelled_job_is_dropped_when_its_turn_comes() -> None:
    gate = anyio.Event()
    ran: list[int] = []

    @actor(concurrency=1)
    async def work(number: int) -> int:
        ran.append(number)
        await gate.wait()
        return number

    async with running(work) as run:
        first, second = await submit_all(run, [1, 2])
        await becomes(lambda: ran)
        await second.cancel()
        await becomes(lambda: second.id in run.worker._cancellations.jobs)
        gate.set()
        told = await kinds(second)
        result = await first.result(5)

    assert told == ["accepted", "cancelled"]
    assert result == 1
    assert ran == [1]


async def test_a_job_cancelled_before_any_worker_starts_never_runs() -> None:
    service = MemoryTransport()
    ran: list[int] = []

    @actor
    async def work(number: int) -> int:
        ran.append(number)
        return number

    app = App([work])
    async with app.connect(service.share()) as client:
        cancelled = await client.submit(["work"], 1)
        kept = await client.submit(["work"], 2)
        await cancelled.cancel()
        async with app.worker(service.share()):
            told = await kinds(cancelled)
            result = await kept.result(5)

    assert told == ["accepted", "cancelled"]
    assert result == 2
    assert ran == [2]


async def test_a_job_that_waits_to_be_retried_can_be_cancelled() -> None:
    @actor(retry=RetryPolicy(backoff=lambda _: 0.05, jitter=0))
    async def fails(_: int) -> None:
        raise ValueError("bad")

    async with running(fails) as run:
        job = await run.submit(1)
        await becomes(lambda: run.outcomes("fails"))
        await job.cancel()
        told = await kinds(job)

    assert told == ["accepted", "retried", "cancelled"]


async def test_children_of_a_cancelled_job_are_dropped() -> None:
    gate = anyio.Event()
    ran: list[int] = []

    @actor
    async def fork(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @actor(concurrency=2)
    async def child(number: int) -> int:
        ran.append(number)
        await gate.wait()
        return number

    async with running(fork, child) as run:
        job = await run.submit(10)
        await becomes(lambda: len(ran) == 2)
        await job.cancel()
        told = await kinds(job)
        outcomes = run.outcomes("child")

    assert told[-1] == "cancelled"
    assert sorted(ran) == [0, 1]
    assert outcomes == {"cancelled": 10}


async def test_one_job_of_a_batch_can_be_cancelled() -> None:
    gate, begun = anyio.Event(), anyio.Event()

    @actor(batch=Batch(max_size=2, max_wait_s=5))
    async def work(numbers: list[int]) -> list[int]:
        begun.set()
        await gate.wait()
        return numbers

    async with running(work) as run:
        first, second = await submit_all(run, [1, 2])
        await begun.wait()
        await first.cancel()
        told = await kinds(first)
        gate.set()
        result = await second.result(5)

    assert told[-1] == "cancelled"
    assert result == 2


async def test_a_batch_of_which_all_jobs_are_cancelled_is_cancelled() -> None:
    patient = Patient()

    @actor(batch=Batch(max_size=2, max_wait_s=5))
    async def work(numbers: list[int]) -> list[int]:
        await patient(0)
        return numbers

    async with running(work) as run:
        jobs = await submit_all(run, [1, 2])
        await patient.begun.wait()
        for job in jobs:
            await job.cancel()
        told = [(await kinds(job))[-1] for job in jobs]
        await patient.ended.wait()

    assert told == ["cancelled", "cancelled"]


async def test_a_batch_that_takes_too_long_is_cancelled_and_each_item_is_late() -> None:
    patient = Patient()

    @actor(batch=Batch(max_size=2, max_wait_s=5), timeout_s=0.05, retry=ONCE)
    async def work(numbers: list[int]) -> list[int]:
        await patient(0)
        return numbers

    async with running(work) as run:
        jobs = await submit_all(run, [1, 2])
        errors = [(await events(job))[-1].error.type for job in jobs]
        await patient.ended.wait()

    assert errors == ["HandlerTimeout", "HandlerTimeout"]


async def test_a_job_whose_deadline_has_passed_is_not_handled() -> None:
    service = MemoryTransport()
    ran: list[int] = []

    @actor(retry=AT_ONCE, on_exhausted=["same"])
    async def work(number: int) -> int:
        ran.append(number)
        return number

    app = App([work, same])
    async with service.share(), app.connect(service.share()) as client:
        job = await client.submit(["work"], 1, deadline_s=0.01)
        submitted_at = time.time()
        await becomes(lambda: time.time() > submitted_at + 0.01)
        async with app.worker(service.share()):
            end = (await events(job))[-1]

    assert end.kind == "failed"
    assert end.error.type == "DeadlineExceeded"
    assert end.error.message.startswith("the job's deadline passed 0.0")
    assert not ran


async def test_a_deadline_interrupts_a_handler() -> None:
    patient = Patient()

    async with running(actor(name="waits", timeout_s=60)(patient)) as run:
        end = await run.end(1, deadline_s=0.05)

    assert end.error.type == "DeadlineExceeded"
    assert end.error.message == "the job's deadline passed while waits was running"
    assert patient.ended.is_set()


async def test_a_retry_that_would_come_too_late_does_not_wait() -> None:
    @actor(retry=RetryPolicy(backoff=lambda _: 60))
    async def fails(_: int) -> None:
        raise ValueError("bad")

    async with running(fails) as run:
        end = await run.end(1, deadline_s=10)

    assert end.error.type == "ValueError"
    assert end.error.attempts == 1


async def test_a_handler_that_runs_for_a_while_is_told_to_have_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_watch, "_ANNOUNCE_AFTER_S", 0.05)
    gate = anyio.Event()

    @actor
    async def slow(number: int) -> int:
        await gate.wait()
        return number

    async with running(slow) as run:
        job = await run.submit(1)
        async for event in job.events():
            if event.kind == "started":
                gate.set()
        told = await events(job)

    assert [event.kind for event in told] == ["accepted", "started", "succeeded"]
    assert told[1].actor == "slow"
    assert told[1].started_at == told[2].started_at


async def test_progress_is_told_while_the_handler_runs() -> None:
    gate = anyio.Event()

    @actor
    async def slow(number: int, ctx: Context) -> int:
        await ctx.progress(0.25, "denoising")
        await gate.wait()
        return number

    async with running(slow) as run:
        job = await run.submit(1)
        async for event in job.events():
            if event.kind == "progress":
                gate.set()
        (progress,) = [event for event in await events(job) if event.kind == "progress"]

    assert (progress.fraction, progress.message) == (0.25, "denoising")


async def test_events_tell_the_whole_story() -> None:
    @actor(retry=AT_ONCE)
    async def flaky(number: int, ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return number

    async with running(flaky, same) as run:
        job = await run.submit(1)
        told = await events(job)

    assert [(e.kind, e.actor, e.hop, e.attempt) for e in told] == [
        ("accepted", None, 0, 1),
        ("retried", "flaky", 0, 1),
        ("hop", "flaky", 0, 2),
        ("succeeded", "same", 1, 1),
    ]
    assert told[1].error.type == "ValueError"
    assert told[2].next == ("same",)
    times = [time for e in told[1:] for time in (e.enqueued_at, e.started_at, e.at)]
    assert times == sorted(times)


async def test_hops_that_go_well_need_not_be_told() -> None:
    async with running(same, actor(name="last")(same.handler), events="jobs") as run:
        told = await kinds(await run.submit(1))

    assert told == ["accepted", "succeeded"]


@actor(retry=AT_ONCE)
async def every(what: str, ctx: Context) -> str:
    match what:
        case "reject":
            raise Reject("not ours")
        case "fail":
            raise ValueError("bad")
        case "wait" if ctx.attempt == 1 and not ctx.headers.get("waited"):
            WAITED.append(ctx.id)
            if len(WAITED) == 1:
                raise Retry("rate limit", after_s=0, counted=False)
        case _:
            pass
    return what


WAITED: list[str] = []


async def test_every_outcome_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    WAITED.clear()

    @actor
    async def fork(what: str) -> AsyncIterator[str]:
        yield what

    @actor(on_exhausted=["every"], retry=ONCE)
    async def recovers(_: str) -> None:
        raise ValueError("bad")

    with caplog.at_level(logging.INFO, "asyafw.messages"):
        async with running(every, fork, recovers, flows={"main": ["every"]}) as run:
            for what in ("reject", "fail", "wait", "fine"):
                await run.end(what, "every")
            await run.end("fine", "fork", "every")
            await run.end("fine", "recovers")
            await (await run.client.submit("main", "fine")).result(5)
            await run.transport.emit(Send("every", Message(b"\xff")))
            await run.letters(3)
            await becomes(lambda: run.outcomes("every").get("undecodable"))
            outcomes = [run.outcomes(name) for name in ("every", "fork", "recovers")]
            text = run.worker.metrics.text().decode()
            actor_metrics = run.worker.metrics.actor("every")

    assert outcomes == [
        {"failed": 2, "finished": 5, "postponed": 1, "retried": 2, "undecodable": 1},
        {"fanned_out": 1, "finished": 1},
        {"recovered": 1},
    ]
    assert 'asyafw_messages_total{actor="every",outcome="retried"} 2.0' in text
    assert 'asyafw_job_seconds_count{flow="main"} 1.0' in text
    assert 'asyafw_in_flight{actor="every"} 0.0' in text
    assert sum(actor_metrics.handler.counts) == 10
    assert sum(actor_metrics.settle.counts) == 11
    assert sum(actor_metrics.wait.counts) == 10
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "asyafw.messages"]
    assert lines == [
        ("INFO", "every rejected a message: Reject: not ours"),
        ("WARNING", "every runs a message again in 0 s: ValueError: bad"),
        ("WARNING", "every runs a message again in 0 s: ValueError: bad"),
        ("ERROR", "every failed for good: ValueError: bad"),
        ("INFO", "every runs a message again in 0 s: Retry: rate limit"),
        ("ERROR", "recovers failed for good: ValueError: bad"),
    ]


async def test_success_is_logged_for_who_debugs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "asyafw.messages"):
        async with running(same) as run:
            job = await run.submit(1)
            await job.result(5)

    (record,) = [r for r in caplog.records if r.name == "asyafw.messages"]
    assert record.getMessage() == "same has handled a message"
    assert record.__dict__["job"] == job.id


async def test_cancelled_jobs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    patient = Patient()

    with caplog.at_level(logging.INFO, "asyafw.messages"):
        async with running(actor(name="waits")(patient)) as run:
            job = await run.submit(1)
            await patient.begun.wait()
            await job.cancel()
            await kinds(job)

    assert "waits dropped a message of a cancelled job" in caplog.text


async def test_lag_is_measured_and_stalling_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "_MEASURE_EVERY_S", 0.001)
    gate = anyio.Event()

    @actor(concurrency=1)
    async def work(number: int) -> int:
        await gate.wait()
        return number

    async with running(work) as run:
        jobs = await submit_all(run, [1, 2, 3])
        metrics, lane = run.worker.metrics.actor("work"), run.worker._lanes[0]
        await becomes(lambda: metrics.lag is not None and metrics.lag.backlog == 2)
        busy = run.worker.healthy()
        lane.progressed_at -= 3600
        long_busy = run.worker.healthy()
        monkeypatch.setattr(lane, "_free", 1)
        stalled = run.worker.healthy()
        monkeypatch.undo()
        gate.set()
        for job in jobs:
            await job.result(5)

    assert busy is None
    assert long_busy is None, "a handler without a timeout may take an hour"
    assert stalled == "work has 2 messages, none came in 3600 s"


async def test_slots_that_are_full_for_longer_than_any_timeout_are_unhealthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_worker, "_MEASURE_EVERY_S", 0.001)
    end = anyio.Event()

    @actor(concurrency=1, timeout_s=60)
    async def stubborn(number: int) -> int:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return number

    async with running(stubborn) as run:
        jobs = await submit_all(run, [1, 2])
        metrics, lane = run.worker.metrics.actor("stubborn"), run.worker._lanes[0]
        await becomes(lambda: metrics.lag is not None and metrics.lag.backlog == 1)
        before = run.worker.healthy()
        lane.progressed_at -= 3600
        after = run.worker.healthy()
        end.set()
        for job in jobs:
            await job.result(5)

    assert before is None
    assert after == "stubborn has 1 messages, none came in 3600 s"


async def test_a_worker_with_nothing_to_do_stays_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_IDLE_TICK_S", 0.001)

    async with running(same) as run:
        run.worker._sweep.swept_at -= 3600
        blocked = run.worker.healthy()
        await becomes(lambda: run.worker.healthy() is None)

    assert blocked == "the event loop has been blocked for 3600 s"


async def test_a_custom_metrics_object_is_filled() -> None:
    from asyafw.telemetry import Metrics

    metrics = Metrics()
    options: Any = {"metrics": metrics}

    async with running(same, options=options) as run:
        await run.result(1)

    assert metrics.actor("same").outcomes["finished"] == 1
