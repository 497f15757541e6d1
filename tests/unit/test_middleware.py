import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from asyafw import App, JobFailed, actor
from asyafw.context import Context
from asyafw.exceptions import (
    DeadlineExceeded,
    HandlerCancelled,
    HandlerExited,
    JobCancelled,
    Reject,
    RetriesExhausted,
    Retry,
)
from asyafw.middleware import Handler, Middleware, compose, expires_at, retry, timeout
from asyafw.retry import RetryPolicy, fixed
from asyafw.testing import ManualClock, make_context, running


async def echo(payload: Any, ctx: Context) -> Any:
    del ctx
    return payload


def raising(error: BaseException) -> Handler:
    async def handler(payload: Any, ctx: Context) -> Any:
        del payload, ctx
        raise error

    return handler


async def raised_by(handler: Handler, ctx: Context | None = None) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 — the test looks at it
        await handler("payload", ctx or make_context())
    return raised.value


class TestCompose:
    @given(st.lists(st.integers(), max_size=6))
    def test_the_first_is_outermost(self, layers: list[int]) -> None:
        calls: list[int] = []

        def calling(layer: int) -> Middleware:
            async def middleware(payload: Any, ctx: Context, call_next: Handler) -> Any:
                calls.append(layer)
                result = await call_next(payload, ctx)
                calls.append(layer)
                return result

            return middleware

        result = asyncio.run(call(compose(map(calling, layers), echo)))

        assert result == "payload"
        assert calls == layers + layers[::-1]

    def test_without_middleware_there_is_nothing_but_the_handler(self) -> None:
        assert compose([], echo) is echo

    async def test_a_middleware_may_change_what_goes_in_and_what_comes_out(self) -> None:
        async def louder(payload: str, ctx: Context, call_next: Handler) -> Any:
            return await call_next(payload.upper(), ctx) + "!"

        assert await call(compose([louder], echo)) == "PAYLOAD!"

    async def test_a_middleware_may_answer_in_place_of_the_handler(self) -> None:
        async def cached(payload: Any, ctx: Context, call_next: Handler) -> Any:
            del payload, ctx, call_next
            return "from the cache"

        assert await call(compose([cached], raising(KeyError()))) == "from the cache"

    async def test_a_middleware_may_mend_what_the_handler_raises(self) -> None:
        async def forgiving(payload: Any, ctx: Context, call_next: Handler) -> Any:
            try:
                return await call_next(payload, ctx)
            except KeyError:
                return "nothing"

        assert await call(compose([forgiving], raising(KeyError()))) == "nothing"


async def call(handler: Handler) -> Any:
    return await handler("payload", make_context())


class TestRetry:
    async def test_a_result_passes(self) -> None:
        assert await call(compose([retry(RetryPolicy())], echo)) == "payload"

    async def test_a_forgiven_failure_becomes_a_retry_after_the_policys_delay(self) -> None:
        failure = OSError("no route to host")
        policy = RetryPolicy(backoff=lambda attempt: 7.0 * attempt, jitter=0)

        error = await retried(policy, failure, make_context(attempt=2))

        assert (str(error), error.after_s, error.counted) == ("no route to host", 14, True)
        assert error.__cause__ is failure

    @given(st.floats(0, 1), st.floats(0, 1000), st.floats(0, 1000))
    def test_jitter_only_shortens_delays(
        self, jitter: float, longest_s: float, backoff_s: float
    ) -> None:
        policy = RetryPolicy(backoff=fixed(backoff_s), max_delay_s=longest_s, jitter=jitter)
        full_s = min(longest_s, backoff_s)

        for failure in (OSError(), Retry(), Retry(counted=False)):
            delay_s = asyncio.run(retried(policy, failure)).after_s

            assert delay_s is not None
            assert full_s * (1 - jitter) <= delay_s <= full_s

    @pytest.mark.parametrize("failure", [Reject("no face"), KeyError(1), DeadlineExceeded()])
    async def test_a_failure_that_is_not_forgiven_passes_as_it_is(self, failure: Exception) -> None:
        policy = RetryPolicy(give_up_on=(KeyError,))

        assert await raised_by(compose([retry(policy)], raising(failure))) is failure

    async def test_the_failure_of_the_last_attempt_passes_as_it_is(self) -> None:
        failure = OSError("no route to host")
        handler = compose([retry(RetryPolicy(max_attempts=3))], raising(failure))

        assert await raised_by(handler, make_context(attempt=3)) is failure

    async def test_a_cancelled_job_is_not_retried_whatever_the_policy_says(self) -> None:
        policy = RetryPolicy(retry_on=("JobCancelled",))
        failure = JobCancelled("j1")

        assert await raised_by(compose([retry(policy)], raising(failure))) is failure

    async def test_what_is_no_exception_passes(self) -> None:
        failure = KeyboardInterrupt()

        assert await raised_by(compose([retry(RetryPolicy())], raising(failure))) is failure

    async def test_a_handler_may_say_when_to_run_it_again(self) -> None:
        error = await retried(RetryPolicy(max_delay_s=5), Retry("busy", after_s=60))

        assert (str(error), error.after_s, error.counted) == ("busy", 60, True)

    async def test_a_retry_too_many_tells_so_and_why(self) -> None:
        failure = Retry("busy", after_s=60)
        handler = compose([retry(RetryPolicy(max_attempts=2))], raising(failure))

        error = await raised_by(handler, make_context(attempt=2))

        assert isinstance(error, RetriesExhausted)
        assert str(error) == "asked to be run again: busy"
        assert error.__cause__ is failure

    @pytest.mark.parametrize(("after_s", "delay_s"), [(60.0, 60.0), (0.0, 0.0), (None, 5.0)])
    async def test_a_retry_that_does_not_count_may_come_at_any_attempt(
        self, after_s: float | None, delay_s: float
    ) -> None:
        policy = RetryPolicy(max_attempts=1, backoff=fixed(9), max_delay_s=5, jitter=0)
        failure = Retry("busy", after_s=after_s, counted=False)

        error = await retried(policy, failure, make_context(attempt=4))

        assert (str(error), error.after_s, error.counted) == ("busy", delay_s, False)
        assert error.__cause__ is failure

    async def test_no_retry_begins_behind_the_deadline(self) -> None:
        policy = RetryPolicy(backoff=fixed(60), jitter=0)
        failure = OSError("no route to host")
        handler = compose([retry(policy)], raising(failure))

        early = await raised_by(handler, make_context(deadline_at=time.time() + 90))
        late = await raised_by(handler, make_context(deadline_at=time.time() + 30))

        assert isinstance(early, Retry)
        assert late is failure


async def retried(policy: RetryPolicy, failure: Exception, ctx: Context | None = None) -> Retry:
    error = await raised_by(compose([retry(policy)], raising(failure)), ctx)
    assert isinstance(error, Retry), error
    return error


class Interrupter:
    """A watch that gives a reason to interrupt whatever is running."""

    def __init__(self) -> None:
        self.running: list[Context] = []

    def enter(self, ctx: Context) -> None:
        self.running.append(ctx)

    def leave(self, ctx: Context) -> None:
        self.running.remove(ctx)

    def interrupt(self, reason: BaseException) -> None:
        for ctx in self.running:
            assert ctx.task is not None
            ctx.interrupt = reason
            ctx.task.cancel()


@pytest.fixture
def watch() -> Interrupter:
    return Interrupter()


class Stopped(BaseException):
    """Passes by every `except Exception`, as what stops a worker does."""


async def forever(payload: Any, ctx: Context) -> Any:
    del payload, ctx
    await anyio.sleep_forever()


async def swallowing(payload: Any, ctx: Context) -> Any:
    del ctx
    try:
        await anyio.sleep_forever()
    except asyncio.CancelledError:
        return payload


async def failing_on_the_way_out(payload: Any, ctx: Context) -> Any:
    try:
        await forever(payload, ctx)
    finally:
        raise OSError("cannot close")


async def exiting_on_the_way_out(payload: Any, ctx: Context) -> Any:
    try:
        await forever(payload, ctx)
    finally:
        raise SystemExit(3)


async def cancelling_itself_on_the_way_out(payload: Any, ctx: Context) -> Any:
    assert ctx.task is not None
    try:
        await forever(payload, ctx)
    finally:
        ctx.task.cancel()


class TestTimeout:
    async def test_a_handler_is_watched_while_it_runs(self, watch: Interrupter) -> None:
        ctx = make_context()

        async def handler(payload: Any, ctx: Context) -> Any:
            assert watch.running == [ctx]
            return payload

        result = await compose([timeout(watch, None)], handler)("payload", ctx)

        assert result == "payload"
        assert watch.running == []

    async def test_a_handler_has_to_end_by_its_timeout(self, watch: Interrupter) -> None:
        ctx = make_context()

        await compose([timeout(watch, 30)], echo)("payload", ctx)

        assert 0 < time.monotonic() + 30 - ctx.expires_at < 5

    @pytest.mark.parametrize("failure", [KeyError(1), Retry("busy"), Reject("no face")])
    async def test_what_a_handler_raises_passes(
        self, watch: Interrupter, failure: Exception
    ) -> None:
        assert await raised_by(compose([timeout(watch, 30)], raising(failure))) is failure
        assert watch.running == []

    @pytest.mark.parametrize(
        "handler",
        [
            forever,
            swallowing,
            failing_on_the_way_out,
            exiting_on_the_way_out,
            cancelling_itself_on_the_way_out,
        ],
    )
    @pytest.mark.parametrize("reason", [DeadlineExceeded("too late"), Stopped()])
    async def test_an_interrupted_handler_ends_with_the_reason(
        self, watch: Interrupter, handler: Handler, reason: BaseException
    ) -> None:
        bounded = compose([timeout(watch, 30)], handler)

        error, cancellations = await run_in_task(bounded, lambda: watch.interrupt(reason))

        assert error is reason
        assert watch.running == []
        assert cancellations == 0, "the task has the next message to handle"

    @pytest.mark.parametrize("exit_", [SystemExit(3), KeyboardInterrupt(), Stopped("enough")])
    async def test_what_ends_a_program_ends_the_message(
        self, watch: Interrupter, exit_: BaseException
    ) -> None:
        error = await raised_by(compose([timeout(watch, 30)], raising(exit_)))

        assert isinstance(error, HandlerExited)
        assert str(error) == f"the handler raised {exit_!r}"
        assert error.__cause__ is exit_

    async def test_a_handler_that_raises_cancellation_is_contained(
        self, watch: Interrupter
    ) -> None:
        error = await raised_by(compose([timeout(watch, 30)], raising(asyncio.CancelledError())))

        assert isinstance(error, HandlerCancelled)
        assert isinstance(error.__cause__, asyncio.CancelledError)

    async def test_a_handler_that_cancels_its_own_task_is_contained(
        self, watch: Interrupter
    ) -> None:
        async def handler(payload: Any, ctx: Context) -> Any:
            assert ctx.task is not None
            ctx.task.cancel()
            await forever(payload, ctx)

        error, _ = await run_in_task(compose([timeout(watch, 30)], handler))

        assert isinstance(error, HandlerCancelled)

    async def test_the_cancellation_of_all_that_is_around_passes(self, watch: Interrupter) -> None:
        errors: list[BaseException] = []

        async def run() -> None:
            try:
                await compose([timeout(watch, 30)], forever)("payload", make_context())
            except BaseException as error:
                errors.append(error)
                raise

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

        assert [type(error) for error in errors] == [asyncio.CancelledError]
        assert watch.running == []


async def run_in_task(
    handler: Handler, meanwhile: Callable[[], None] = lambda: None
) -> tuple[BaseException | None, int]:
    """Call a handler in the task that its context names, as a worker's slot does.

    Gives what it raised, and how many cancellations of the task are not undone.
    """
    ctx, ended = make_context(), anyio.Event()
    raised: list[BaseException] = []
    cancellations = -1

    async def slot() -> None:
        ctx.task = asyncio.current_task()
        try:
            await handler("payload", ctx)
        except BaseException as error:  # noqa: BLE001 — the test looks at it
            raised.append(error)
        ended.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slot)
        await anyio.wait_all_tasks_blocked()
        meanwhile()
        with anyio.fail_after(5):
            await ended.wait()
        assert ctx.task is not None
        cancellations = ctx.task.cancelling()
        tasks.cancel_scope.cancel()
    return (*raised, None)[0], cancellations


class TestExpiry:
    def test_a_handler_without_any_bound_never_expires(self) -> None:
        assert expires_at(make_context(), None) == inf

    @given(
        timeout_s=st.none() | st.floats(0.001, 1e6),
        left_s=st.none() | st.floats(-1e6, 1e6),
    )
    def test_the_earlier_of_timeout_and_deadline_counts(
        self, timeout_s: float | None, left_s: float | None
    ) -> None:
        deadline_at = None if left_s is None else time.time() + left_s
        bounds = [inf if timeout_s is None else timeout_s, inf if left_s is None else left_s]

        bound_s = expires_at(make_context(deadline_at=deadline_at), timeout_s) - time.monotonic()

        assert bound_s == pytest.approx(min(bounds), abs=1)


def noting(name: str, calls: list[str]) -> Middleware:
    async def note(payload: Any, ctx: Context, call_next: Handler) -> Any:
        calls.append(name)
        try:
            return await call_next(payload, ctx)
        finally:
            calls.append(name)

    return note


class TestInAWorker:
    async def test_the_apps_middleware_is_around_the_actors(self) -> None:
        calls: list[str] = []

        @actor(middleware=[noting("actor 1", calls), noting("actor 2", calls)])
        async def enhance(photo: str) -> str:
            calls.append("handler")
            return photo

        @actor
        async def judge(photo: str) -> str:
            return photo

        app = App([enhance, judge], middleware=[noting("app 1", calls), noting("app 2", calls)])
        async with running(app) as test:
            for name in ("enhance", "judge"):
                job = await test.client.submit([name], "cat")
                await job.result(5)

        layers = ["app 1", "app 2", "actor 1", "actor 2"]
        assert calls[:9] == [*layers, "handler", *reversed(layers)]
        assert calls[9:] == ["app 1", "app 2", "app 2", "app 1"]

    async def test_each_attempt_passes_all_middleware_with_the_decoded_payload(self) -> None:
        moment = datetime(2024, 2, 29, tzinfo=UTC)
        seen: list[tuple[Any, int]] = []

        async def note(payload: Any, ctx: Context, call_next: Handler) -> Any:
            seen.append((payload, ctx.attempt))
            return await call_next(payload, ctx)

        @actor(retry=RetryPolicy(max_attempts=3, backoff=fixed(0)))
        async def when(moment: datetime) -> datetime:
            raise OSError(str(moment))

        async with running(App([when], middleware=[note])) as test:
            job = await test.client.submit(["when"], moment)
            with pytest.raises(JobFailed):
                await job.result(5)

        assert seen == [(moment, 1), (moment, 2), (moment, 3)]

    async def test_a_failure_of_middleware_is_one_of_the_handler(self) -> None:
        async def broken(payload: Any, ctx: Context, call_next: Handler) -> Any:
            if ctx.attempt == 1:
                raise OSError("the quota service is away")
            return await call_next(payload, ctx)

        @actor(retry=RetryPolicy(backoff=fixed(0)))
        async def enhance(photo: str) -> str:
            return f"{photo}, enhanced"

        async with running(App([enhance], middleware=[broken])) as test:
            job = await test.client.submit(["enhance"], "cat")

            assert await job.result(5) == "cat, enhanced"
            assert [event.kind async for event in job.events()] == [
                "accepted",
                "retried",
                "succeeded",
            ]

    async def test_the_timeout_bounds_middleware_too(self) -> None:
        async def slow(payload: Any, ctx: Context, call_next: Handler) -> Any:
            await anyio.sleep_forever()
            return await call_next(payload, ctx)

        @actor(timeout_s=0.02, retry=RetryPolicy(max_attempts=1), middleware=[slow])
        async def enhance(photo: str) -> str:
            return photo

        async with running(App([enhance])) as test:
            job = await test.client.submit(["enhance"], "cat")

            with pytest.raises(JobFailed, match="HandlerTimeout in enhance"):
                await job.result(5)

    async def test_what_is_not_admitted_passes_no_middleware(self) -> None:
        calls: list[str] = []

        @actor
        async def enhance(photo: str) -> str:
            return photo

        async with running(App([enhance], middleware=[noting("app", calls)])) as test:
            late = await test.client.submit(["enhance"], "cat", deadline_s=0)
            with pytest.raises(JobFailed, match="DeadlineExceeded"):
                await late.result(5)

        assert calls == []

    async def test_a_message_that_waits_until_its_deadline_has_passed_does_not_run(self) -> None:
        clock, attempts = ManualClock(), list[int]()

        @actor
        async def ask(photo: str, ctx: Context) -> str:
            attempts.append(ctx.attempt)
            raise Retry(f"too many requests for {photo}", after_s=60, counted=False)

        async with running(App([ask]), clock=clock) as test:
            job = await test.client.submit(["ask"], "cat", deadline_s=0.05)
            deadline = time.time() + 0.05
            while time.time() <= deadline:
                await checkpoint()
            await clock.advance(60)

            with pytest.raises(JobFailed, match="DeadlineExceeded in ask"):
                await job.result(5)

        assert attempts == [1]
