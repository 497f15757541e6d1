"""streaQ: results and logs off, everything else as it comes; one queue for all tasks.

A chain is its `then`, which sends all tasks at once, each waiting for the one before.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from tests.bench.redis.contestant import all_of, main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter


def _worker(job: Job, meter: Meter) -> tuple[Worker, list[Any]]:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        meter.ready()
        yield

    worker = Worker(job.url, concurrency=SLOTS, lifespan=lifespan, handle_signals=False)

    async def hand_on(item: Item) -> Item:
        meter.seen(item["sent_at"])
        return item

    async def finish(item: Item) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    tasks = [
        worker.task(name=step, ttl=0, silent=True)(hand_on if job.following(step) else finish)
        for step in job.steps
    ]
    return worker, tasks


async def send(job: Job) -> None:
    worker, (first, *others) = _worker(job, Meter(job))
    async with worker:
        async for items in job.batches():
            chains = [first.enqueue(item) for item in items]
            if not others:
                await worker.enqueue_many(chains)
                continue
            for task in others:
                chains = [chain.then(task) for chain in chains]
            await all_of(chains)


async def serve(job: Job, meter: Meter) -> None:
    worker, _ = _worker(job, meter)
    await worker.run_async()


if __name__ == "__main__":
    main(["streaq", "coredis", "uvloop"], send, serve)
