import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from math import inf, nan
from typing import Any, Self

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from asyafw import App, Client, Context, Job, Join, Limits, RetryPolicy, actor, fixed
from asyafw.client import Catalogue
from asyafw.client._client import _derived_id
from asyafw.envelope import JSON, MSGPACK, Failure
from asyafw.events import EVENTS, Event, Kind, append
from asyafw.exceptions import (
    ConfigurationError,
    InvalidName,
    JobCancelled,
    JobError,
    JobFailed,
    LimitExceeded,
    PayloadError,
    ResultTimeout,
    TransportClosed,
    TransportUnavailable,
    UnknownActor,
    UnknownFlow,
)
from asyafw.memory import MemoryTransport
from asyafw.testing import ManualClock, Running, running
from asyafw.transport import Append, Consumer, Entry, Lag, Out

PATIENCE_S = 5.0


class Photo(msgspec.Struct):
    uri: str
    score: float | None = None


class Report(msgspec.Struct, forbid_unknown_fields=True):
    text: str


@actor
async def enhance(photo: Photo) -> Photo:
    return Photo(photo.uri, 0.5)


@actor
async def judge(photo: Photo) -> Report:
    return Report(f"{photo.uri}: {photo.score}")


@actor
async def refuse(photo: Photo) -> Photo:
    raise ValueError(f"{photo.uri} is too dark")


@actor
async def store(photo: Photo) -> None:
    del photo


@actor
async def crop(photo: Photo) -> AsyncIterator[Photo]:
    yield Photo(f"{photo.uri}#left")
    yield Photo(f"{photo.uri}#right")


@actor(join=Join())
async def collect(photos: list[Photo]) -> None:
    del photos


class Gate:
    """A handler that reports to the test, and waits until it is let through."""

    def __init__(self) -> None:
        self.runs = 0
        self.entered = anyio.Event()
        self.opened = anyio.Event()
        self.interrupted = False

    async def __call__(self, photo: Photo, ctx: Context) -> Photo:
        self.runs += 1
        await ctx.progress(0.5, "half way")
        self.entered.set()
        try:
            await self.opened.wait()
        except BaseException:
            self.interrupted = True
            raise
        return photo


APP = App(
    [enhance, judge, refuse, store, crop, collect],
    {"photos": ["enhance", "judge"], "shots": ["enhance"]},
)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A client of `APP`, which a worker serves."""
    async with running(APP) as test:
        yield test.client


@pytest.fixture
async def alone() -> AsyncIterator[Client]:
    """A client of `APP`, which nobody serves."""
    async with APP.connect(MemoryTransport()) as client:
        yield client


def gated(gate: Gate, **options: Any) -> App:
    """An app whose handlers wait."""
    return App([actor(name="gate", **options)(gate)])


async def kinds(job: Job) -> list[str]:
    """What happened to a job, which ends."""
    with anyio.fail_after(PATIENCE_S):
        return [event.kind async for event in job.events()]


class TestSubmitting:
    async def test_a_job_takes_the_route_of_its_flow(self, client: Client) -> None:
        job = await client.submit("photos", Photo("cat"))

        assert await job.result(PATIENCE_S) == Report("cat: 0.5")

    @pytest.mark.parametrize("route", [["judge"], ("judge",)])
    async def test_a_job_takes_the_route_that_is_given(self, client: Client, route: Any) -> None:
        job = await client.submit(route, Photo("cat", 1.0))

        assert await job.result(PATIENCE_S) == Report("cat: 1.0")

    async def test_what_is_accepted_is_told(self, client: Client) -> None:
        by_flow = await client.submit("photos", Photo("cat"))
        by_route = await client.submit(["enhance"], Photo("cat"))

        accepted = [await anext(job.events()) for job in (by_flow, by_route)]

        assert [event.kind for event in accepted] == ["accepted"] * 2
        assert [event.flow for event in accepted] == ["photos", None]
        assert [event.next for event in accepted] == [("enhance", "judge"), ("enhance",)]
        assert [event.id for event in accepted] == [by_flow.id, by_route.id]
        assert repr(by_flow) == f"<job {by_flow.id}>"

    async def test_a_payload_may_be_whatever_encodes_to_its_type(self, client: Client) -> None:
        job = await client.submit("shots", {"uri": "cat"})

        assert await job.result(PATIENCE_S) == Photo("cat", 0.5)

    @pytest.mark.parametrize(
        ("payload", "problem"),
        [
            ({"uri": 5}, r"does not fit enhance: Expected `str`, got `int` - at `\$.uri`"),
            ({}, "does not fit enhance: Object missing required field `uri`"),
            ({"uri": object()}, "does not fit enhance: Encoding objects of type object"),
            ({"uri": "\ud800"}, "does not fit enhance: .*surrogates"),
        ],
    )
    async def test_a_payload_that_does_not_fit_is_refused_with_the_place(
        self, alone: Client, payload: Any, problem: str
    ) -> None:
        with pytest.raises(PayloadError, match=problem):
            await alone.submit("photos", payload)
        assert (await alone.transport.lag("enhance")).backlog == 0

    async def test_the_payload_of_a_remote_actor_is_not_looked_into(self) -> None:
        app = App([judge], remote=["enhance"])

        async with app.connect(MemoryTransport()) as client:
            await client.submit(["enhance"], {"uri": 5})

            assert (await client.transport.lag("enhance")).backlog == 1

    @pytest.mark.parametrize(
        ("flow", "hint"),
        [
            ("photo", "there is no flow 'photo'; did you mean 'photos'?"),
            ("films", "there is no flow 'films'; there are photos, shots"),
            ("judge", r"'judge' is an actor and no flow: submit to the route \['judge'\]"),
        ],
    )
    async def test_an_unknown_flow_is_refused_with_a_hint(
        self, alone: Client, flow: str, hint: str
    ) -> None:
        with pytest.raises(UnknownFlow, match=f"^{hint}".replace("?", r"\?")):
            await alone.submit(flow, Photo("cat"))

    async def test_where_there_are_no_flows_this_is_said(self) -> None:
        async with App([judge]).connect(MemoryTransport()) as client:
            with pytest.raises(UnknownFlow, match="there is no flow 'films'; there are none"):
                await client.submit("films", Photo("cat"))

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("enhanc", "there is no actor 'enhanc'; did you mean 'enhance'?"),
            ("x", "there is no actor 'x'; there are collect, crop, enhance, judge, refuse, store"),
        ],
    )
    async def test_an_unknown_actor_is_refused_with_a_hint(
        self, alone: Client, name: str, hint: str
    ) -> None:
        with pytest.raises(UnknownActor) as raised:
            await alone.submit(["enhance", name], Photo("cat"))
        assert str(raised.value) == hint

    async def test_a_flow_to_an_unknown_actor_is_refused_without_any_worker(self) -> None:
        async with App([judge], {"photos": ["enhance"]}).connect(MemoryTransport()) as client:
            with pytest.raises(UnknownActor, match="there is no actor 'enhance'"):
                await client.submit("photos", Photo("cat"))

    async def test_a_client_that_knows_no_actors_submits_to_any(self) -> None:
        async with Client(MemoryTransport(), Catalogue()) as client:
            await client.submit(["anywhere"], 5)

            assert (await client.transport.lag("anywhere")).backlog == 1

    async def test_a_name_that_is_none_is_refused(self) -> None:
        async with Client(MemoryTransport(), Catalogue()) as client:
            with pytest.raises(InvalidName):
                await client.submit(["Enhance"], 5)

    async def test_a_route_leads_somewhere(self, alone: Client) -> None:
        with pytest.raises(ConfigurationError, match="a route names at least one actor"):
            await alone.submit([], Photo("cat"))
        async with App([judge], {"photos": []}).connect(MemoryTransport()) as client:
            with pytest.raises(ConfigurationError, match="a route names at least one actor"):
                await client.submit("photos", Photo("cat"))

    async def test_a_route_is_no_longer_than_the_limit(self) -> None:
        async with App([enhance], limits=Limits(route=3)).connect(MemoryTransport()) as client:
            await client.submit(["enhance"] * 3, Photo("cat"))
            with pytest.raises(LimitExceeded, match="the route holds more than 3 names"):
                await client.submit(["enhance"] * 4, Photo("cat"))

    async def test_a_large_payload_is_refused_with_what_to_do(self) -> None:
        app = App([enhance], limits=Limits(payload_bytes=100))

        async with app.connect(MemoryTransport()) as client:
            with pytest.raises(LimitExceeded, match=r"more than the 100 .* set App\(blobs=...\)"):
                await client.submit(["enhance"], Photo("x" * 100))

    async def test_headers_and_deadline_reach_the_handler(self) -> None:
        seen: list[Any] = []

        @actor
        async def look(photo: Photo, ctx: Context) -> Photo:
            seen.append((ctx.headers, ctx.deadline, ctx.envelope.created_at))
            return photo

        async with running(App([look])) as test:
            options: Any = {"headers": {"tenant": "acme"}, "deadline_s": 60}
            await (await test.client.submit(["look"], Photo("cat"), **options)).result(PATIENCE_S)
            await (await test.client.submit(["look"], Photo("cat"))).result(PATIENCE_S)

        (headers, deadline, created), (no_headers, no_deadline, _) = seen
        assert (headers, no_headers) == ({"tenant": "acme"}, {})
        assert deadline == pytest.approx(created + 60)
        assert no_deadline is None

    async def test_a_job_without_any_time_left_fails(self, client: Client) -> None:
        job = await client.submit("photos", Photo("cat"), deadline_s=0)

        with pytest.raises(JobFailed, match="DeadlineExceeded in enhance: the job's deadline"):
            await job.result(PATIENCE_S)

    @pytest.mark.parametrize("deadline_s", [-0.1, nan, inf, 2e9])
    async def test_a_deadline_that_is_none_is_refused(
        self, alone: Client, deadline_s: float
    ) -> None:
        with pytest.raises(ConfigurationError, match="deadline_s is between 0 and 1e"):
            await alone.submit("photos", Photo("cat"), deadline_s=deadline_s)

    @pytest.mark.parametrize("headers", [{"score": 1}, {1: "score"}, {"tenant": None}])
    async def test_headers_that_are_no_text_are_refused(self, alone: Client, headers: Any) -> None:
        with pytest.raises(ConfigurationError, match="headers map text to text, not "):
            await alone.submit("photos", Photo("cat"), headers=headers)

    async def test_a_job_that_was_not_accepted_is_forgotten(self) -> None:
        transport = Flaky()
        async with APP.connect(transport) as client:
            transport.failure = TransportUnavailable("the broker is away")

            with pytest.raises(TransportUnavailable):
                await client.submit("photos", Photo("cat"))

            transport.failure = None  # whose traceback holds on to the call
            gc.collect()
            assert not client._watched


class TestSubmittingOnce:
    async def test_submissions_with_one_key_are_one_job_with_the_first_payload(self) -> None:
        gate = Gate()
        async with running(gated(gate)) as test:
            submit = test.client.submit
            first = await submit(["gate"], Photo("cat"), idempotency_key="k")
            again = await submit(["gate"], Photo("dog"), idempotency_key="k")
            gate.opened.set()
            results = [await job.result(PATIENCE_S) for job in (first, again)]

        assert first.id == again.id
        assert results == [Photo("cat")] * 2
        assert gate.runs == 1

    async def test_a_repeated_submission_finds_a_job_that_has_ended(self) -> None:
        async with running(APP) as test, APP.connect(test.transport.share()) as other:
            first = await test.client.submit("shots", Photo("cat"), idempotency_key="k")
            await first.result(PATIENCE_S)
            del first

            here = await test.client.submit("shots", Photo("dog"), idempotency_key="k")
            there = await other.submit("shots", Photo("dog"), idempotency_key="k")

            assert await here.result(PATIENCE_S) == Photo("cat", 0.5)
            assert await there.result(PATIENCE_S) == Photo("cat", 0.5)

    async def test_a_job_is_accepted_once(self) -> None:
        gate = Gate()
        async with running(gated(gate)) as test:
            job = await test.client.submit(["gate"], Photo("cat"), idempotency_key="k")
            await test.client.submit(["gate"], Photo("cat"), idempotency_key="k")
            gate.opened.set()

            assert (await kinds(job)).count("accepted") == 1

    async def test_other_keys_and_other_targets_are_other_jobs(self, alone: Client) -> None:
        jobs = [
            await alone.submit(target, Photo("cat"), idempotency_key=key)
            for target in ("shots", ["enhance"], ["enhance", "judge"])
            for key in ("a", "b")
        ]

        assert len({job.id for job in jobs}) == 6

    names = st.lists(st.sampled_from("ab"), min_size=1, max_size=3)
    submissions = st.tuples(names, st.none() | st.sampled_from("ab"), st.text("ab/", max_size=6))

    @given(submissions, submissions)
    def test_no_two_submissions_have_one_id_unless_they_are_the_same(
        self, first: tuple[Any, Any, str], second: tuple[Any, Any, str]
    ) -> None:
        assert (_derived_id(*first) == _derived_id(*second)) == (first == second)


class TestResults:
    async def test_a_result_is_decoded_as_its_last_actor_declares(self, client: Client) -> None:
        job = await client.submit(["enhance"], Photo("cat"))

        assert await job.result(PATIENCE_S) == Photo("cat", 0.5)

    async def test_a_result_can_be_decoded_as_another_type(self, client: Client) -> None:
        class Address(msgspec.Struct):
            uri: str

        job = await client.submit(["enhance"], Photo("cat"))

        assert await job.result(PATIENCE_S, type=Address) == Address("cat")
        assert await job.result(PATIENCE_S, type=dict) == {"uri": "cat", "score": 0.5}
        with pytest.raises(PayloadError, match="the result is something else: Expected `array`"):
            await job.result(PATIENCE_S, type=list)

    async def test_a_handler_that_gives_nothing_ends_with_its_payload(self, client: Client) -> None:
        job = await client.submit(["store"], Photo("cat"))

        assert await job.result(PATIENCE_S) == Photo("cat")

    async def test_a_join_that_gives_nothing_ends_with_what_met(self, client: Client) -> None:
        several = await client.submit(["crop", "collect"], Photo("cat"))
        single = await client.submit(["collect"], Photo("cat"))

        assert await several.result(PATIENCE_S) == [Photo("cat#left"), Photo("cat#right")]
        assert await single.result(PATIENCE_S) == {"uri": "cat", "score": None}

    async def test_what_children_give_is_a_list(self, client: Client) -> None:
        job = await client.submit(["crop", "judge"], Photo("cat"))

        assert await job.result(PATIENCE_S) == [Report("cat#left: None"), Report("cat#right: None")]

    async def test_the_result_of_an_unknown_actor_is_plain_data(self) -> None:
        mine = App([enhance], remote=["judge"])

        async with running(APP) as test, mine.connect(test.transport.share()) as client:
            job = await client.submit(["enhance", "judge"], Photo("cat"))

            assert await job.result(PATIENCE_S) == {"text": "cat: 0.5"}

    async def test_either_codec_gives_the_same_results(self) -> None:
        service = MemoryTransport()
        catalogue = msgspec.structs.replace(APP.connect(service).catalogue, codec=JSON)
        async with APP.worker(service.share()), Client(service, catalogue) as client:
            job = await client.submit(["crop", "judge"], Photo("cat"))
            result = await job.result(PATIENCE_S)

        assert result == [Report("cat#left: None"), Report("cat#right: None")]

    async def test_a_failure_tells_its_reason(self, client: Client) -> None:
        job = await client.submit(["refuse"], Photo("cat"), deadline_s=0.5)

        with pytest.raises(JobFailed) as raised:
            await job.result(PATIENCE_S)

        assert raised.value.job == job.id
        assert str(raised.value) == "ValueError in refuse: cat is too dark"
        assert raised.value.error.traceback.endswith("ValueError: cat is too dark\n")

    async def test_who_does_not_wait_long_enough_can_wait_again(self) -> None:
        gate = Gate()
        async with running(gated(gate)) as test:
            job = await test.client.submit(["gate"], Photo("cat"))

            with pytest.raises(ResultTimeout, match=f"job {job.id} did not end in 0.01 s") as late:
                await job.result(0.01)
            with pytest.raises(TimeoutError):
                await job.result(0)
            gate.opened.set()

            assert late.value.job == job.id
            assert await job.result(PATIENCE_S) == Photo("cat")

    async def test_a_known_result_needs_no_time(self, client: Client) -> None:
        job = await client.submit("shots", Photo("cat"))
        await job.result(PATIENCE_S)

        assert await job.result(0) == Photo("cat", 0.5)

    async def test_any_number_may_wait_for_a_result(self, client: Client) -> None:
        results: list[Any] = []

        async def wait(job: Job) -> None:
            results.append(await job.result(PATIENCE_S))

        async with anyio.create_task_group() as tasks:
            job = await client.submit("shots", Photo("cat"))
            for _ in range(5):
                tasks.start_soon(wait, job)

        assert results == [Photo("cat", 0.5)] * 5

    async def test_a_thousand_jobs_at_a_time_get_their_own_results(self, client: Client) -> None:
        results: dict[int, Any] = {}

        async def run(number: int) -> None:
            job = await client.submit("shots", Photo(str(number)))
            results[number] = await job.result(PATIENCE_S)

        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(run, number)

        assert results == {number: Photo(str(number), 0.5) for number in range(1000)}

    async def test_a_result_that_the_log_has_lost_is_missed(self) -> None:
        short = MemoryTransport(log_capacity=2)
        async with APP.worker(short), APP.connect(short.share()) as client:
            job = await client.submit(["crop", "judge"], Photo("cat"))
            await job.result(PATIENCE_S)
            async with APP.connect(short.share()) as late:
                error = await outcome(late.job(job.id).result)

        assert isinstance(error, JobError)
        assert str(error) == "the result of child (0,) is not in the log"

    @pytest.mark.parametrize("type_", [None, str])
    async def test_a_result_that_cannot_be_read_is_refused(
        self, alone: Client, type_: type | None
    ) -> None:
        bad_utf8 = Raw(b"\xa2\xff\xfe")
        job = await alone.submit("shots", Photo("cat"))

        await tell(alone, job, "succeeded", payload=bad_utf8, actor="enhance")

        with pytest.raises(PayloadError, match="the result is something else: "):
            await job.result(PATIENCE_S, type=type_)

    async def test_an_end_without_a_result_gives_none(self, alone: Client) -> None:
        job = await alone.submit("shots", Photo("cat"))

        await tell(alone, job, "succeeded", actor="store")

        assert await job.result(PATIENCE_S) is None


async def tell(client: Client, job: Job, kind: Kind, **fields: Any) -> None:
    """Tell of a job what no worker did."""
    event = Event(kind=kind, job=job.id, id=job.id, at=1.0, **fields)
    await client.transport.emit(append(event, MSGPACK))


class TestEvents:
    async def test_events_begin_with_the_first_even_if_read_late(self, client: Client) -> None:
        job = await client.submit("photos", Photo("cat"))
        await job.result(PATIENCE_S)

        assert await kinds(job) == ["accepted", "hop", "succeeded"]
        assert await kinds(job) == ["accepted", "hop", "succeeded"]

    async def test_events_come_as_they_happen_to_every_reader(self) -> None:
        gate = Gate()
        read: list[list[str]] = [[], []]

        async def follow(job: Job, kinds: list[str]) -> None:
            async for event in job.events():
                kinds.append(event.kind)  # noqa: PERF401 — one by one, as they come

        async with running(gated(gate)) as test, anyio.create_task_group() as tasks:
            job = await test.client.submit(["gate"], Photo("cat"))
            for each in read:
                tasks.start_soon(follow, job, each)
            with anyio.fail_after(PATIENCE_S):
                while read != [["accepted", "progress"]] * 2:
                    await checkpoint()
            gate.opened.set()

        assert read == [["accepted", "progress", "succeeded"]] * 2

    async def test_what_is_no_event_is_passed_over(self, alone: Client) -> None:
        job = await alone.submit("shots", Photo("cat"))
        await alone.transport.emit(
            *(Append(EVENTS, body) for body in (b"", b"nonsense", b"{", b"\xc1", JSON.encode({}))),
            Append(EVENTS, MSGPACK.encode({"job": job.id, "kind": "vanished"})),
            Append(EVENTS, MSGPACK.encode({"job": job.id})),
        )

        await tell(alone, job, "failed", error=Failure("ValueError", "too dark", "enhance"))

        assert await kinds(job) == ["accepted", "failed"]

    async def test_nothing_follows_the_end(self, alone: Client) -> None:
        job = await alone.submit("shots", Photo("cat"))
        await tell(alone, job, "cancelled")
        await tell(alone, job, "succeeded", payload=Raw(MSGPACK.encode(5)))

        with pytest.raises(JobCancelled):
            await job.result(PATIENCE_S)
        await anyio.wait_all_tasks_blocked()

        assert await kinds(job) == ["accepted", "cancelled"]
        with pytest.raises(JobCancelled):
            await job.result(PATIENCE_S)

    async def test_a_transport_that_is_slow_to_begin_misses_nothing(self) -> None:
        transport = Flaky()
        transport.begins = anyio.Event()
        async with APP.worker(transport.service.share()), APP.connect(transport) as client:
            job = await client.submit("shots", Photo("cat"))
            await anyio.wait_all_tasks_blocked()
            transport.begins.set()

            assert await job.result(PATIENCE_S) == Photo("cat", 0.5)

    async def test_a_transport_that_was_away_misses_nothing(self) -> None:
        transport = Flaky()
        async with APP.worker(transport.service.share()), APP.connect(transport) as client:
            first = await client.submit("shots", Photo("cat"))
            await first.result(PATIENCE_S)
            transport.failures_to_read = 1
            job = await client.submit("shots", Photo("dog"))

            assert await job.result(PATIENCE_S) == Photo("dog", 0.5)


class Flaky:
    """A handle on a memory transport that does not work at times."""

    def __init__(self) -> None:
        self.service = MemoryTransport()
        self.failure: Exception | None = None
        self.failures_to_read = 0
        self.begins: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        await self.service.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.service.__aexit__(*exc_info)

    async def emit(self, *out: Out) -> None:
        if self.failure is not None:
            raise self.failure
        await self.service.emit(*out)

    def consume(self, queue: str) -> AbstractAsyncContextManager[Consumer]:
        return self.service.consume(queue)

    async def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        """Look where to begin only when this is read, as some services do."""
        if self.begins is not None:
            await self.begins.wait()
        async for entry in self.service.tail(log, since_s=since_s, after=after):
            if self.failures_to_read:
                self.failures_to_read -= 1
                raise TransportUnavailable("the connection is gone")
            yield entry

    async def lag(self, queue: str) -> Lag:
        return await self.service.lag(queue)


class TestFollowing:
    async def test_a_job_can_be_followed_from_elsewhere(self) -> None:
        gate = Gate()
        app = gated(gate)
        async with running(app) as test, app.connect(test.transport.share()) as other:
            job = await test.client.submit(["gate"], Photo("cat"))
            found = other.job(job.id)
            early = await anext(found.events())
            gate.opened.set()

            assert found.id == job.id
            assert early.kind == "accepted"
            assert await found.result(PATIENCE_S) == Photo("cat")

    async def test_a_job_that_has_ended_can_be_looked_up(self) -> None:
        async with running(APP) as test, APP.connect(test.transport.share()) as other:
            job = await test.client.submit("photos", Photo("cat"))
            await job.result(PATIENCE_S)

            found = other.job(job.id)

            assert await found.result(PATIENCE_S) == Report("cat: 0.5")
            assert await kinds(found) == ["accepted", "hop", "succeeded"]

    async def test_who_forgot_a_job_can_look_it_up(self, client: Client) -> None:
        job = await client.submit("photos", Photo("cat"))
        await job.result(PATIENCE_S)
        id_ = job.id
        del job
        gc.collect()

        assert await client.job(id_).result(PATIENCE_S) == Report("cat: 0.5")

    async def test_a_job_is_kept_once_however_often_it_is_looked_up(self, client: Client) -> None:
        own = await client.submit("photos", Photo("cat"))
        jobs = [client.job("elsewhere"), client.job("elsewhere"), client.job(own.id)]

        assert jobs[0]._record is jobs[1]._record
        assert jobs[2]._record is own._record

    async def test_a_job_that_nobody_knows_does_not_end(self, client: Client) -> None:
        with pytest.raises(ResultTimeout):
            await client.job("nobody").result(0.01)


def readers() -> int:
    """How many jobs' pasts are being read."""
    return sum((task.name or "").startswith("asyafw job ") for task in anyio.get_running_tasks())


class TestForgetting:
    async def test_a_job_that_nobody_holds_is_forgotten(self, client: Client) -> None:
        for _ in range(10):
            await client.submit("shots", Photo("cat"))
            client.job("elsewhere")
        await anyio.wait_all_tasks_blocked()
        gc.collect()

        assert len(client._watched) + len(client._replayed) == 0

    async def test_what_is_not_asked_for_is_not_read(self, client: Client) -> None:
        job = client.job("elsewhere")
        await client.submit("shots", Photo("cat"), idempotency_key="k")
        await anyio.wait_all_tasks_blocked()

        assert readers() == 0
        assert job.id == "elsewhere"

    async def test_what_nobody_waits_for_any_more_is_not_read_on(self, client: Client) -> None:
        job = client.job("elsewhere")
        with pytest.raises(ResultTimeout):
            await job.result(0.01)
        assert readers() == 1

        del job
        gc.collect()
        await client.submit("shots", Photo("cat"))
        await anyio.wait_all_tasks_blocked()

        assert readers() == 0

    async def test_a_past_that_has_ended_is_not_read_on(self) -> None:
        async with running(APP) as test, APP.connect(test.transport.share()) as other:
            job = await test.client.submit("shots", Photo("cat"))
            found = other.job(job.id)
            await found.result(PATIENCE_S)
            await anyio.wait_all_tasks_blocked()

            assert readers() == 0


class TestCancelling:
    async def test_a_running_handler_is_interrupted(self) -> None:
        gate = Gate()
        async with running(gated(gate)) as test:
            job = await test.client.submit(["gate"], Photo("cat"))
            await gate.entered.wait()

            await job.cancel()

            with pytest.raises(JobCancelled, match=f"job {job.id} was cancelled"):
                await job.result(PATIENCE_S)
            assert gate.interrupted
            assert (await kinds(job))[-1] == "cancelled"
            assert await test.dead_letters() == []

    async def test_a_queued_message_is_dropped(self) -> None:
        gate = Gate()
        async with running(gated(gate, concurrency=1)) as test:
            first = await test.client.submit(["gate"], Photo("cat"))
            second = await test.client.submit(["gate"], Photo("dog"))
            await gate.entered.wait()

            await second.cancel()
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()

            assert await first.result(PATIENCE_S) == Photo("cat")
            with pytest.raises(JobCancelled):
                await second.result(PATIENCE_S)
            assert gate.runs == 1

    async def test_a_message_that_waits_to_run_again_is_dropped_when_its_time_comes(self) -> None:
        clock = ManualClock()

        @actor(retry=RetryPolicy(backoff=fixed(60), jitter=0))
        async def fail(photo: Photo) -> Photo:
            raise OSError(photo.uri)

        async with running(App([fail]), clock=clock) as test:
            job = await test.client.submit(["fail"], Photo("cat"))
            await until(job, "retried")

            await job.cancel()
            await clock.advance(60)

            assert await kinds(job) == ["accepted", "retried", "cancelled"]

    async def test_a_job_can_be_cancelled_from_elsewhere_by_its_id(self) -> None:
        gate = Gate()
        app = gated(gate)
        async with running(app) as test, app.connect(test.transport.share()) as other:
            job = await test.client.submit(["gate"], Photo("cat"))
            await gate.entered.wait()

            await other.cancel(job.id)

            with pytest.raises(JobCancelled):
                await job.result(PATIENCE_S)

    async def test_a_job_that_has_ended_stays_as_it_is(self, client: Client) -> None:
        job = await client.submit("shots", Photo("cat"))
        await job.result(PATIENCE_S)

        await job.cancel()
        await anyio.wait_all_tasks_blocked()

        assert await job.result(PATIENCE_S) == Photo("cat", 0.5)
        assert await kinds(job) == ["accepted", "succeeded"]


async def until(job: Job, kind: str) -> None:
    """Wait until something has happened to a job."""
    with anyio.fail_after(PATIENCE_S):
        async for event in job.events():
            if event.kind == kind:
                return


async def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or raises."""
    try:
        return await call()
    except Exception as error:  # noqa: BLE001 — the test looks at it
        return error


class TestClosing:
    async def test_those_who_wait_are_told_that_the_client_is_closed(self) -> None:
        outcomes: list[Any] = []
        jobs: list[Job] = []

        async def wait(call: Callable[[], Any]) -> None:
            outcomes.append(await outcome(call))

        async with anyio.create_task_group() as tasks, APP.connect(MemoryTransport()) as client:
            jobs += [await client.submit("shots", Photo("cat")), client.job("elsewhere")]
            for call in (jobs[0].result, jobs[1].result, lambda: kinds(jobs[0])):
                tasks.start_soon(wait, call)
            await anyio.wait_all_tasks_blocked()

        assert [type(error) for error in outcomes] == [TransportClosed] * 3
        assert {str(error) for error in outcomes} == {
            f"the client was closed while job {job.id} was waited for" for job in jobs
        }

    async def test_what_came_before_the_end_is_still_known(self) -> None:
        async with running(APP) as test:
            job = await test.client.submit("shots", Photo("cat"))
            await job.result(PATIENCE_S)

        assert await job.result() == Photo("cat", 0.5)
        assert await kinds(job) == ["accepted", "succeeded"]

    async def test_who_asks_too_late_is_told_so(self) -> None:
        async with APP.connect(MemoryTransport()) as client:
            job, found = await client.submit("shots", Photo("cat")), client.job("elsewhere")

        for late in (job, found):
            with pytest.raises(TransportClosed, match="the client was closed while"):
                await late.result()

    async def test_an_end_that_comes_as_the_client_closes_counts(self) -> None:
        outcomes: list[Any] = []

        async def wait(job: Job) -> None:
            outcomes.append(await outcome(job.result))

        async with anyio.create_task_group() as tasks, APP.connect(MemoryTransport()) as client:
            job = await client.submit("shots", Photo("cat"))
            tasks.start_soon(wait, job)
            await anyio.wait_all_tasks_blocked()
            end = Event(kind="succeeded", job=job.id, id=job.id, at=1)
            job._record.add(append(end, MSGPACK).body)

        assert outcomes == [None]

    async def test_a_client_that_is_not_open_says_so(self) -> None:
        client = APP.connect(MemoryTransport())
        opened = APP.connect(MemoryTransport())
        async with opened:
            pass

        for each in (client, opened):
            for call in (
                lambda c=each: c.submit("shots", Photo("cat")),
                lambda c=each: c.cancel("j1"),
            ):
                error = await outcome(call)
                assert isinstance(error, ConfigurationError)
                assert str(error) == "the client is not open: use `async with app.connect(...)`"
            with pytest.raises(ConfigurationError, match="the client is not open"):
                each.job("j1")

    async def test_a_client_can_be_opened_again(self) -> None:
        service = MemoryTransport()
        client = APP.connect(service.share())
        async with APP.worker(service):
            for uri in ("cat", "dog"):
                async with client:
                    job = await client.submit("shots", Photo(uri))

                    assert await job.result(PATIENCE_S) == Photo(uri, 0.5)

    async def test_a_client_that_cannot_connect_says_why(self) -> None:
        open_already = MemoryTransport()
        async with open_already:
            with pytest.raises(ConfigurationError, match="already open"):
                async with APP.connect(open_already):
                    pass


class Odd(BaseException):
    """Neither an exception nor one that ends the program."""


def opened(kind: str) -> AbstractAsyncContextManager[Any]:
    """A client or a worker, not yet entered."""
    return APP.connect(MemoryTransport()) if kind == "client" else APP.worker(MemoryTransport())


both = pytest.mark.parametrize("kind", ["client", "worker"])


class TestErrorsOfTheBody:
    @both
    @pytest.mark.parametrize("error", [KeyError("cat"), ExceptionGroup("x", [KeyError()])])
    async def test_what_the_body_raises_passes_as_it_is(self, kind: str, error: Exception) -> None:
        raised = await raised_in(opened(kind), error)

        assert raised is error

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Odd(), GeneratorExit()])
    async def test_what_ends_a_program_passes_a_client_as_it_is(self, error: BaseException) -> None:
        assert await raised_in(opened("client"), error) is error

    @both
    async def test_time_outs_around_pass(self, kind: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), opened(kind):
                await anyio.sleep_forever()
        with anyio.move_on_after(0.05) as scope:
            async with opened(kind):
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    async def test_a_transport_that_closes_underneath_ends_the_body(self) -> None:
        transport = MemoryTransport()

        async def body() -> None:
            async with APP.connect(transport) as client:
                job = await client.submit("shots", Photo("cat"))
                await transport.crash()
                await job.result()

        with pytest.raises(TransportClosed):
            await body()

    async def test_what_the_body_raises_then_comes_before(self) -> None:
        transport = MemoryTransport()

        async def body() -> None:
            async with APP.connect(transport):
                await transport.crash()
                try:
                    await anyio.sleep_forever()
                finally:
                    raise KeyError("cat")

        with pytest.raises(KeyError):
            await body()


async def raised_in(around: AbstractAsyncContextManager[Any], error: BaseException) -> Any:
    """What comes out when the body raises something."""
    raised: Any = None
    try:
        async with around:
            fail(error)
    except BaseException as caught:  # noqa: BLE001 — the test looks at it
        raised = caught
    return raised


def fail(error: BaseException) -> None:
    raise error


class TestRunning:
    async def test_a_test_sees_what_gave_up(self) -> None:
        @actor(retry=RetryPolicy(max_attempts=1))
        async def fail(photo: Photo) -> Photo:
            raise ValueError(photo.uri)

        async with running(App([fail])) as test:
            assert isinstance(test, Running)
            jobs = [await test.client.submit(["fail"], Photo(uri)) for uri in ("cat", "dog")]
            for job in jobs:
                await kinds(job)

            letters = await test.dead_letters()

            assert [letter.job for letter in letters] == [job.id for job in jobs]
            assert await test.dead_letters() == []

    async def test_two_tests_do_not_meet(self) -> None:
        async with running(APP) as one, running(APP, actors=["judge"]) as other:
            await one.client.submit("photos", Photo("cat"))

            assert (await other.transport.lag("enhance")).arrived == 0
            assert other.worker.actors.keys() == {"judge"}
