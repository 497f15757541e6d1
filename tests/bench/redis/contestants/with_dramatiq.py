"""Dramatiq on its Redis broker: plain functions in threads, no results, a pipeline as a chain.

Its worker has as many threads as the others have slots, with which it is faster than with 8.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench.redis.contestant import main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter


def _actors(job: Job, meter: Meter) -> tuple[RedisBroker, list[dramatiq.Actor]]:
    broker = RedisBroker(url=f"{job.url}?max_connections={4 * SLOTS}")

    def hand_on(item: Item) -> Item:
        meter.seen(item["sent_at"])
        return item

    def finish(item: Item) -> None:
        if job.pause_s:
            time.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    actors = [
        dramatiq.actor(
            hand_on if job.following(step) else finish,
            actor_name=step,
            queue_name=step,
            broker=broker,
        )
        for step in job.steps
    ]
    return broker, actors


async def send(job: Job) -> None:
    broker, (first, *others) = _actors(job, Meter(job))
    async for items in job.batches():
        for item in items:
            messages = [first.message(item), *(actor.message() for actor in others)]
            dramatiq.pipeline(messages, broker=broker).run()


async def serve(job: Job, meter: Meter) -> None:
    broker, _ = _actors(job, meter)
    worker = dramatiq.Worker(broker, worker_threads=SLOTS)
    worker.start()
    meter.ready()
    await asyncio.Event().wait()


if __name__ == "__main__":
    main(["dramatiq", "redis", "hiredis"], send, serve)
