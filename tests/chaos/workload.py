"""The jobs: two flows of three hops, one with a fan-out and a join, and what is to come of them."""

import os
import random
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final
from zlib import crc32

import anyio
from msgspec import Struct
from msgspec.json import decode, encode
from msgspec.structs import replace

from asyafw import App, Context, Join, Reject, Retry, RetryPolicy, actor
from tests.chaos.history import Fate, Output, Plan, Recorder, Run

__all__ = [
    "FLOWS",
    "FOLDER",
    "Expected",
    "Item",
    "app",
    "data_of",
    "draw",
    "expected",
    "headers_of",
    "item_of",
    "output_of",
    "plan_of",
]

FOLDER: Final = "ASYAFW_CHAOS_FOLDER"
"""The environment variable that names the folder where workers record what they run."""

FLOWS: Final = {"line": ("first", "second", "third"), "tree": ("split", "part", "merge")}
_PLAN: Final = "chaos-plan"
_CONCURRENCY: Final = 8
# A crash is an attempt, too; here only one retry is asked for, and it must be granted.
_RETRY: Final = RetryPolicy(max_attempts=100)
_RETRY_AFTER_S: Final = 0.3


class Item(Struct, frozen=True):
    """The payload. Every emission has a `nonce` of its own, by which two of them are told apart."""

    n: int
    nonce: int
    data: str
    trail: tuple[str, ...] = ()
    index: int | None = None
    parts: tuple[int | None, ...] = ()


def draw(rng: random.Random, n: int, *, kills: bool, slow: float, pause_s: float) -> Plan:
    """Draw what job `n` is to meet.

    One that `kills` ends whatever process handles it; a share is `slow`, by `pause_s` seconds.
    """
    flow = "tree" if rng.random() < 0.3 else "line"
    place = rng.choice(FLOWS[flow])
    width = rng.choice((0, 1, 2, 3, 4)) if flow == "tree" else 0
    child = None
    if place == "part":
        width = width or 3
        child = rng.randrange(width)
    fate: Fate = "none"
    chance = rng.random()
    if kills:
        fate = "kill"
    elif chance < slow:
        fate = "slow"
    elif chance > 0.995:
        fate = "reject"
    elif chance > 0.98:
        fate = "retry"
    size = rng.randrange(20_000, 60_000) if rng.random() < 0.005 else rng.randrange(50, 400)
    if fate == "none":
        return Plan(n, flow, size, width)
    return Plan(n, flow, size, width, fate, place, child, pause_s if fate == "slow" else 0)


def data_of(plan: Plan) -> str:
    """Make the data of a job, which nobody else's resemble."""
    seed = blake2b(str(plan.n).encode(), digest_size=25).hexdigest()
    return (seed * (plan.size // len(seed) + 1))[: plan.size]


def item_of(plan: Plan) -> Item:
    """Make the payload that is submitted."""
    return Item(plan.n, _nonce(), data_of(plan))


def headers_of(plan: Plan) -> dict[str, str]:
    """Write a plan into headers, which travel with all messages of a job, payload or not."""
    return {_PLAN: encode(plan).decode()}


def plan_of(headers: dict[str, str]) -> Plan:
    """Read the plan of a message."""
    return decode(headers[_PLAN], type=Plan)


def output_of(item: Item) -> Output:
    """Give what is recorded of a result."""
    return Output(item.n, crc32(item.data.encode()), item.trail, item.parts)


class Expected(Struct, frozen=True):
    """How a job must end, and the actor and the error of its dead letter, if it has one."""

    kind: str
    error: str | None = None
    output: Output | None = None
    letter: tuple[str, str] | None = None


_ERRORS: Final = {"reject": "Reject", "kill": "WorkerCrashed"}


def expected(plan: Plan) -> Expected:
    """Tell what must become of a job."""
    error = _ERRORS.get(plan.fate)
    letter = None if error is None else (plan.place, error)
    if error is not None and plan.child is None:
        return Expected("failed", error, letter=letter)
    trail: tuple[str, ...] = FLOWS[plan.flow]
    parts = tuple(range(plan.width))
    lost = plan.child if error else None
    present = tuple(None if part == lost else part for part in parts)
    data = data_of(plan)
    if plan.flow == "tree" and all(part is None for part in present):
        # Nobody is left to tell `merge` of the way there, or of the data.
        trail, data = ("merge",), ""
    output = Output(plan.n, crc32(data.encode()), trail, present)
    return Expected("succeeded", output=output, letter=letter)


def _nonce() -> int:
    return random.getrandbits(48)


async def _begin(ctx: Context, nonce: int, child: int | None = None) -> None:
    """Record the run, and meet the fate that awaits the job here."""
    plan, here = plan_of(ctx.headers), ctx.route.curr
    attempt = ctx.envelope.attempt
    delivery = ctx.attempt - attempt + 1
    recorder: Recorder = ctx.state
    recorder.add(Run(plan.n, ctx.job, ctx.id, ctx.hops, here, attempt, delivery, nonce))
    fate = plan.fate if (plan.place, plan.child) == (here, child) else "none"
    if fate == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fate == "reject":
        raise Reject("poison")
    elif fate == "retry" and attempt == 1:
        raise Retry(after_s=_RETRY_AFTER_S)
    elif fate == "slow":
        await anyio.sleep(plan.pause_s)
    elif random.random() < 0.2:
        await anyio.sleep(random.random() * 0.01)


async def _passed_on(item: Item, ctx: Context) -> Item:
    await _begin(ctx, item.nonce, item.index)
    return replace(item, nonce=_nonce(), trail=(*item.trail, ctx.route.curr))


@actor(concurrency=_CONCURRENCY, retry=_RETRY)
async def first(item: Item, ctx: Context) -> Item:
    return await _passed_on(item, ctx)


@actor(concurrency=_CONCURRENCY, retry=_RETRY)
async def second(item: Item, ctx: Context) -> Item:
    return await _passed_on(item, ctx)


@actor(concurrency=_CONCURRENCY, retry=_RETRY)
async def third(item: Item, ctx: Context) -> Item:
    return await _passed_on(item, ctx)


@actor(concurrency=_CONCURRENCY, retry=_RETRY)
async def split(item: Item, ctx: Context) -> AsyncIterator[Item]:
    passed_on = await _passed_on(item, ctx)
    for index in range(plan_of(ctx.headers).width):
        yield replace(passed_on, nonce=_nonce(), index=index)


@actor(concurrency=_CONCURRENCY, retry=_RETRY)
async def part(item: Item, ctx: Context) -> Item:
    return await _passed_on(item, ctx)


@actor(concurrency=_CONCURRENCY, retry=_RETRY, join=Join(partial="pass"))
async def merge(items: list[Item | None], ctx: Context) -> Item:
    present = [item for item in items if item is not None]
    await _begin(ctx, sum(item.nonce for item in present) % 2**48)
    return _merged(plan_of(ctx.headers).n, items, present)


def _merged(n: int, items: Sequence[Item | None], present: Sequence[Item]) -> Item:
    like = present[0] if present else Item(n, 0, "")
    parts = tuple(
        None if item is None else item.index if (item.n, item.data) == (n, like.data) else -1
        for item in items
    )
    return Item(n, _nonce(), like.data, (*like.trail, "merge"), parts=parts)


@asynccontextmanager
async def _recording() -> AsyncGenerator[Recorder, None]:
    with Recorder(Path(os.environ[FOLDER]) / f"worker-{os.getpid()}.jsonl") as recorder:
        yield recorder


app = App(
    [first, second, third, split, part, merge], flows=FLOWS, lifespan=_recording, events="jobs"
)
