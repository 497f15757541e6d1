"""Its Redis server; a channel and an actor for each step; an actor sends to the next.

It acknowledges, and leaves what it has read in the stream.
"""

# Linters run where the peers are not installed.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from repid import Repid as App  # codespell:ignore repid
from repid import Router  # codespell:ignore repid
from repid.connections.redis import RedisServer  # codespell:ignore repid

from tests.bench.redis.contestant import all_of, main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter

Handler: TypeAlias = Callable[[Item], Awaitable[None]]


async def _send(app: App, step: str, item: Item) -> None:
    await app.send_message_json(channel=step, payload={"item": item}, headers={"topic": step})


async def send(job: Job) -> None:
    app, server = _app(job)
    async with server.connection():
        async for items in job.batches():
            await all_of([_send(app, job.steps[0], item) for item in items])


async def serve(job: Job, meter: Meter) -> None:
    app, server = _app(job)
    router = Router()

    async def finish(item: Item) -> None:
        if job.pause_s:
            await asyncio.sleep(job.pause_s)
        meter.seen(item["sent_at"])

    def hand_on_to(following: str) -> Handler:
        async def hand_on(item: Item) -> None:
            meter.seen(item["sent_at"])
            await _send(app, following, item)

        return hand_on

    for step in job.steps:
        following = job.following(step)
        handler = finish if following is None else hand_on_to(following)
        router.actor(handler, name=step, channel=step)
    app.include_router(router)
    async with server.connection(), asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run_worker(tasks_limit=SLOTS))
        meter.ready()


def _app(job: Job) -> tuple[App, RedisServer]:
    server = RedisServer(job.url, batch_size=SLOTS)
    app = App()
    app.servers.register_server("bench", server, is_default=True)
    return app, server


if __name__ == "__main__":
    packages = ["repid", "redis", "hiredis", "uvloop"]  # codespell:ignore repid
    main(packages, send, serve)
