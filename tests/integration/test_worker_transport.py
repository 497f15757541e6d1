"""A transport that fails for a while: what was accepted is done, once, when it is back."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import pytest
from msgspec import Struct

from asyafw import App, Context, actor
from asyafw.client import Client
from asyafw.events import CONTROL
from asyafw.exceptions import TransportUnavailable
from asyafw.memory import MemoryTransport
from asyafw.transport import Append, Lag
from asyafw.worker import Worker, _worker
from tests.integration.flaky import Call, Flaky
from tests.integration.running import becomes, letters, running, submit_all


class Service(Struct):
    """A worker whose connection is flaky, and a client whose is not."""

    worker: Worker
    client: Client
    flaky: Flaky
    transport: MemoryTransport


@asynccontextmanager
async def flaky_worker(app: App, *away: Call, **options: Any) -> AsyncGenerator[Service, None]:
    service = MemoryTransport()
    flaky = Flaky(service.share())
    flaky.away.update(away)
    async with (
        service.share() as transport,
        app.connect(service.share()) as client,
        app.worker(flaky, **options) as worker,
    ):
        yield Service(worker, client, flaky, transport)


@actor
async def double(number: int) -> int:
    return number * 2


@actor
async def report(number: int, ctx: Context) -> int:
    await ctx.progress(0.5)
    return number


async def test_who_cannot_receive_tries_again() -> None:
    async with flaky_worker(App([double]), "receive") as service:
        job = await service.client.submit(["double"], 1)
        await becomes(lambda: service.flaky.failures.get("receive", 0) > 1)
        service.flaky.away.clear()
        result = await job.result(5)

    assert result == 2


async def test_who_cannot_receive_is_not_stalled() -> None:
    async with flaky_worker(App([double]), "receive") as service:
        await becomes(lambda: service.flaky.failures.get("receive"))
        service.worker.metrics.actor("double").lag = Lag(1, 0, 0, 1, 1)
        service.worker._lanes[0].progressed_at -= 3600
        silent = service.worker.healthy()
        await becomes(lambda: service.flaky.failures["receive"] > 2)
        trying = service.worker.healthy()

    assert silent == "double has 1 messages, none came in 3600 s"
    assert trying is None


async def test_who_cannot_settle_tries_again_and_does_not_handle_again() -> None:
    attempts: list[int] = []

    @actor(concurrency=1)
    async def once(number: int, ctx: Context) -> int:
        attempts.append(ctx.attempt)
        return number

    async with flaky_worker(App([once, double]), "settle") as service:
        jobs = [await service.client.submit(["once", "double"], number) for number in (1, 2)]
        await becomes(lambda: service.flaky.failures.get("settle", 0) > 1)
        begun = len(attempts)
        service.flaky.away.clear()
        results = [await job.result(5) for job in jobs]
        outcomes = service.worker.metrics.actor("once").outcomes["forwarded"]

    assert begun == 1, "the slot is taken meanwhile"
    assert results == [2, 4]
    assert attempts == [1, 1]
    assert outcomes == 2


async def test_a_settlement_whose_answer_is_lost_happens_once() -> None:
    seen: list[int] = []

    @actor
    async def last(number: int) -> int:
        seen.append(number)
        return number

    async with flaky_worker(App([double, last])) as service:
        service.flaky.lost.add("settle")
        job = await service.client.submit(["double", "last"], 1)
        await becomes(lambda: service.flaky.failures.get("settle"))
        service.flaky.lost.clear()
        result = await job.result(5)

    assert result == 2
    assert seen == [2]


async def test_who_cannot_settle_when_it_stops_leaves_the_message_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_worker, "_GRACE_S", 0.05)
    app = App([double])
    service = MemoryTransport()
    flaky = Flaky(service.share())
    flaky.away.add("settle")

    async with service.share() as transport, app.connect(service.share()) as client:
        async with app.worker(flaky, drain_timeout_s=0.05):
            job = await client.submit(["double"], 1)
            await becomes(lambda: flaky.failures.get("settle"))
        lag = await transport.lag("double")
        async with app.worker(service.share()):
            result = await job.result(5)

    assert (lag.backlog, lag.in_flight) == (1, 0)
    assert result == 2


async def test_events_that_cannot_be_sent_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with flaky_worker(App([report])) as service:
        service.flaky.away.add("emit")
        job = await service.client.submit(["report"], 1)
        result = await job.result(5)
        await becomes(lambda: service.worker.metrics.events_dropped)

    assert result == 1
    assert service.worker.metrics.events_dropped == 1
    assert "cannot tell 1 events: cannot emit: the service is away" in caplog.text


async def test_a_worker_that_cannot_measure_is_not_ready_until_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_worker, "_MEASURE_EVERY_S", 0.001)

    async with flaky_worker(App([double])) as service:
        await becomes(lambda: service.worker.ready() is None)
        service.flaky.away.add("lag")
        await becomes(service.worker.ready)
        service.worker.metrics.actor("double").lag = Lag(1, 0, 0, 1, 1)
        service.worker._lanes[0].progressed_at -= 3600
        problem = service.worker.ready()
        health = service.worker.healthy()
        service.flaky.away.clear()
        await becomes(lambda: service.worker.ready() is None)

    assert problem == "cannot lag: the service is away"
    assert health is None, "a restart does not help"


async def test_a_worker_that_cannot_connect_raises_what_is_wrong() -> None:
    class Unreachable(MemoryTransport):
        async def __aenter__(self) -> Self:
            raise TransportUnavailable("nobody at localhost:6379")

    app = App([double])

    with pytest.raises(TransportUnavailable, match="nobody at localhost:6379"):
        async with app.worker(Unreachable()):
            pytest.fail("it has not started")


@pytest.mark.parametrize("call", ["emit"])
async def test_a_worker_whose_first_call_fails_raises_that(call: Call) -> None:
    with pytest.raises(TransportUnavailable, match=f"cannot {call}"):
        async with flaky_worker(App([double]), call):
            pytest.fail("it has not started")


async def test_cancellations_are_heard_after_a_failure() -> None:
    begun = anyio.Event()

    @actor
    async def waits(number: int) -> int:
        begun.set()
        await anyio.sleep_forever()
        return number

    async with flaky_worker(App([waits])) as service:
        job = await service.client.submit(["waits"], 1)
        await begun.wait()
        service.flaky.away.add("tail")
        await job.cancel()
        await becomes(lambda: service.flaky.failures.get("tail"))
        service.flaky.away.clear()
        kinds = [event.kind async for event in job.events()]

    assert kinds[-1] == "cancelled"


async def test_what_somebody_else_wrote_to_the_control_log_is_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(double) as run:
        await run.transport.emit(Append(CONTROL, b"\xffnothing"))
        result = await run.result(1)

    assert result == 2
    assert "somebody wrote to the log of control what is not an entry" in caplog.text


async def test_a_lost_lease_is_counted_and_nothing_is_emitted() -> None:
    begun, gate = anyio.Event(), anyio.Event()

    @actor
    async def slow(number: int) -> int:
        begun.set()
        await gate.wait()
        return number

    async with running(slow, double) as run:
        job = await run.submit(1)
        await begun.wait()
        # As a service takes a message from a worker that gave no sign of life.
        queue = run.transport._broker.queues["slow"]
        for lease in queue.leases:
            lease.drop()
        gate.set()
        result = await job.result(5)
        losses = run.worker.metrics.actor("slow").lease_losses
        outcomes = run.outcomes("slow")

    assert result == 2
    assert losses == 1
    assert outcomes == {"forwarded": 1}


async def test_a_message_that_was_never_settled_often_enough_is_dead() -> None:
    ran: list[int] = []
    service = MemoryTransport()

    @actor
    async def deadly(number: int) -> int:
        ran.append(number)
        return number

    app = App([deadly])
    async with service.share() as transport, app.connect(service.share()) as client:
        job = await client.submit(["deadly"], 1)
        attempts: list[int] = []
        for _ in range(3):
            async with service.share() as dying, dying.consume("deadly") as consumer:
                attempts += [delivery.attempt for delivery in await consumer.receive(1)]
                await dying.crash()
        async with app.worker(service.share(), max_deliveries=3):
            kinds = [event.kind async for event in job.events()]
        (letter,) = await letters(transport)

    assert attempts == [1, 2, 3]
    assert not ran
    assert kinds[-1] == "failed"
    assert letter.error is not None
    assert letter.error.type == "WorkerCrashed"
    assert letter.error.message.startswith("delivered 3 times to deadly and never settled")


async def test_deliveries_up_to_the_bound_are_handled() -> None:
    attempts: list[int] = []
    service = MemoryTransport()

    @actor
    async def survivor(number: int, ctx: Context) -> int:
        attempts.append(ctx.attempt)
        return number

    app = App([survivor])
    async with app.connect(service.share()) as client:
        job = await client.submit(["survivor"], 1)
        for _ in range(2):
            async with service.share() as dying, dying.consume("survivor") as consumer:
                await consumer.receive(1)
                await dying.crash()
        async with app.worker(service.share(), max_deliveries=3):
            result = await job.result(5)

    assert result == 1
    assert attempts == [3], "crashes count as attempts"


async def test_a_join_that_makes_no_sense_is_buried_and_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from msgspec import Raw

    from asyafw.envelope import MSGPACK, Envelope, Fork, Route, new_id
    from asyafw.transport import Message, Part, Send

    fork = Fork(join="j", index=5, total=9, at="double", timeout_s=60, gather=True)
    envelope = Envelope(
        id=new_id(), job=new_id(), route=Route("double"), payload=Raw(b"\x01"), forks=(fork,)
    )

    async with running(double) as run:
        await run.transport.emit(Part("double", "j", 0, 2, b"other", 60))
        await run.transport.emit(Send("double", Message(MSGPACK.encode(envelope))))
        (letter,) = await run.letters()
        results = [await job.result(5) for job in await submit_all(run, [1, 2])]
        outcomes = run.outcomes("double")

    assert letter.error is not None
    assert letter.error.type == "ValueError"
    assert results == [2, 4]
    assert outcomes == {"undecodable": 1, "finished": 2}


async def test_what_cannot_be_released_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    begun = anyio.Event()

    @actor
    async def waits(number: int) -> int:
        begun.set()
        await anyio.sleep_forever()
        return number

    with caplog.at_level(logging.WARNING):
        async with flaky_worker(App([waits]), "release", drain_timeout_s=0.01) as service:
            await service.client.submit(["waits"], 1)
            await begun.wait()

    assert "cannot release a message of waits: cannot release" in caplog.text
