"""arq: results off, one queue for all functions; a function that ends sends the next.

Its worker polls, twice a second if not told otherwise; here ten times, for its throughput.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from tests.bench.redis.contestant import all_of, main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter

POLL_S = 0.1

Context: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Context, Item], Awaitable[None]]


async def send(job: Job) -> None:
    redis = await create_pool(RedisSettings.from_dsn(job.url))
    async for items in job.batches():
        await all_of([redis.enqueue_job(job.steps[0], item) for item in items])
    await redis.aclose()


async def serve(job: Job, meter: Meter) -> None:
    async def finish(ctx: Context, item: Item) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    def hand_on_to(following: str) -> Handler:
        async def hand_on(ctx: Context, item: Item) -> None:
            meter.seen(item["sent_at"])
            await ctx["redis"].enqueue_job(following, item)

        return hand_on

    async def ready(ctx: Context) -> None:
        meter.ready()

    functions = [
        func(
            finish if (following := job.following(step)) is None else hand_on_to(following),
            name=step,
            keep_result=0,
        )
        for step in job.steps
    ]
    worker = Worker(
        functions,
        redis_settings=RedisSettings.from_dsn(job.url),
        on_startup=ready,
        handle_signals=False,
        max_jobs=SLOTS,
        poll_delay=POLL_S,
        log_results=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    main(["arq", "redis", "hiredis", "uvloop"], send, serve)
