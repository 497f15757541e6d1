"""An app that runs: a worker and a client on queues of their own."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from msgspec import Struct

from asyafw import App
from asyafw._actor import Actor
from asyafw.app import WorkerOptions
from asyafw.client import Client, Job
from asyafw.envelope import Envelope, decode_envelope
from asyafw.events import DEAD_LETTERS
from asyafw.memory import MemoryTransport
from asyafw.worker import Worker

PATIENCE_S = 10.0
"""How long anything may take that takes no time."""


class Running(Struct):
    """What a test talks to; `transport` is a handle that neither worker nor client uses."""

    app: App
    worker: Worker
    client: Client
    transport: MemoryTransport

    async def submit(self, payload: Any, *route: str, **options: Any) -> Job:
        """Submit to the actors of a route, without one to all of the app in their order."""
        return await self.client.submit(route or tuple(self.app.actors), payload, **options)

    async def result(self, payload: Any, *route: str, **options: Any) -> Any:
        """Submit, and wait for the result."""
        job = await self.submit(payload, *route, **options)
        return await job.result(PATIENCE_S)

    async def error(self, payload: Any, *route: str, **options: Any) -> str:
        """Submit what fails, and tell the type and the message of its error."""
        end = await self.end(payload, *route, **options)
        assert end.error is not None
        return f"{end.error.type}: {end.error.message}"

    async def end(self, payload: Any, *route: str, **options: Any) -> Any:
        """Submit, and give the event of the job's end."""
        job = await self.submit(payload, *route, **options)
        return (await events(job))[-1]

    async def letters(self, count: int = 1) -> list[Envelope]:
        """Take so many dead letters."""
        return await letters(self.transport, count)

    def outcomes(self, actor: str) -> dict[str, int]:
        """Tell what has become of the messages of an actor."""
        return {k: v for k, v in self.worker.metrics.actor(actor).outcomes.items() if v}


@asynccontextmanager
async def running(
    *actors: Actor[..., Any],
    transport: MemoryTransport | None = None,
    options: WorkerOptions | None = None,
    **app_options: Any,
) -> AsyncGenerator[Running, None]:
    """Run an app of these actors; afterwards nothing is in hand and nothing counts as such."""
    app = App(actors, **app_options)
    service = transport or MemoryTransport()
    async with service.share() as handle, app.connect(service.share()) as client:
        async with app.worker(service.share(), **(options or {})) as worker:
            yield Running(app, worker, client, handle)
        for name in app.actors:
            assert worker.metrics.actor(name).in_flight == 0
            assert (await handle.lag(name)).in_flight == 0


async def events(job: Job) -> list[Any]:
    """Give the events of a job, which ends."""
    with anyio.fail_after(PATIENCE_S):
        return [event async for event in job.events()]


async def kinds(job: Job) -> list[str]:
    """Tell what happened to a job, which ends."""
    return [event.kind for event in await events(job)]


async def letters(transport: MemoryTransport, count: int = 1) -> list[Envelope]:
    """Take so many dead letters."""
    found: list[Envelope] = []
    async with transport.consume(DEAD_LETTERS) as consumer:
        with anyio.fail_after(PATIENCE_S):
            while len(found) < count:
                for delivery in await consumer.receive(count - len(found)):
                    found.append(decode_envelope(delivery.message.body)[0])
                    await delivery.settle()
    return found


async def becomes(condition: Callable[[], Any]) -> None:
    """Let others run until a condition holds."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await checkpoint()


async def submit_all(running: Running, payloads: Sequence[Any], *route: str) -> list[Job]:
    """Submit a job for each payload."""
    return [await running.submit(payload, *route) for payload in payloads]
