import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from msgspec.structs import replace

from asyafw import (
    Actor,
    App,
    Client,
    Context,
    JobCancelled,
    JobFailed,
    Join,
    RetryPolicy,
    actor,
    fixed,
)
from asyafw.envelope import MSGPACK, Envelope, decode_envelope, encode_envelope
from asyafw.events import EVENTS, decode_event
from asyafw.exceptions import TransportClosed
from asyafw.memory import MemoryTransport
from asyafw.middleware import Handler
from asyafw.testing import ManualClock
from asyafw.transport import Append, Message, Send
from tests import fan_outs
from tests.integration.running import PATIENCE_S, Running, becomes, events, kinds, running

AGAIN = RetryPolicy(max_attempts=3, backoff=fixed(0))
ONCE = RetryPolicy(max_attempts=1)


@actor
async def count(total: int) -> AsyncIterator[int]:
    """Fan out to the numbers below a total."""
    for number in range(total):
        yield number


@actor(join=Join())
async def gather(numbers: list[int]) -> list[int]:
    return numbers


@actor(name="gather", join=Join(timeout_s=60, partial="pass"))
async def gather_some(numbers: list[int | None], ctx: Context) -> Any:
    return numbers, {place: failure.type for place, failure in ctx.failures.items()}


@actor
async def square(number: int) -> int:
    return number * number


@actor(name="square", retry=ONCE)
async def square_even(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number * number


ROUTE = ("count", "square", "gather")


async def error_of(run: Running, payload: Any, *route: str, **options: Any) -> str:
    """Submit what fails, and tell why it did."""
    job = await run.submit(payload, *route, **options)
    with pytest.raises(JobFailed) as raised:
        await job.result(PATIENCE_S)
    return str(raised.value)


async def ends(transport: MemoryTransport) -> list[str]:
    """How jobs ended, as often as they did."""
    await anyio.wait_all_tasks_blocked()
    kinds: list[str] = []
    log = transport.tail(EVENTS, since_s=86_400 * 2)
    await transport.emit(Append(EVENTS, b"until here"))
    while (body := (await anext(log)).body) != b"until here":
        event = decode_event(body)
        if event.ends_job:
            kinds.append(event.kind)
    return kinds


@pytest.fixture(scope="module")
def run_route() -> Iterator[Callable[[list[str]], Any]]:
    """Run a job with the payload 0 along a route."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running(*fan_outs.ACTORS)) as run,
    ):
        yield lambda route: portal.call(run.result, 0, *route)


class TestRoutes:
    @given(route=fan_outs.routes)
    @settings(deadline=None)
    def test_any_route_gives_what_plain_recursion_does(
        self, run_route: Callable[[list[str]], Any], route: list[str]
    ) -> None:
        assert run_route(route) == fan_outs.expected(route, 0)

    async def test_two_workers_share_the_children(self) -> None:
        seen: set[str] = set()

        def app(worker: str) -> App:
            @actor(name="square", concurrency=1)
            async def square_here(number: int) -> int:
                seen.add(worker)
                await checkpoint()
                return number * number

            return App([count, square_here, gather])

        service = MemoryTransport()
        async with (
            app("one").worker(service.share()),
            app("two").worker(service.share()),
            app("client").connect(service.share()) as client,
        ):
            job = await client.submit(ROUTE, 100)
            result = await job.result(PATIENCE_S)

        assert result == [number**2 for number in range(100)]
        assert seen == {"one", "two"}

    async def test_thousands_of_children_meet_in_order(self) -> None:
        async with running(count, square, gather) as run:
            result = await run.result(3000)
            outcomes = run.outcomes("gather")

        assert result == [number**2 for number in range(3000)]
        assert outcomes == {"finished": 1}

    async def test_a_join_of_what_was_not_fanned_out_is_a_list_of_one(self) -> None:
        async with running(square, gather) as run:
            assert await run.result(3) == [9]

    async def test_a_child_may_take_a_longer_way_to_its_join(self) -> None:
        @actor(name="square")
        async def square_up(number: int, ctx: Context) -> int:
            if 1 < number < 10:
                ctx.route.prepend("square")
            return number * number

        @actor(name="gather", join=Join())
        async def gather_hops(numbers: list[int], ctx: Context) -> Any:
            return numbers, ctx.hops

        async with running(count, square_up, gather_hops) as run:
            numbers, hops = await run.result(4)

        assert numbers == [0, 1, 256, 6561]
        assert hops == 4, "those of a child that took the longest way"


class TestTheMessageAtTheJoin:
    async def test_is_the_one_that_fanned_out(self) -> None:
        seen: dict[str, Envelope] = {}

        @actor(name="square")
        async def look(number: int, ctx: Context) -> int:
            seen[f"child {number}"] = ctx.envelope
            ctx.headers["number"] = str(number)
            return number

        @actor(name="gather", join=Join())
        async def look_again(numbers: list[int], ctx: Context) -> list[int]:
            seen["join"] = ctx.envelope
            return numbers

        @actor
        async def last(numbers: list[int], ctx: Context) -> list[int]:
            seen["last"] = ctx.envelope
            return numbers

        async with running(count, look, look_again, last) as run:
            options = {"headers": {"tenant": "acme"}, "deadline_s": 60}
            job = await run.submit(2, *ROUTE, "last", **options)
            await job.result(PATIENCE_S)

        child, other, join = seen["child 0"], seen["child 1"], seen["join"]
        assert len({child.id, other.id, job.id}) == 3
        assert (child.parent, child.job, child.hops) == (job.id, job.id, 1)
        assert (join.id, join.parent, join.job, join.hops) == (job.id, None, job.id, 2)
        assert join.headers == {"tenant": "acme", "number": "0"}
        assert join.deadline_at == child.deadline_at is not None
        assert join.forks == ()
        assert join.route.next == ("last",)
        assert (seen["last"].joined, seen["last"].hops) == (False, 3)

    async def test_is_a_child_again_where_fan_outs_are_nested(self) -> None:
        parents: list[tuple[bool, bool]] = []

        @actor(name="gather", join=Join())
        async def look(numbers: list[Any], ctx: Context) -> list[Any]:
            parents.append((ctx.id == ctx.job, ctx.envelope.parent == ctx.job))
            return numbers

        @actor
        async def below(number: int) -> AsyncIterator[int]:
            yield number
            yield -number

        async with running(count, below, look) as run:
            result = await run.result(2, "count", "below", "gather", "gather")

        assert result == [[0, 0], [1, -1]]
        assert parents == [(False, True), (False, True), (True, False)]


class TestChildrenThatDoNotCome:
    async def test_a_join_fails_if_a_child_has(self) -> None:
        async with running(count, square_even, gather) as run:
            error = await error_of(run, 4)
            letters = await run.letters(3)

        assert error == (
            "JoinFailed in gather: 2 of the siblings are missing, "
            "the first because of ValueError in square: 1 is odd"
        )
        assert [letter.route.curr for letter in letters] == ["square", "square", "gather"]
        assert MSGPACK.decode(letters[2].payload) == [0, None, 4, None]

    async def test_a_join_that_can_do_without_a_child_is_told_why(self) -> None:
        async with running(count, square_even, gather_some) as run:
            result = await run.result(4)

        assert result == [[0, None, 4, None], {1: "ValueError", 3: "ValueError"}]

    async def test_a_job_fails_whose_children_nobody_joins_if_one_has(self) -> None:
        async with running(count, square_even) as run:
            job = await run.submit(3)
            told = await events(job)
            letters = await run.letters()

        assert [event.kind for event in told].count("child") == 3
        assert (told[-1].kind, told[-1].actor) == ("failed", "count")
        assert told[-1].error is not None
        assert told[-1].error.message.startswith("1 of 3 children failed, the first in 'square'")
        assert [letter.route.curr for letter in letters] == ["square"]

    async def test_an_inner_join_that_fails_is_missed_in_the_outer_one(self) -> None:
        @actor
        async def pair(number: int) -> AsyncIterator[int]:
            yield number
            yield 2 * number

        @actor(name="inner", join=Join(), retry=ONCE)
        async def inner(numbers: list[int]) -> int:
            return sum(numbers)

        async with running(count, pair, square_even, inner, gather_some) as run:
            result = await run.result(3, "count", "pair", "square", "inner", "gather")

        assert result == [[0, None, 4 + 16], {1: "JoinFailed"}]

    async def test_a_child_that_is_retried_comes_in_its_place(self) -> None:
        attempts: list[tuple[int, int]] = []

        @actor(name="square", retry=AGAIN)
        async def square_later(number: int, ctx: Context) -> int:
            attempts.append((number, ctx.attempt))
            if ctx.attempt <= number:
                raise OSError("busy")
            return number * number

        async with running(count, square_later, gather) as run:
            result = await run.result(3)

        assert result == [0, 1, 4]
        assert sorted(attempts) == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]

    @pytest.mark.parametrize("way", ["gives nothing", "stops", "goes elsewhere", "counts its own"])
    async def test_a_child_that_ends_elsewhere_is_missed(self, way: str) -> None:
        @actor(name="square")
        async def stray(number: int, ctx: Context) -> int | None:
            if number == 1 and way == "gives nothing":
                return None
            if number == 1:
                routes = {
                    "stops": [],
                    "goes elsewhere": ["last"],
                    "counts its own": ["count", "last"],
                }
                ctx.route.replace(*routes[way])
            return number + 1

        @actor
        async def last(number: int) -> int:
            return number

        async with running(count, stray, gather_some, last) as run:
            job = await run.submit(3, *ROUTE)
            result = await job.result(PATIENCE_S)
            told = await events(job)

        assert result == [[1, None, 3], {1: "JoinMissed"}]
        (missing,) = [event for event in told if event.kind == "missing"]
        assert missing.path == (1,)
        assert missing.error is not None
        assert missing.error.type == "JoinMissed"

    async def test_a_child_may_recover_into_its_join(self) -> None:
        @actor(name="square", retry=ONCE, on_exhausted=["gather"])
        async def square_or_not(number: int) -> int:
            return await square_even.handler(number)

        @actor(retry=ONCE, on_exhausted=["double", "gather"])
        async def cube(number: int) -> int:
            raise ValueError(number)

        @actor
        async def double(number: int, ctx: Context) -> int:
            assert ctx.error is not None
            return 2 * number

        async with running(count, square_or_not, cube, double, gather) as run:
            straight = await run.result(4, "count", "square", "gather")
            detour = await run.result(4, "count", "cube", "gather")

        assert straight == [0, 1, 4, 3]
        assert detour == [0, 2, 4, 6]


class TestTime:
    """The clock is the test's; what is lost is a message that somebody takes and never hands on."""

    async def submit_and_lose(self, run: Running, place: int, *route: str) -> Any:
        """Submit a job of which one child is lost at `lossy`, which no worker serves."""
        job = await run.submit(3, *route)
        async with run.transport.consume("lossy") as consumer:
            taken = 0
            while taken < 3:
                for delivery in await consumer.receive(1):
                    onward = [] if taken == place else [Send("square", on_square(delivery.message))]
                    await delivery.settle(*onward)
                    taken += 1
        await anyio.wait_all_tasks_blocked()
        return job

    async def test_a_join_goes_on_without_what_does_not_come_in_time(self) -> None:
        clock = ManualClock()
        options: Any = {"transport": MemoryTransport(clock), "remote": ["lossy"]}
        async with running(count, square, gather_some, **options) as run:
            job = await self.submit_and_lose(run, 1, "count", "lossy", "square", "gather")
            await clock.advance(59)
            assert await ends(run.transport) == []

            await clock.advance(1)

            assert await job.result(PATIENCE_S) == [[0, None, 4], {1: "JoinTimeout"}]

    async def test_a_join_that_needs_what_does_not_come_fails(self) -> None:
        clock = ManualClock()
        options: Any = {"transport": MemoryTransport(clock), "remote": ["lossy"]}
        async with running(count, square, gather, **options) as run:
            job = await self.submit_and_lose(run, 2, "count", "lossy", "square", "gather")

            await clock.advance(3600)

            with pytest.raises(JobFailed, match="JoinTimeout in gather: did not come in time"):
                await job.result(PATIENCE_S)

    async def test_children_that_nobody_joins_have_a_day_to_come(self) -> None:
        clock = ManualClock()
        transport = MemoryTransport(clock, retention_s=1e6)
        async with running(count, square, transport=transport, remote=["lossy"]) as run:
            job = await self.submit_and_lose(run, 0, "count", "lossy", "square")
            await clock.advance(86_399)
            assert await ends(run.transport) == []

            await clock.advance(1)

            with pytest.raises(JobFailed, match="JoinFailed in count: 1 of 3 children failed"):
                await job.result(PATIENCE_S)

    async def test_children_and_their_join_end_with_the_deadline(self) -> None:
        @actor(name="square", retry=ONCE)
        async def square_slowly(number: int) -> int:
            if number:
                await anyio.sleep_forever()
            return number

        async with running(count, square_slowly, gather_some) as run:
            began = time.monotonic()
            error = await error_of(run, 3, deadline_s=0.2)

        assert error.startswith("DeadlineExceeded in gather: the job's deadline passed")
        assert time.monotonic() - began < PATIENCE_S

    async def test_a_retry_that_comes_behind_the_deadline_ends_the_child_at_once(self) -> None:
        @actor(name="square", retry=RetryPolicy(backoff=fixed(60), jitter=0))
        async def square_later(number: int) -> int:
            raise OSError(f"too busy for {number}")

        async with running(count, square_later, gather_some) as run:
            result = await run.result(2, deadline_s=30)

        assert result == [[None, None], {0: "OSError", 1: "OSError"}]


def on_square(message: Message) -> Message:
    """Hand a message on by hand, as `lossy` would."""
    envelope, codec = decode_envelope(message.body)
    onward = replace(envelope, route=envelope.route.advance(), hops=envelope.hops + 1)
    return Message(encode_envelope(onward, codec))


class TestTheJoinsOwnHandler:
    async def test_runs_again_with_all_that_it_had(self) -> None:
        seen: list[Any] = []

        @actor(name="gather", join=Join(partial="pass"), retry=AGAIN)
        async def gather_later(numbers: list[int | None], ctx: Context) -> list[int | None]:
            seen.append((numbers, [*ctx.failures], ctx.attempt))
            if ctx.attempt < 3:
                raise OSError("busy")
            return numbers

        async with running(count, square_even, gather_later) as run:
            result = await run.result(3)

        assert result == [0, None, 4]
        assert seen == [([0, None, 4], [1], attempt) for attempt in (1, 2, 3)]

    async def test_may_recover_with_all_that_met(self) -> None:
        @actor(name="gather", join=Join(), on_exhausted=["last"])
        async def gather_all(numbers: list[int]) -> list[int]:
            return numbers

        @actor
        async def last(numbers: list[int | None], ctx: Context) -> Any:
            assert ctx.error is not None
            return numbers, ctx.error.type

        async with running(count, square_even, gather_all, last) as run:
            result = await run.result(3, *ROUTE)

        assert result == [[0, None, 4], "JoinFailed"]

    async def test_runs_again_once_its_worker_has_died(self) -> None:
        runs: list[Any] = []
        entered = anyio.Event()

        @actor(name="gather", join=Join())
        async def gather_or_die(numbers: list[int], ctx: Context) -> list[int]:
            runs.append((numbers, ctx.attempt))
            if len(runs) == 1:
                entered.set()
                await anyio.sleep_forever()
            return numbers

        app = App([count, square, gather_or_die])
        service = MemoryTransport()
        async with service, app.connect(service.share()) as client:
            job = await client.submit(ROUTE, 3)
            await die_once(app, service.share(), entered)
            async with app.worker(service.share()):
                result = await job.result(PATIENCE_S)

            assert result == [0, 1, 4]
            assert runs == [([0, 1, 4], 1), ([0, 1, 4], 2)]
            assert await ends(service) == ["succeeded"]

    async def test_meets_all_siblings_though_a_worker_died_with_some(self) -> None:
        runs: list[int] = []
        entered = anyio.Event()

        @actor(name="square")
        async def square_or_die(number: int) -> int:
            runs.append(number)
            if runs == [0, 1, 2]:
                entered.set()
            if number and not revived:
                await anyio.sleep_forever()
            return number * number

        revived: list[bool] = []
        app = App([count, square_or_die, gather])
        service = MemoryTransport()
        async with service, app.connect(service.share()) as client:
            job = await client.submit(ROUTE, 3)
            await die_once(app, service.share(), entered)
            revived.append(True)
            async with app.worker(service.share()) as worker:
                result = await job.result(PATIENCE_S)

            assert result == [0, 1, 4]
            assert sorted(runs) == [0, 1, 1, 2, 2]
            assert worker.metrics.actor("gather").outcomes["finished"] == 1
            assert await ends(service) == ["succeeded"]


@contextmanager
def closed_underneath() -> Generator[None]:
    """Let a worker end because its transport did."""
    try:
        yield
    except* TransportClosed:
        pass


async def die_once(app: App, transport: MemoryTransport, entered: anyio.Event) -> None:
    """Serve an app until a handler has begun, and die with it in hand."""
    with closed_underneath():
        async with app.worker(transport, drain_timeout_s=0):
            await entered.wait()
            await transport.crash()
            await anyio.sleep_forever()


class TestCancelling:
    @pytest.mark.parametrize("route", [ROUTE, ("count", "square")], ids=["joined", "gathered"])
    async def test_a_job_ends_once_all_its_children_were_dropped(
        self, route: tuple[str, ...]
    ) -> None:
        running_: set[int] = set()

        @actor(name="square", concurrency=2)
        async def square_never(number: int) -> int:
            running_.add(number)
            await anyio.sleep_forever()
            return number

        async with running(count, square_never, gather_some) as run:
            job = await run.submit(5, *route)
            await becomes(lambda: len(running_) == 2)

            await job.cancel()

            with pytest.raises(JobCancelled):
                await job.result(PATIENCE_S)
            assert await ends(run.transport) == ["cancelled"]
            assert running_ == {0, 1}, "those in the queue have not run"
            assert run.outcomes("square") == {"cancelled": 5}
            assert run.worker.metrics.actor("gather").outcomes.get("finished", 0) == 0
            assert (await run.transport.lag("asyafw.dead-letters")).arrived == 0

    async def test_a_child_that_has_ended_before_changes_nothing(self) -> None:
        @actor(name="square")
        async def square_one(number: int) -> int:
            if number:
                await anyio.sleep_forever()
            return number

        async with running(count, square_one, gather_some) as run:
            job = await run.submit(2)
            await becomes(lambda: run.outcomes("square") == {"forwarded": 1})

            await job.cancel()

            with pytest.raises(JobCancelled):
                await job.result(PATIENCE_S)
            assert await ends(run.transport) == ["cancelled"]

    async def test_a_join_that_runs_is_interrupted(self) -> None:
        entered = anyio.Event()

        @actor(name="gather", join=Join())
        async def gather_never(numbers: list[int]) -> list[int]:
            entered.set()
            await anyio.sleep_forever()
            return numbers

        async with running(count, square, gather_never) as run:
            job = await run.submit(2)
            await entered.wait()

            await job.cancel()

            with pytest.raises(JobCancelled):
                await job.result(PATIENCE_S)
            assert await ends(run.transport) == ["cancelled"]

    async def test_a_child_that_waits_to_run_again_is_dropped_when_its_time_comes(self) -> None:
        clock = ManualClock()

        @actor(name="square", retry=RetryPolicy(backoff=fixed(30), jitter=0))
        async def square_later(number: int) -> int:
            raise OSError(f"too busy for {number}")

        transport = MemoryTransport(clock)
        async with running(count, square_later, gather_some, transport=transport) as run:
            job = await run.submit(2)
            await becomes(lambda: run.outcomes("square") == {"retried": 2})
            await job.cancel()

            await clock.advance(30)

            with pytest.raises(JobCancelled):
                await job.result(PATIENCE_S)
            assert run.outcomes("square") == {"retried": 2, "cancelled": 2}


class TestWhatComesTooLate:
    async def test_a_child_that_is_replayed_after_the_join_changes_nothing(self) -> None:
        async with running(count, square_even, gather_some) as run:
            job = await run.submit(2)
            await job.result(PATIENCE_S)
            (letter,) = await run.letters()

            again = encode_envelope(replace(letter, error=None, payload=letter.payload), MSGPACK)
            await run.transport.emit(Send("square", Message(again)))
            await becomes(lambda: run.outcomes("square").get("failed") == 2)

            assert await ends(run.transport) == ["succeeded"]
            assert run.outcomes("gather") == {"finished": 1}

    async def test_a_child_that_is_handed_on_twice_counts_once(self) -> None:
        gate = anyio.Event()

        @actor(name="square")
        async def square_when_told(number: int) -> int:
            await gate.wait()
            return number * number

        async with running(count, gather, remote=["square"]) as run:
            job = await run.submit(3, *ROUTE)
            async with run.transport.consume("square") as consumer:
                copies = [d.message for d in await consumer.receive(3)]
            serving = App([square_when_told], remote=["gather"])
            async with serving.worker(run.transport.share()) as worker:
                await run.transport.emit(*[Send("square", copy) for copy in copies])
                gate.set()
                result = await job.result(PATIENCE_S)
                handled = worker.metrics.actor("square").outcomes
                await becomes(lambda: sum(handled.values()) == 6)

            assert result == [0, 1, 4]
            assert run.outcomes("gather") == {"finished": 1}
            assert await ends(run.transport) == ["succeeded"]


class TestEvents:
    async def test_of_children_that_nobody_joins_each_end_is_told(self) -> None:
        async with running(count, square) as run:
            told = await events(await run.submit(3))

        assert sorted(event.path for event in told if event.kind == "child") == [(0,), (1,), (2,)]
        assert [(event.kind, event.children) for event in (told[1], told[-1])] == [
            ("hop", 3),
            ("succeeded", 3),
        ]

    async def test_of_siblings_that_meet_only_their_hops_are_told(self) -> None:
        async with running(count, square, gather) as run:
            with_hops = await kinds(await run.submit(2))
        async with running(count, square, gather, events="jobs") as run:
            jobs_only = await kinds(await run.submit(2))

        assert with_hops == ["accepted", "hop", "hop", "hop", "succeeded"]
        assert jobs_only == ["accepted", "succeeded"]


def retrying(each: Actor[..., Any], retry: RetryPolicy) -> Actor[..., Any]:
    """Make an actor that is the same but for its policy."""
    if each.join is None:
        return Actor(each.handler, name=each.name, retry=retry)
    return Actor(each.handler, name=each.name, retry=retry, join=each.join)


class Storm:
    """Workers that die and come back, handlers that fail, jobs that are cancelled."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.over = anyio.Event()
        self.service = MemoryTransport(log_capacity=1_000_000)
        retry = RetryPolicy(max_attempts=5, backoff=fixed(0.001))
        actors = [retrying(each, retry) for each in fan_outs.ACTORS]
        self.app = App(actors, middleware=[self.fail_at_times])

    async def fail_at_times(self, payload: Any, ctx: Context, call_next: Handler) -> Any:
        if self.random.random() < 0.1:
            raise OSError("early")
        await anyio.sleep(self.random.random() * 0.005)
        result = await call_next(payload, ctx)
        if self.random.random() < 0.05:
            raise OSError("late")
        return result

    async def work(self) -> None:
        while not self.over.is_set():
            transport = self.service.share()
            worker = self.app.worker(transport, drain_timeout_s=0.01, max_deliveries=100)
            with closed_underneath():
                async with worker:
                    with anyio.move_on_after(self.random.random() * 0.2):
                        await self.over.wait()
                        return
                    await transport.crash()
                    await anyio.sleep_forever()

    async def submit(self, client: Client) -> None:
        route = self.random.choices(list(self.app.actors), k=self.random.randint(1, 5))
        job = await client.submit(route, 0)
        if self.random.random() < 0.3:
            await anyio.sleep(self.random.random() * 0.02)
            await job.cancel()
        with suppress(JobFailed, JobCancelled):
            assert await job.result(PATIENCE_S) == fan_outs.expected(route, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_every_job_ends_once_whatever_fails(seed: int) -> None:
    storm = Storm(seed)

    async with storm.service, anyio.create_task_group() as workers:
        for _ in range(3):
            workers.start_soon(storm.work)
        async with (
            storm.app.connect(storm.service.share()) as client,
            anyio.create_task_group() as jobs,
        ):
            for _ in range(100):
                jobs.start_soon(storm.submit, client)
        storm.over.set()
        ended = await ends(storm.service)
        lags = [await storm.service.lag(name) for name in storm.app.actors]

        assert len(ended) == 100
        assert ended.count("succeeded") > 50
        assert {(lag.backlog, lag.delayed) for lag in lags} == {(0, 0)}
