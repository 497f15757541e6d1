"""FastStream on Redis streams: a stream and a subscriber for each step, a publisher to the next.

It validates no types, which is its fastest. It acknowledges, and leaves what it has read in the
stream.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio

from faststream.redis import RedisBroker, StreamSub

from tests.bench.redis.contestant import all_of, main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter


async def send(job: Job) -> None:
    async with RedisBroker(job.url, logger=None) as broker:
        async for items in job.batches():
            await all_of([broker.publish(item, stream=job.steps[0]) for item in items])


async def serve(job: Job, meter: Meter) -> None:
    broker = RedisBroker(job.url, logger=None, apply_types=False)

    async def hand_on(item: Item) -> Item:
        meter.seen(item["sent_at"])
        return item

    async def finish(item: Item) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    for step in job.steps:
        following = job.following(step)
        stream = StreamSub(step, group="bench", consumer="one", last_id="0", max_records=SLOTS)
        subscribe = broker.subscriber(stream=stream, max_workers=SLOTS)
        if following is None:
            subscribe(finish)
        else:
            subscribe(broker.publisher(stream=following)(hand_on))
    await broker.start()
    meter.ready()
    await asyncio.Event().wait()


if __name__ == "__main__":
    main(["faststream", "redis", "hiredis", "pydantic", "uvloop"], send, serve)
