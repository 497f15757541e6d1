"""Handlers that misbehave: each ends in an outcome, and does no harm to the next message."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest

from asyafw import Batch, Context, Limits, Reject, Retry, RetryPolicy, actor
from asyafw._actor import Actor
from tests.integration.running import events, running, submit_all

ONCE = RetryPolicy(max_attempts=1)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no comment")

    __repr__ = __str__


class UnspeakableExit(BaseException):
    __str__ = __repr__ = Unspeakable.__str__


def hostile(make: Callable[[], BaseException]) -> Any:
    async def handler(_: Any) -> NoReturn:
        raise make()

    return handler


def in_thread(make: Callable[[], BaseException]) -> Any:
    def handler(_: Any) -> NoReturn:
        raise make()

    return handler


def case(told: str, make: Callable[[], BaseException]) -> Any:
    return pytest.param(make, told, id=type(make()).__name__)


SURROGATE = "\udcff"
RAISED = [
    case("ValueError: bad", lambda: ValueError("bad")),
    case("OSError: \\udcff", lambda: OSError(SURROGATE)),
    case("TimeoutError: ", TimeoutError),
    case("Reject: refused", lambda: Reject("refused")),
    case("RetriesExhausted: asked to be run again: again", lambda: Retry("again")),
    case("StopAsyncIteration: 1", lambda: StopAsyncIteration(1)),
    case("RuntimeError: coroutine raised StopIteration", lambda: StopIteration(1)),
    case("ExceptionGroup: two (1 sub-exception)", lambda: ExceptionGroup("two", [KeyError()])),
    case("tests.integration.test_worker_hostile.Unspeakable: ", Unspeakable),
]
EXITS = [
    case("HandlerExited: the handler raised GeneratorExit", lambda: GeneratorExit("stop")),
    case("HandlerExited: the handler raised SystemExit", lambda: SystemExit(2)),
    case("HandlerExited: the handler raised KeyboardInterrupt", KeyboardInterrupt),
    case("HandlerExited: the handler raised ", UnspeakableExit),
    case("HandlerCancelled: The handler cancelled itself.", lambda: asyncio.CancelledError("me")),
]


@pytest.mark.parametrize("form", [hostile, in_thread], ids=["async", "thread"])
@pytest.mark.parametrize(("make", "told"), RAISED + EXITS)
async def test_whatever_a_handler_raises_becomes_its_error(
    form: Any, make: Callable[[], BaseException], told: str
) -> None:
    tried = actor(name="tried", retry=ONCE, concurrency=1)(form(make))

    async with running(tried) as run:
        errors = [await run.error(number) for number in (1, 2)]
        outcomes = run.outcomes("tried")

    assert all(error.startswith(told) for error in errors), errors
    assert outcomes == {"failed": 2}


@pytest.mark.parametrize(("make", "told"), RAISED + EXITS)
async def test_whatever_a_batch_raises_becomes_its_items_error(
    make: Callable[[], BaseException], told: str
) -> None:
    @actor(retry=ONCE, batch=Batch(max_size=2, max_wait_s=0.01), concurrency=1)
    async def tried(_: list[int]) -> list[int]:
        raise make()

    async with running(tried) as run:
        found = [(await events(job))[-1].error for job in await submit_all(run, [1, 2, 3])]

    assert all(f"{error.type}: {error.message}".startswith(told) for error in found), found


@pytest.mark.parametrize(("make", "told"), RAISED)
async def test_an_exception_in_a_list_of_results_is_that_items_error(
    make: Callable[[], BaseException], told: str
) -> None:
    @actor(retry=ONCE, batch=Batch(max_size=2, max_wait_s=5))
    async def tried(numbers: list[int]) -> list[Any]:
        return [make() if number == 1 else number for number in numbers]

    async with running(tried) as run:
        bad, good = await submit_all(run, [1, 2])
        error = (await events(bad))[-1].error
        result = await good.result(5)

    assert f"{error.type}: {error.message}".startswith(told)
    assert result == 2


async def test_a_message_of_ten_megabytes_is_told_in_its_beginning() -> None:
    tried = actor(name="tried", retry=ONCE)(hostile(lambda: ValueError("x" * 10_000_000)))

    async with running(tried) as run:
        error = await run.error(1)
        (letter,) = await run.letters()

    assert 1_000 < len(error) < 10_000
    assert letter.error is not None
    assert len(letter.error.traceback) < 20_000


async def test_an_unspeakable_error_is_retried_as_any_other() -> None:
    attempts: list[int] = []

    @actor(retry=RetryPolicy(max_attempts=3, backoff=lambda _: 0))
    async def tried(_: int, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise Unspeakable

    async with running(tried) as run:
        await run.error(1)

    assert attempts == [1, 2, 3]


async def test_what_takes_too_long_is_cancelled() -> None:
    cancelled = anyio.Event()

    @actor(timeout_s=0.05, retry=ONCE)
    async def slow(_: int) -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with running(slow) as run:
        error = await run.error(1)

    assert error.startswith("HandlerTimeout: slow ran for 0.0")
    assert error.endswith("s, longer than its timeout")
    assert cancelled.is_set()


async def test_who_swallows_the_cancellation_is_late_all_the_same() -> None:
    @actor(timeout_s=0.05, retry=ONCE, concurrency=1)
    async def stubborn(number: int) -> int:
        if number < 0:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                await anyio.lowlevel.checkpoint()
        return number

    async with running(stubborn) as run:
        error = await run.error(-1)
        result = await run.result(1)

    assert error.startswith("HandlerTimeout")
    assert result == 1


async def test_what_is_raised_in_the_place_of_the_cancellation_is_still_a_timeout() -> None:
    @actor(timeout_s=0.05, retry=ONCE)
    async def confused(_: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async with running(confused) as run:
        error = await run.error(1)

    assert error.startswith("HandlerTimeout")


async def test_a_handler_may_have_time_outs_of_its_own() -> None:
    @actor(timeout_s=5, retry=ONCE)
    async def patient(_: int) -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        except TimeoutError:
            return "fine"
        return "never"

    async with running(patient) as run:
        result = await run.result(1)

    assert result == "fine"


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("text", "tried declares <class 'int'> and gave a str"),
        (2**70, "tried gave a int that cannot be encoded: "),
    ],
)
async def test_a_result_of_another_type_is_an_error_of_the_handler(result: Any, told: str) -> None:
    ran: list[int] = []

    @actor
    async def tried(number: int) -> int:
        ran.append(number)
        return result  # type: ignore[no-any-return]

    async with running(tried) as run:
        error = await run.error(1)

    assert error.startswith(f"ResultTypeError: {told}")
    assert ran == [1]  # the same would only happen again


@pytest.mark.parametrize(
    "make",
    [deep, object, lambda: {1: object()}, lambda: "\ud800", lambda: iter([])],
    ids=["deep", "object", "object inside", "surrogate", "iterator"],
)
async def test_a_result_that_cannot_be_encoded_is_an_error_of_the_handler(make: Any) -> None:
    @actor
    async def tried(_: int) -> Any:
        return make()

    async with running(tried) as run:
        error = await run.error(1)

    assert error.startswith("ResultTypeError: tried gave a ")


@pytest.mark.parametrize("results", [None, 1, [1], [1, 2, 3], (1, 2)])
async def test_a_batch_gives_one_result_for_each_item(results: Any) -> None:
    @actor(batch=Batch(max_size=2, max_wait_s=0.01), retry=ONCE)
    async def tried(numbers: list[int]) -> Any:
        return results if len(numbers) == 2 else "nothing"

    async with running(tried) as run:
        jobs = await submit_all(run, [1, 2])
        errors = [(await events(job))[-1].error for job in jobs]

    assert [error.message for error in errors] == [
        "tried got a batch of 1 and returned a str; a list with one result for each is needed"
    ] * 2


async def test_ten_thousand_children_are_one_step() -> None:
    @actor
    async def fork(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @actor(concurrency=100)
    async def child(number: int) -> int:
        return number

    async with running(fork, child) as run:
        result = await run.result(10_000)

    assert result == list(range(10_000))


@pytest.mark.parametrize("form", ["async", "thread"])
async def test_a_generator_without_an_end_is_stopped(form: str) -> None:
    async def endless(_: int) -> AsyncIterator[int]:
        while True:
            yield 1

    def endless_in_thread(_: int) -> Iterator[int]:
        while True:
            yield 1

    tried = actor(name="tried")(endless if form == "async" else endless_in_thread)

    async with running(tried, limits=Limits(children=100)) as run:
        error = await run.error(1)

    assert error.startswith("LimitExceeded: tried yields more than 100 children")


@pytest.mark.parametrize("awaits", [True, False])
@pytest.mark.parametrize("swallows", [True, False])
async def test_a_handler_that_cancels_its_task_harms_only_itself(
    *, awaits: bool, swallows: bool
) -> None:
    @actor(concurrency=1, retry=ONCE)
    async def tried(number: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        if number < 0:
            task.cancel()
        try:
            if awaits:
                await anyio.lowlevel.checkpoint()
        except asyncio.CancelledError:
            if not swallows:
                raise
        return number

    async with running(tried) as run:
        end = await run.end(-1)
        results = [await run.result(number) for number in range(3)]

    assert end.kind == ("failed" if awaits and not swallows else "succeeded")
    assert results == [0, 1, 2]


async def test_a_batch_that_cancels_its_task_harms_only_itself() -> None:
    @actor(batch=Batch(max_size=1), concurrency=1, retry=ONCE)
    async def tried(numbers: list[int]) -> list[int]:
        task = asyncio.current_task()
        assert task is not None
        if numbers[0] < 0:
            task.cancel()
        if numbers[0] < -1:
            await anyio.lowlevel.checkpoint()
        return numbers

    async with running(tried) as run:
        error = await run.error(-2)
        results = [await run.result(number) for number in (-1, 0, 1)]

    assert error.startswith("HandlerCancelled")
    assert results == [-1, 0, 1]


async def test_a_route_without_an_end_is_stopped() -> None:
    hops: list[int] = []

    @actor
    async def again(number: int, ctx: Context) -> int:
        hops.append(ctx.hops)
        ctx.route.prepend("again")
        return number

    async with running(again, limits=Limits(hops=10)) as run:
        error = await run.error(1)

    assert error.startswith("LimitExceeded: handed on 10 times already: does its route end?")
    assert hops == list(range(11))


async def test_a_route_to_nobody_is_an_error_that_names_who_is_there() -> None:
    @actor
    async def lost(_: int, ctx: Context) -> int:
        ctx.route.append("nowhere")
        return 1

    async with running(lost) as run:
        error = await run.error(1)

    assert (
        error == "UnknownActor: lost routes to 'nowhere', which the app does not have; it has lost"
    )


@pytest.mark.parametrize("header", [5, b"bytes", None, object()])
async def test_a_header_that_is_no_text_is_an_error_of_the_handler(header: Any) -> None:
    @actor
    async def labels(_: int, ctx: Context) -> int:
        ctx.headers["label"] = header
        return 1

    @actor
    async def last(_: int) -> int:
        return 2

    async with running(labels, last) as run:
        error = await run.error(1)

    assert error.startswith("ResultTypeError: labels set the header 'label' to ")


async def test_a_blocked_event_loop_delays_and_loses_nothing() -> None:
    @actor(concurrency=2)
    async def blocks(number: int) -> int:
        time.sleep(0.5)  # noqa: ASYNC251 — the point
        return number

    @actor
    async def waits(number: int) -> int:
        begun.set()
        await released.wait()
        return number

    begun, released = anyio.Event(), anyio.Event()
    async with running(blocks, waits) as run:
        waiting = await run.submit(1, "waits")
        await begun.wait()
        jobs = await submit_all(run, [2, 3], "blocks")
        results = [await job.result(5) for job in jobs]
        released.set()
        results.append(await waiting.result(5))
        lag = run.worker.metrics.loop_lag

    assert results == [2, 3, 1]
    assert lag.total_s > 0.4


async def test_a_leaked_task_is_left_to_itself() -> None:
    finished = anyio.Event()
    leaked: list[asyncio.Task[None]] = []

    async def linger() -> None:
        await anyio.sleep(0.05)
        finished.set()

    @actor(concurrency=1)
    async def leaks(number: int) -> int:
        leaked.append(asyncio.create_task(linger()))
        return number

    async with running(leaks) as run:
        results = [await run.result(number) for number in (1, 2)]
        await finished.wait()

    assert results == [1, 2]
    await asyncio.gather(*leaked)


async def test_a_hundred_thousand_reports_of_progress_do_no_harm() -> None:
    order: list[str] = []

    @actor
    async def chatty(count: int, ctx: Context) -> int:
        order.append("begun")
        for number in range(count):
            await ctx.progress(number / count, "denoising")
        order.append("ended")
        return count

    @actor
    async def other(number: int) -> int:
        order.append("other")
        return number

    async with running(chatty, other) as run:
        job = await run.submit(100_000, "chatty")
        await run.result(1, "other")
        result = await job.result(20)
        told = await events(job)

    assert result == 100_000
    assert order == ["begun", "other", "ended"]
    assert len(told) > 10_000


async def test_what_cannot_be_reported_is_an_error_of_the_handler() -> None:
    @actor(retry=ONCE)
    async def chatty(_: int, ctx: Context) -> None:
        await ctx.progress(message=object())  # type: ignore[arg-type]

    async with running(chatty) as run:
        error = await run.error(1)

    assert error.startswith("TypeError: Encoding objects of type object is unsupported")


VARIABLE: ContextVar[object] = ContextVar("VARIABLE", default="as it was")


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("fails", [False, True])
async def test_context_variables_do_not_leak_into_the_next_message(*, fails: bool) -> None:
    seen: list[object] = []

    @actor(concurrency=1, retry=ONCE)
    async def careless(number: int) -> int:
        seen.append(VARIABLE.get())
        VARIABLE.set(Incomparable())
        if fails:
            raise ValueError("bad")
        return number

    async with running(careless) as run:
        for number in range(5):
            await run.end(number)

    assert seen == ["as it was"] * 5


async def test_the_workers_own_context_variables_are_seen_in_handlers() -> None:
    @actor
    async def reads(_: int) -> Any:
        return VARIABLE.get()

    token = VARIABLE.set("from outside")
    async with running(reads) as run:
        result = await run.result(1)
    VARIABLE.reset(token)

    assert result == "from outside"


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_a_middleware_that_never_calls_on_decides_the_result(executor: str) -> None:
    async def cache(payload: Any, ctx: Context, call_next: Any) -> Any:
        return -payload if payload > 0 else await call_next(payload, ctx)

    async def same(number: int) -> int:
        return number

    def same_in_thread(number: int) -> int:
        return number

    handler: Any = same if executor == "async" else same_in_thread
    tried: Actor[..., Any] = actor(name="tried", middleware=[cache])(handler)

    async with running(tried) as run:
        results = [await run.result(number) for number in (1, -1)]

    assert results == [-1, -1]


async def test_a_middleware_that_fails_is_an_error_of_the_message() -> None:
    async def broken(payload: Any, ctx: Context, call_next: Any) -> Any:
        raise SystemExit(1)

    @actor(middleware=[broken], retry=ONCE)
    async def tried(number: int) -> int:
        return number

    async with running(tried) as run:
        error = await run.error(1)

    assert error.startswith("HandlerExited")


async def test_a_backoff_that_fails_is_an_error_of_the_message() -> None:
    def backoff(_: int) -> float:
        raise ZeroDivisionError("nobody tested it")

    @actor(retry=RetryPolicy(backoff=backoff))
    async def tried(_: int) -> None:
        raise ValueError("bad")

    async with running(tried) as run:
        error = await run.error(1)

    assert error == "ZeroDivisionError: nobody tested it"


async def test_an_abandoned_thread_keeps_its_place(caplog: pytest.LogCaptureFixture) -> None:
    from threading import Event

    end, running_now, most = Event(), [0], [0]

    @actor(concurrency=2, timeout_s=0.05, retry=ONCE)
    def stuck(number: int) -> int:
        running_now[0] += 1
        most[0] = max(most[0], running_now[0])
        if number < 0:
            end.wait(10)
        running_now[0] -= 1
        return number

    async with running(stuck) as run:
        errors = [await run.error(-1), await run.error(-2)]
        waiting = await submit_all(run, [1, 2, 3])
        outcomes = run.outcomes("stuck")
        end.set()
        results = [await job.result(5) for job in waiting]

    assert all(error.startswith("HandlerTimeout") for error in errors)
    assert outcomes == {"failed": 2}
    assert results == [1, 2, 3]
    assert most == [2]
