"""asyafw, by its public API; the variant is `App(events=...)`.

With ``hops`` every hop is told to the log of events, with ``jobs`` only the end of a job.
Messages are sent as the client sends them, many at a time, without the event of their acceptance.
"""

import asyncio
import time
from typing import Literal, cast

from msgspec import Raw, Struct

from asyafw import App, actor
from asyafw._connect import open_transport
from asyafw.envelope import MSGPACK, Envelope, Route, encode_envelope, new_id
from asyafw.transport import Message, Send
from tests.bench.redis.contestant import main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter


class Photo(Struct):
    number: int
    sent_at: float
    text: str


async def send(job: Job) -> None:
    async with open_transport(job.url).transport as transport:
        async for items in job.batches():
            await transport.emit(*(_send(item, job.steps) for item in items))


async def serve(job: Job, meter: Meter) -> None:
    async def hand_on(photo: Photo) -> Photo:
        meter.seen(photo.sent_at)
        return photo

    async def finish(photo: Photo) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(photo.sent_at)

    *first, last = job.steps
    actors = [
        *(actor(name=step, concurrency=SLOTS)(hand_on) for step in first),
        actor(name=last, concurrency=SLOTS)(finish),
    ]
    app = App(actors, events=cast('Literal["hops", "jobs"]', job.variant))
    async with app.worker(job.url):
        meter.ready()
        await asyncio.Event().wait()


def _send(item: Item, steps: tuple[str, ...]) -> Send:
    now = time.time()
    envelope = Envelope(
        id=(job := new_id()),
        job=job,
        route=Route(steps[0], steps[1:]),
        payload=Raw(MSGPACK.encode(item)),
        created_at=now,
        enqueued_at=now,
    )
    return Send(steps[0], Message(encode_envelope(envelope, MSGPACK)))


if __name__ == "__main__":
    main(["asyafw", "redis", "hiredis", "uvloop"], send, serve)
