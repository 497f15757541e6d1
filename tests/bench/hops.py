"""What a hop through the whole runtime costs on `memory://`: one JSON line per result.

Three actors hand on what they get. With ``--profile`` the most expensive functions are told, too.
"""

import asyncio
import cProfile
import gc
import json
import pstats
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Raw

from asyafw import App, actor
from asyafw.envelope import MSGPACK, Envelope, Route, new_id
from asyafw.memory import MemoryTransport
from asyafw.transport import Message, Send

MESSAGES = 100_000
FOLLOWED = 10_000
KEPT = 1_000

Events = Literal["hops", "jobs"]


class Item(msgspec.Struct):
    number: int
    text: str = "x" * 200


@actor
async def first(item: Item) -> Item:
    return item


@actor
async def second(item: Item) -> Item:
    return item


@actor
async def third(item: Item) -> Item:
    return item


ROUTE = ("first", "second", "third")


def app(events: Events = "hops") -> App:
    return App([first, second, third], flows={"all": ROUTE}, events=events)


async def preloaded(count: int, events: Events) -> dict[str, float]:
    """A worker alone, with a full queue."""
    service = MemoryTransport(capacity=count, log_capacity=KEPT)
    async with service.share() as transport:
        await transport.emit(*_sends(count))
        began_s, cpu_s = time.perf_counter(), time.process_time()
        async with app(events).worker(service.share()) as worker:
            outcomes = worker.metrics.actor(ROUTE[-1]).outcomes
            while outcomes["finished"] < count:  # noqa: ASYNC110 — a count has no event
                await asyncio.sleep(0.01)
            return _costs(count, began_s, cpu_s)


async def followed(count: int, at_a_time: int) -> dict[str, float]:
    """A client that submits so many at a time and waits for their results, and its worker."""
    service = MemoryTransport(log_capacity=KEPT)
    async with app().worker(service.share()), app().connect(service.share()) as client:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for begin in range(0, count, at_a_time):
            jobs = [await client.submit("all", Item(begin + n)) for n in range(at_a_time)]
            for job in jobs:
                await job.result()
        return _costs(count, began_s, cpu_s)


async def memory(count: int) -> dict[str, float]:
    """What is kept of messages that are gone, after a round in which everything has grown."""
    service = MemoryTransport(log_capacity=KEPT)
    async with app().worker(service.share()), app().connect(service.share()) as client:

        async def submit_all() -> None:
            for number in range(count - 1):
                await client.submit("all", Item(number))
            await (await client.submit("all", Item(count))).result()
            gc.collect()

        await submit_all()
        resident = _resident_bytes()
        await submit_all()
        tracemalloc.start()
        await submit_all()
        before = tracemalloc.get_traced_memory()[0]
        await submit_all()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return {
            "rss_bytes_before": resident,
            "rss_bytes_after": _resident_bytes(),
            "traced_bytes_before": before,
            "traced_bytes_after": after,
        }


def _sends(count: int) -> Sequence[Send]:
    now = time.time()
    payload = Raw(MSGPACK.encode(Item(0)))
    return [
        Send(
            ROUTE[0],
            Message(
                MSGPACK.encode(
                    Envelope(
                        id=(job := new_id()),
                        job=job,
                        route=Route(ROUTE[0], ROUTE[1:]),
                        payload=payload,
                        created_at=now,
                        enqueued_at=now,
                    )
                )
            ),
        )
        for _ in range(count)
    ]


def _costs(messages: int, began_s: float, cpu_s: float) -> dict[str, float]:
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    hops = messages * len(ROUTE)
    return {
        "messages_per_s": round(messages / wall_s),
        "hops_per_s": round(hops / wall_s),
        "cpu_us_per_hop": round(cpu_s / hops * 1e6, 2),
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


CASES: dict[str, Callable[[], Awaitable[dict[str, float]]]] = {
    # First, because what others have used and freed would hide its growth.
    "memory": lambda: memory(FOLLOWED),
    "preloaded, every hop told": lambda: preloaded(MESSAGES, "hops"),
    "preloaded, only ends told": lambda: preloaded(MESSAGES, "jobs"),
    "submitted and followed, 1 at a time": lambda: followed(FOLLOWED, 1),
    "submitted and followed, 100 at a time": lambda: followed(MESSAGES, 100),
}


async def main(*, profiled: bool) -> None:
    """Run every case, each with a profile of its own if one is wanted."""
    for name, case in CASES.items():
        profile = cProfile.Profile()
        if profiled:
            profile.enable()
        result = await case()
        profile.disable()
        sys.stdout.write(json.dumps({"bench": name, **result}) + "\n")
        if profiled:
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    asyncio.run(main(profiled="--profile" in sys.argv))
