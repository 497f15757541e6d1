"""Limits in a real server: decided as in memory, shared by all workers."""

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from uuid import uuid4

import anyio
import pytest
from asyafw_redis import from_url
from asyafw_redis._scripts import LIMITS
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import encode
from msgspec.structs import astuple

from asyafw import App, CircuitBreaker, JobFailed, RateLimit, Retry, RetryPolicy, actor
from asyafw.coordination import (
    Circuit,
    CircuitRules,
    Coordinating,
    Line,
    Pace,
    Report,
    Turn,
    ask,
    take_turn,
    tell,
)
from asyafw.exceptions import TransportClosed, TransportError, TransportUnavailable
from tests.integration.limited import Starts, outcomes
from tests.integration.running import becomes
from tests.servers.redis import DURABLE, RedisServer, redis_server

NOW = 1_700_000_000_000_000
RULES = CircuitRules(failures=3, within_us=500, open_us=400, max_open_us=1500, probes=2)
PACE = Pace(50_000)
NO_EXPIRY = -1


@pytest.fixture(scope="module", params=["redis-server", "valkey-server"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(*DURABLE, program=request.param) as server:
        yield server


@pytest.fixture
def url(server: RedisServer) -> str:
    return f"{server.url}?prefix={uuid4().hex[:8]}"


def answers(server: RedisServer, steps: list[tuple[Any, ...]]) -> list[Any]:
    """Run steps in one call of the script, in which nothing expires."""
    client = server.client()
    try:
        found: list[Any] = client.eval(LIMITS.source, 0, uuid4().hex, encode(steps))
    finally:
        client.close()
    return found


GAPS = st.sampled_from([0, 1, 300, 1_000, 20_000, 50_000, 99_999, 100_001, 400_000])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            GAPS,
            st.integers(0, 120_000),
            st.integers(0, 200_000),
            st.none() | st.tuples(st.integers(-600_000, 600_000), st.booleans()),
            st.none() | st.integers(0, 200_000),
        ),
        max_size=40,
    )
)
def test_turns_are_decided_as_in_memory(server: RedisServer, asked: list[Any]) -> None:
    line, now = Line(), NOW
    steps: list[tuple[Any, ...]] = []
    expected: list[Any] = []

    for gap, step, ahead, had, within in asked:
        now += gap
        turn = None if had is None else Turn(now + had[0], had[1])
        line, wait = take_turn(line, now, Pace(step, ahead), turn, within)
        expected.append([wait.turn.at_us, int(wait.turn.sure), now])
        mine = (False, False) if turn is None else astuple(turn)
        steps.append(("turn", "k", now, step, ahead, *mine, False if within is None else within))

    assert answers(server, steps) == expected


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 100, 400, 401, 900]),
            st.none()
            | st.tuples(
                st.sampled_from(["well", "failed", "failed", "other"]),
                st.integers(0, 3),
                st.sampled_from([0, 0, 0, 250]),
            ),
        ),
        max_size=60,
    )
)
def test_circuits_are_decided_as_in_memory(server: RedisServer, deeds: list[Any]) -> None:
    circuit, now = Circuit(), NOW
    probes: list[int] = [0]
    steps: list[tuple[Any, ...]] = []
    expected: list[Any] = []

    for gap, report in deeds:
        now += gap
        if report is None:
            circuit, permit = ask(circuit, now, RULES)
            expected.append([int(value) for value in astuple(permit)])
            steps.append(("ask", "k", now, astuple(RULES)))
            probes.append(permit.probe_us)
        else:
            ended, number, pause = report
            probe = probes[-1 - int(number) % len(probes)]
            circuit, change, for_us = tell(circuit, now, RULES, Report(ended, probe, pause))
            expected.append([[None, "opened", "paused", "closed"].index(change), for_us])
            steps.append(("tell", "k", now, astuple(RULES), ended, probe, pause))

    assert answers(server, steps) == expected


async def test_state_expires_when_it_is_as_good_as_none(server: RedisServer, url: str) -> None:
    async with from_url(url) as transport:
        assert isinstance(transport, Coordinating)
        await transport.coordinator.take_turn("a", PACE)
        await transport.coordinator.tell("b", RULES, Report("failed"))
        with server.client() as client:
            kept = {key: client.pttl(key) for key in client.keys(f"{url[-8:]}:*")}

    # They may have expired between the two commands.
    assert set(kept) <= {f"{url[-8:]}:line:a".encode(), f"{url[-8:]}:circuit:b".encode()}
    assert all(left_ms <= 200 and left_ms != NO_EXPIRY for left_ms in kept.values())


async def test_many_take_turns_at_once_and_nobody_gets_anothers(url: str) -> None:
    waits: list[int] = []

    async def take(coordinator: Any) -> None:
        waits.append((await coordinator.take_turn("a", PACE)).turn.at_us)

    async with from_url(url) as one, from_url(url) as two, anyio.create_task_group() as tasks:
        assert isinstance(one, Coordinating)
        assert isinstance(two, Coordinating)
        for transport in (one, two):
            for _ in range(300):
                tasks.start_soon(take, transport.coordinator)

    waits.sort()
    assert [b - a for a, b in pairwise(waits)] == [PACE.step_us] * 599


async def test_a_key_of_another_kind_is_refused_and_harms_nobody_else(
    server: RedisServer, url: str
) -> None:
    with server.client() as client:
        client.lpush(f"{url[-8:]}:line:a", "nothing of ours")
    refused: list[str] = []

    async def take(coordinator: Any, key: str) -> None:
        try:
            await coordinator.take_turn(key, PACE)
        except TransportError as error:
            refused.append(f"{key}: {error}")

    async with from_url(url) as transport:
        assert isinstance(transport, Coordinating)
        async with anyio.create_task_group() as tasks:
            for key in ("b", "a", "c"):
                tasks.start_soon(take, transport.coordinator, key)

    assert len(refused) == 1
    assert refused[0].startswith("a: ")
    assert "WRONGTYPE" in refused[0]


async def test_a_key_that_cannot_be_sent_is_its_own_error(url: str) -> None:
    async with from_url(url) as transport:
        assert isinstance(transport, Coordinating)
        with pytest.raises(UnicodeEncodeError):
            await transport.coordinator.take_turn("\ud800", PACE)

        assert (await transport.coordinator.take_turn("a", PACE)).us == 0


async def test_a_server_that_is_away_is_told_and_asked_again_when_it_is_back() -> None:
    with redis_server(*DURABLE) as server:
        async with from_url(f"{server.url}?timeout_s=1") as transport:
            assert isinstance(transport, Coordinating)
            await transport.coordinator.take_turn("a", PACE)
            server.kill()
            with pytest.raises(TransportUnavailable):
                await transport.coordinator.take_turn("a", PACE)
            server.start()

            assert (await transport.coordinator.take_turn("b", PACE)).us == 0


async def test_who_asks_when_it_is_closed_is_told(url: str) -> None:
    async with from_url(url) as transport:
        assert isinstance(transport, Coordinating)
        coordinator = transport.coordinator

    with pytest.raises(TransportClosed):
        await coordinator.take_turn("a", PACE)


async def test_two_workers_together_keep_to_a_rate(url: str) -> None:
    starts = Starts()

    @actor(middleware=[RateLimit(20)])
    async def ask(number: int) -> int:
        return starts.note(number)

    @actor
    async def free(number: int) -> int:
        return number

    app = App([ask, free])
    async with app.worker(url) as one, app.worker(url) as two, app.connect(url) as client:
        jobs = [await client.submit(["ask"], number) for number in range(60)]
        began = time.monotonic()
        await (await client.submit(["free"], 0)).result(5)
        meanwhile = time.monotonic() - began
        lag, begun = await client.transport.lag("ask"), len(starts.times)
        results = [await job.result(20) for job in jobs]

    assert results == list(range(60))
    starts.keep_to(rate=20)
    assert meanwhile < 1
    assert lag.delayed + begun > 55
    counted = outcomes("ask", one, two)
    assert counted["finished"] == 60
    assert 50 < counted["postponed"] < 120  # once each, but for those whom the machine made late
    assert all(worker.metrics.actor("ask").outcomes["finished"] > 5 for worker in (one, two))


async def test_what_one_worker_is_told_all_heed(url: str) -> None:
    starts = Starts()
    breaker = CircuitBreaker(honour_retry_after=True)

    @actor(middleware=[breaker])
    async def ask(number: int) -> int:
        starts.note(number)
        if len(starts.times) == 1:
            raise Retry("busy", after_s=1.0, counted=False)
        return number

    app = App([ask])
    async with app.worker(url) as one, app.worker(url) as two, app.connect(url) as client:
        first = await client.submit(["ask"], 0)
        await becomes(lambda: outcomes("ask", one, two)["postponed"])
        others = [await client.submit(["ask"], number) for number in range(1, 20)]
        results = [await job.result(10) for job in (first, *others)]

    assert results == list(range(20))
    assert starts.times[1] - starts.times[0] > 0.95
    assert outcomes("ask", one, two)["postponed"] >= 19


async def test_a_handler_that_was_cancelled_for_its_time_is_still_reported(url: str) -> None:
    changes: list[str] = []
    breaker = CircuitBreaker(failures=1, on_change=lambda _key, change: changes.append(change))

    @actor(timeout_s=0.05, middleware=[breaker], retry=RetryPolicy(max_attempts=1))
    async def ask(number: int) -> int:
        await anyio.sleep(60)
        return number

    app = App([ask])
    async with app.worker(url) as worker, app.connect(url) as client:
        job = await client.submit(["ask"], 1)
        with pytest.raises(JobFailed, match="HandlerTimeout"):
            await job.result(10)
        await client.submit(["ask"], 2)
        await becomes(lambda: outcomes("ask", worker)["postponed"])

    assert changes == ["opened"]
