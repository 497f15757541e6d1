"""SAQ: results off (`ttl=-1`), msgspec's JSON in place of the standard library's.

A worker serves one queue, which all functions share; a function that ends sends the next.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from msgspec import json
from saq import Queue, Worker

from tests.bench.redis.contestant import all_of, main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter

NO_RESULT = -1

Context: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[..., Awaitable[None]]


def _queue(job: Job) -> Queue:
    return Queue.from_url(job.url, dump=json.encode, load=json.decode)


async def send(job: Job) -> None:
    queue, first = _queue(job), job.steps[0]
    async for items in job.batches():
        await all_of([queue.enqueue(first, item=item, ttl=NO_RESULT) for item in items])
    await queue.disconnect()


async def serve(job: Job, meter: Meter) -> None:
    queue = _queue(job)

    async def finish(ctx: Context, *, item: Item) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    def hand_on_to(following: str) -> Handler:
        async def hand_on(ctx: Context, *, item: Item) -> None:
            meter.seen(item["sent_at"])
            await queue.enqueue(following, item=item, ttl=NO_RESULT)

        return hand_on

    async def ready(ctx: Context) -> None:
        meter.ready()

    functions = [
        (step, finish if (following := job.following(step)) is None else hand_on_to(following))
        for step in job.steps
    ]
    await Worker(queue, functions, concurrency=SLOTS, startup=ready).start()


if __name__ == "__main__":
    main(["saq", "redis", "hiredis", "uvloop"], send, serve)
