"""Many jobs of every kind, and workers that die: each job ends once, and nothing is left."""

from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from asyafw import App, Batch, Context, Join, Reject, Retry, RetryPolicy, actor
from asyafw.events import EVENTS, decode_event
from asyafw.exceptions import TransportClosed
from asyafw.memory import MemoryTransport
from asyafw.telemetry import Metrics
from asyafw.transport import Lag

JOBS = 10_000
CRASHES = 5
SOON = RetryPolicy(max_attempts=3, backoff=lambda _: 0.001)


class Plan(msgspec.Struct):
    """What is to happen to a message, and to the children that it will have."""

    deeds: list[str]
    children: list["Plan"] = []


@actor(concurrency=32, timeout_s=0.05, retry=SOON)
async def do(plan: Plan, ctx: Context) -> Plan:
    deed, *rest = plan.deeds or ["end"]
    match deed:
        case "go on":
            ctx.route.prepend("do")
        case "go to a thread":
            ctx.route.prepend("thread", "do")
        case "go to a batch":
            ctx.route.prepend("batch", "do")
        case "fan out":
            ctx.route.prepend("fork", "do")
        case "fan out and join":
            ctx.route.prepend("fork", "do", "join")
        case "wait":
            await checkpoint()
            ctx.route.prepend("do")
        case "postpone" if ctx.started_at < ctx.envelope.created_at + 0.1:
            raise Retry(after_s=0.02, counted=False)
        case "fail once" if ctx.attempt == 1:
            raise ValueError("once")
        case "fail":
            raise ValueError("for good")
        case "reject":
            raise Reject("not this one")
        case "hang":
            await anyio.sleep_forever()
        case _:
            pass
    return Plan(rest, plan.children)


@actor(retry=SOON)
async def fork(plan: Plan) -> AsyncIterator[Plan]:
    for child in plan.children:
        yield child


@actor(join=Join(partial="pass"), retry=SOON)
async def join(plans: list[Plan | None]) -> Plan:
    return Plan(["end"] if all(plans) else ["fail once"])


@actor(concurrency=4, retry=SOON)
def thread(plan: Plan) -> Plan:
    return plan


@actor(concurrency=2, batch=Batch(max_size=8, max_wait_s=0.001), retry=SOON)
async def batch(plans: list[Plan]) -> list[Plan | Exception]:
    return [ValueError("unlucky") if "fail" in plan.deeds else plan for plan in plans]


APP = App([do, fork, join, thread, batch], flows={"soak": ["do"]}, events="jobs")
COMMON = ["go on"] * 6 + ["wait"] * 4 + ["fail once"] * 2 + ["go to a batch", "end"]
RARE = ["fail", "reject", "postpone", "go to a thread"]


def drawn(random: Random, depth: int = 0) -> Plan:
    """Draw what is to happen; about one in three has children."""
    deeds = random.choices(COMMON, k=random.randrange(3))
    if random.random() < 0.1:
        deeds.append(random.choice(RARE))
    if random.random() < 0.003:
        deeds.append("hang")
    children = []
    if depth < 2 and random.random() < 0.2:
        deeds.append(random.choice(["fan out", "fan out and join"]))
        children = [drawn(random, depth + 1) for _ in range(random.randrange(4))]
    return Plan(deeds, children)


@settings(max_examples=2, deadline=None, database=None)
@given(seed=st.integers(0, 2**32))
async def test_every_job_ends_once_whatever_happens(seed: int) -> None:
    random, service, metrics = Random(seed), MemoryTransport(capacity=1_000), Metrics()
    submitted: set[str] = set()
    crashes = [anyio.Event() for _ in range(CRASHES)]
    lost: list[int] = []
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    lags: list[Lag] = []

    async with service.share() as watcher, anyio.create_task_group() as tasks:
        log = watcher.tail(EVENTS)

        async def submit() -> None:
            async with APP.connect(service.share()) as client:
                for _ in range(JOBS):
                    job = await client.submit("soak", drawn(random))
                    submitted.add(job.id)
                    if random.random() < 0.03:
                        await job.cancel()

        async def serve() -> None:
            for crash in (*crashes, anyio.Event()):
                transport = service.share()
                try:
                    async with APP.worker(transport, metrics=metrics):
                        await crash.wait()
                        lost.append(metrics.actor("do").in_flight)
                        await transport.crash()
                        await anyio.sleep_forever()
                except* TransportClosed:
                    pass

        with anyio.fail_after(120):
            tasks.start_soon(submit)
            tasks.start_soon(serve)
            async for entry in log:
                event = decode_event(entry.body)
                if event.ends_job:
                    ends[event.job] += 1
                    kinds[event.kind] += 1
                    if len(ends) % (JOBS // (CRASHES + 1) + 1) == 0:
                        crashes[len(lost)].set()
                if len(ends) == JOBS:
                    break
            lags += [await watcher.lag(name) for name in APP.actors]
            tasks.cancel_scope.cancel()

    assert len(lost) == CRASHES
    assert max(lost) > 0
    assert ends.keys() == submitted
    assert set(ends.values()) == {1}
    assert min(kinds[kind] for kind in ("succeeded", "failed", "cancelled")) > JOBS / 100
    assert [(lag.backlog, lag.in_flight, lag.delayed) for lag in lags] == [(0, 0, 0)] * len(lags)
    assert [metrics.actor(name).in_flight for name in APP.actors] == [0] * len(lags)
