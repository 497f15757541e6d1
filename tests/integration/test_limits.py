"""Limits in running workers, over memory."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Self

import anyio
from msgspec import Raw
from msgspec.structs import replace

from asyafw import App, CircuitBreaker, Context, Join, RateLimit, Retry, RetryPolicy, actor, fixed
from asyafw.coordination import Coordinating, Turn
from asyafw.dead_letters import Selection
from asyafw.dead_letters import replay as replay_letters
from asyafw.envelope import MSGPACK, Envelope, Route, decode_envelope, encode_envelope
from asyafw.memory import MemoryTransport
from asyafw.testing import ManualClock
from asyafw.transport import Consumer, Entry, Lag, Message, Out, Send
from tests.integration.limited import Starts, outcomes
from tests.integration.running import becomes, kinds, running, submit_all


async def test_a_limited_actor_holds_no_slots() -> None:
    clock = ManualClock()
    ran: list[int] = []

    @actor(concurrency=2, middleware=[RateLimit(1, per_s=60)])
    async def ask(number: int) -> int:
        ran.append(number)
        return number

    @actor
    async def free(number: int) -> int:
        return number

    async with running(ask, free, transport=MemoryTransport(clock)) as run:
        jobs = await submit_all(run, range(10), "ask")
        await becomes(lambda: run.outcomes("ask") == {"finished": 1, "postponed": 9})
        lag = await run.transport.lag("ask")
        meanwhile = await run.result(1, "free")
        for _ in range(9):
            await clock.advance(60)
        results = [await job.result(5) for job in jobs]
        counted = run.outcomes("ask")

    assert (lag.backlog, lag.in_flight, lag.delayed) == (0, 0, 9)
    assert meanwhile == 1
    assert results == ran == list(range(10))
    assert counted == {"finished": 10, "postponed": 9}


async def test_two_workers_together_keep_to_a_rate() -> None:
    starts = Starts()

    @actor(middleware=[RateLimit(20)])
    async def ask(number: int) -> int:
        return starts.note(number)

    app, service = App([ask]), MemoryTransport()
    async with (
        app.worker(service.share()) as one,
        app.worker(service.share()) as two,
        app.connect(service.share()) as client,
    ):
        jobs = [await client.submit(["ask"], number) for number in range(60)]
        results = [await job.result(20) for job in jobs]

    assert results == list(range(60))
    starts.keep_to(rate=20)
    assert 50 < outcomes("ask", one, two)["postponed"] < 120


async def test_two_actors_share_a_key() -> None:
    clock = ManualClock()
    limit = RateLimit(1, per_s=60, key="llm")

    @actor(middleware=[limit])
    async def ask(text: str) -> str:
        return text

    @actor(middleware=[limit])
    async def judge(text: str) -> str:
        return text

    async with running(ask, judge, transport=MemoryTransport(clock)) as run:
        job = await run.submit("tea", "ask", "judge")
        await becomes(lambda: run.outcomes("judge") == {"postponed": 1})
        await clock.advance(60)
        result = await job.result(5)

    assert result == "tea"


async def test_a_turn_is_for_one_hop() -> None:
    clock = ManualClock()
    had: list[dict[str, Turn]] = []

    @actor(middleware=[RateLimit(1, per_s=60)])
    async def ask(text: str, ctx: Context) -> str:
        had.append(ctx.envelope.turns)
        return text

    @actor
    async def after(text: str, ctx: Context) -> str:
        had.append(ctx.envelope.turns)
        return text

    async with running(ask, after, transport=MemoryTransport(clock)) as run:
        await run.result("first")
        job = await run.submit("second")
        await becomes(lambda: run.outcomes("ask").get("postponed"))
        await clock.advance(60)
        told = await kinds(job)

    assert [list(turns) for turns in had] == [["ask"], [], ["ask"], []]
    assert told == ["accepted", "retried", "hop", "succeeded"]


async def test_a_turn_ends_where_siblings_meet() -> None:
    clock = ManualClock()
    had: list[dict[str, Turn]] = []

    @actor
    async def split(number: int) -> AsyncIterator[int]:
        for item in range(number):
            yield item

    @actor(middleware=[RateLimit(1, per_s=60)], retry=RetryPolicy(max_attempts=1))
    async def ask(number: int) -> int:
        raise ValueError(number)

    @actor(join=Join(partial="pass"))
    async def meet(numbers: list[int | None], ctx: Context) -> int:
        had.append(ctx.envelope.turns)
        return len(numbers)

    async with running(split, ask, meet, transport=MemoryTransport(clock)) as run:
        job = await run.submit(2)
        await becomes(lambda: run.outcomes("ask").get("postponed"))
        await clock.advance(60)
        result = await job.result(5)

    assert (result, had) == (2, [{}])


async def test_a_dead_letter_that_is_replayed_takes_a_new_turn() -> None:
    clock = ManualClock()
    fails = True
    had: list[dict[str, Turn]] = []

    @actor(middleware=[RateLimit(1, per_s=60)], retry=RetryPolicy(max_attempts=1))
    async def ask(text: str, ctx: Context) -> str:
        had.append(ctx.envelope.turns)
        if fails:
            raise OSError
        return text

    async with running(ask, transport=MemoryTransport(clock)) as run:
        await run.end("tea")
        fails = False
        await replay_letters(run.transport, Selection())
        await becomes(lambda: run.outcomes("ask") == {"failed": 1, "postponed": 1})
        await clock.advance(60)
        await becomes(lambda: run.outcomes("ask").get("finished"))

    assert had[0]["ask"].at_us + 60_000_000 <= had[1]["ask"].at_us


async def test_a_forged_turn_holds_up_nobody_but_itself() -> None:
    clock = ManualClock()

    @actor(middleware=[RateLimit(1, per_s=60)])
    async def ask(text: str) -> str:
        return text

    async with running(ask, transport=MemoryTransport(clock)) as run:
        for number, at in enumerate((0, 2**53 - 1, int((clock.now() + 1e6) * 1e6))):
            forged = Envelope(
                id=f"m{number}",
                job="j",
                route=Route("ask"),
                payload=Raw(b"\xa1x"),
                turns={"ask": Turn(at, sure=True)},
            )
            await run.transport.emit(Send("ask", Message(encode_envelope(forged, MSGPACK))))
        await becomes(lambda: run.outcomes("ask").get("finished") == 1)
        job = await run.submit("tea")
        await clock.advance(60)

        assert await job.result(5) == "tea"


async def test_a_breaker_spares_a_service_that_is_down_and_finds_it_well_again() -> None:
    clock = ManualClock()
    down = True
    calls: list[int] = []

    @actor(
        middleware=[CircuitBreaker(failures=3)],
        retry=RetryPolicy(max_attempts=2, backoff=fixed(1)),
    )
    async def ask(number: int) -> int:
        calls.append(number)
        if down:
            raise OSError("down")
        return number

    async with running(ask, transport=MemoryTransport(clock)) as run:
        jobs = await submit_all(run, range(3))
        await becomes(lambda: run.outcomes("ask") == {"retried": 3})
        await clock.advance(1)
        jobs += await submit_all(run, range(3, 20))
        await becomes(lambda: run.outcomes("ask")["postponed"] == 20)
        called = len(calls)
        down = False
        for _ in range(10):
            await clock.advance(30)
        results = [await job.result(5) for job in jobs]

    assert called == 3
    assert results == list(range(20))
    assert len(calls) == 23


async def test_a_handler_that_takes_too_long_counts_as_a_failure() -> None:
    @actor(
        timeout_s=0.05,
        middleware=[CircuitBreaker(failures=1)],
        retry=RetryPolicy(max_attempts=1),
    )
    async def ask(number: int) -> int:
        await anyio.sleep(60)
        return number

    async with running(ask) as run:
        first = await run.error(1)
        await run.submit(2)
        await becomes(lambda: run.outcomes("ask").get("postponed"))

    assert first.startswith("HandlerTimeout")


async def test_a_probe_of_a_worker_that_stops_makes_way() -> None:
    clock = ManualClock()
    gate = anyio.Event()
    fails = True

    @actor(middleware=[CircuitBreaker(failures=1)], retry=RetryPolicy(max_attempts=1))
    async def ask(number: int) -> int:
        if fails:
            raise OSError
        if number:
            await gate.wait()
        return number

    app, service = App([ask]), MemoryTransport(clock)
    async with app.connect(service.share()) as client:
        async with app.worker(service.share(), drain_timeout_s=0) as worker:
            await client.submit(["ask"], 0)
            await becomes(lambda: worker.metrics.actor("ask").outcomes["failed"])
            fails = False
            await clock.advance(30)
            await client.submit(["ask"], 1)
            await becomes(lambda: worker.metrics.actor("ask").in_flight)
        gate.set()
        async with app.worker(service.share()) as worker:
            await becomes(lambda: worker.metrics.actor("ask").outcomes["finished"])


class Plain:
    """A transport that offers nothing but the seam."""

    def __init__(self, inner: MemoryTransport) -> None:
        self._inner = inner

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._inner.__aexit__(*exc_info)

    async def emit(self, *out: Out) -> None:
        await self._inner.emit(*out)

    def consume(self, queue: str) -> AbstractAsyncContextManager[Consumer]:
        return self._inner.consume(queue)

    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        return self._inner.tail(log, since_s=since_s, after=after)

    async def lag(self, queue: str) -> Lag:
        return await self._inner.lag(queue)


async def test_over_a_transport_that_shares_nothing_each_worker_counts_by_itself() -> None:
    service = MemoryTransport()

    @actor(concurrency=1, middleware=[RateLimit(1, per_s=60)])
    async def ask(number: int) -> int:
        return number

    app = App([ask])
    async with (
        app.worker(Plain(service.share())) as one,
        app.worker(Plain(service.share())) as two,
        app.connect(service.share()) as client,
    ):
        for number in range(10):
            await client.submit(["ask"], number)
        await becomes(lambda: outcomes("ask", one, two).total() == 10)
        counted = outcomes("ask", one, two)

    assert not isinstance(Plain(service), Coordinating)
    assert counted["finished"] == 2


async def test_a_server_that_says_how_long_to_wait_is_heeded_by_all() -> None:
    clock = ManualClock()
    calls: list[float] = []

    @actor(middleware=[RateLimit(10), CircuitBreaker(honour_retry_after=True)])
    async def ask(number: int) -> int:
        calls.append(clock.now())
        if len(calls) == 1:
            raise Retry("429", after_s=20, counted=False)
        return number

    async with running(ask, transport=MemoryTransport(clock)) as run:
        jobs = await submit_all(run, range(30))
        for _ in range(600):
            await clock.advance(0.1)
        results = [await job.result(5) for job in jobs]

    assert results == list(range(30))
    assert calls[1] - calls[0] >= 20
    assert len(calls) == 31


async def test_an_envelope_keeps_its_turns() -> None:
    envelope = Envelope(id="m", job="j", route=Route("ask"), payload=Raw(b"\xc0"))
    envelope = replace(envelope, turns={"ask": Turn(1), "llm": Turn(2, sure=True)})

    assert decode_envelope(encode_envelope(envelope, MSGPACK)) == (envelope, MSGPACK)
