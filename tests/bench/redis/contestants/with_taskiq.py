"""Taskiq on taskiq-redis's streams, without a result backend.

All settings are its defaults but the orjson serializer; a task that ends sends the next one.
Each task has a stream of its own. It acknowledges, and leaves what it has read in the stream.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from taskiq import TaskiqEvents
from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from tests.bench.redis.contestant import all_of, main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter

Handler: TypeAlias = Callable[[Item], Awaitable[None]]


def _broker(job: Job) -> RedisStreamBroker:
    first, *others = job.steps
    broker = RedisStreamBroker(
        job.url,
        queue_name=first,
        consumer_id="0",
        additional_streams=dict.fromkeys(others, ">"),
    )
    return broker.with_serializer(ORJSONSerializer())


async def send(job: Job) -> None:
    broker = _broker(job)

    async def elsewhere(item: Item) -> None: ...

    first = broker.task(task_name=job.steps[0], queue_name=job.steps[0])(elsewhere)
    await broker.startup()
    async for items in job.batches():
        await all_of([first.kiq(item) for item in items])
    await broker.shutdown()


async def serve(job: Job, meter: Meter) -> None:
    broker = _broker(job)
    tasks: dict[str, Any] = {}

    async def finish(item: Item) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    def hand_on_to(following: str) -> Handler:
        async def hand_on(item: Item) -> None:
            meter.seen(item["sent_at"])
            await tasks[following].kiq(item)

        return hand_on

    for step in job.steps:
        following = job.following(step)
        handler = finish if following is None else hand_on_to(following)
        tasks[step] = broker.task(task_name=step, queue_name=step)(handler)
    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, lambda _: meter.ready())
    await run_receiver_task(broker, max_async_tasks=SLOTS, run_startup=True)


if __name__ == "__main__":
    main(["taskiq", "taskiq-redis", "redis", "hiredis", "orjson", "uvloop"], send, serve)
