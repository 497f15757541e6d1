"""An app that runs inside a test."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple, Unpack

from asyafw.app import App, WorkerOptions
from asyafw.client import Client
from asyafw.clock import Clock
from asyafw.envelope import Envelope, decode_envelope
from asyafw.events import DEAD_LETTERS
from asyafw.memory import MemoryTransport
from asyafw.worker import Worker

__all__ = ["Running", "running"]


class Running(NamedTuple):
    """A client and a worker of an app; `transport` is a third handle on the queues between them."""

    client: Client
    worker: Worker
    transport: MemoryTransport

    async def dead_letters(self) -> list[Envelope]:
        """Take all that have given up so far off their queue."""
        letters: list[Envelope] = []
        count = (await self.transport.lag(DEAD_LETTERS)).backlog
        async with self.transport.consume(DEAD_LETTERS) as consumer:
            while len(letters) < count:
                for delivery in await consumer.receive(count - len(letters)):
                    letters.append(decode_envelope(delivery.message.body)[0])
                    await delivery.settle()
        return letters


@asynccontextmanager
async def running(
    app: App, *, clock: Clock | None = None, **options: Unpack[WorkerOptions]
) -> AsyncGenerator[Running, None]:
    """Run an app on queues of its own, which nobody else sees.

    ::

        async with running(app) as test:
            job = await test.client.submit("photos", photo)
            assert await job.result(timeout_s=5) == enhanced
            assert await test.dead_letters() == []

    `options` are those of `App.worker`.
    A `ManualClock` drives the delays of retries and the time-outs of joins.
    Deadlines, and the time-outs of handlers, are always of the machine's own clock.
    """
    async with (
        MemoryTransport(clock) as transport,
        app.worker(transport.share(), **options) as worker,
        app.connect(transport.share()) as client,
    ):
        yield Running(client, worker, transport)
