"""The client process: it submits jobs, and records what it was told and what came out.

It is told what to do by lines on its input: ``pause`` and it submits nothing more, ``probe`` and
it submits many jobs at once that nothing befalls; at the end of its input it leaves.
Its output tells, a few times a second, how far it is.
"""

import argparse
import os
import random
import sys
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, Literal, TypeAlias

import anyio
from anyio import to_thread
from msgspec import UNSET, Struct
from msgspec.json import decode, encode

from asyafw import Client
from asyafw._follow import follow
from asyafw.cli._process import run_loop
from asyafw.envelope import codec_of
from asyafw.events import EVENTS, Event, decode_event
from asyafw.exceptions import TransportError
from tests.chaos.history import End, Invoke, Ok, Plan, Recorder, Unknown
from tests.chaos.workload import Item, app, draw, headers_of, item_of, output_of

__all__ = ["Order", "Progress", "Settings"]

Order: TypeAlias = Literal["pause", "probe"]

_TASKS: Final = 24
_PROBES: Final = 300
_ONCE: Final = 0.1
_RETRY_S: Final = 0.2
_TELL_EVERY_S: Final = 0.1
_OVERLAP_S: Final = 60.0


class Settings(Struct, frozen=True):
    """What to submit, and where.

    `rate` is in jobs a second at most; no more are submitted while `most_open` have not ended.
    Every `kill_every_s` seconds one comes that ends whatever process handles it.
    A share of them is `slow`, which takes `slow_s` seconds.
    """

    url: str
    folder: str
    seed: int
    rate: float
    most_open: int
    kill_every_s: float
    slow: float
    slow_s: float


class Progress(Struct, frozen=True):
    """How far the client is: `open` jobs were acknowledged and have not ended yet.

    `submitting` counts the submissions that are under way, `probes` the orders to probe so far.
    """

    acknowledged: int = 0
    ended: int = 0
    open: int = 0
    submitting: int = 0
    probes: int = 0


class Submitter:
    """Submits, follows and records."""

    def __init__(self, settings: Settings, client: Client, recorder: Recorder) -> None:
        self._settings = settings
        self._client = client
        self._recorder = recorder
        self._numbers = count()
        self._open: set[str] = set()
        self._early: set[str] = set()
        self._acknowledged = 0
        self._ended = 0
        self._submitting = 0
        self._probes = 0
        self._paused = False
        self._next_at = monotonic()
        self._next_kill_at = monotonic() + settings.kill_every_s / 5

    async def run(self) -> None:
        """Do what the input says, until it ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            tasks.start_soon(self._tell)
            for _ in range(_TASKS):
                tasks.start_soon(self._submit_many)
            async for line in _lines():
                if line == "pause":
                    self._paused = True
                elif line == "probe":
                    self._probes += 1
                    self._submitting += _PROBES
                    for _ in range(_PROBES):
                        tasks.start_soon(self._submit, self._harmless())
            tasks.cancel_scope.cancel()

    async def _submit_many(self) -> None:
        settings = self._settings
        while not self._paused:
            now = monotonic()
            if len(self._open) >= settings.most_open or self._next_at > now:
                await anyio.sleep(max(0.005, self._next_at - now))
                continue
            # What could not be submitted in time is not made up for.
            self._next_at = max(self._next_at, now - 0.1) + 1 / settings.rate
            self._submitting += 1
            await self._submit(self._drawn(now))

    def _drawn(self, now: float) -> Plan:
        settings, n = self._settings, next(self._numbers)
        kills = now >= self._next_kill_at
        if kills:
            self._next_kill_at = now + settings.kill_every_s
        rng = random.Random(f"{settings.seed}/{n}")
        return draw(rng, n, kills=kills, slow=settings.slow, pause_s=settings.slow_s)

    def _harmless(self) -> Plan:
        n = next(self._numbers)
        return Plan(n, ("line", "tree")[n % 2], size=100, width=2 * (n % 2))

    async def _submit(self, plan: Plan) -> None:
        once = random.Random(f"{self._settings.seed}/{plan.n}/once").random() < _ONCE
        self._recorder.add(Invoke(plan, once))
        payload, key = item_of(plan), f"{self._settings.seed}/{plan.n}" if once else None
        while True:
            try:
                job = await self._client.submit(
                    plan.flow, payload, headers=headers_of(plan), idempotency_key=key
                )
            except TransportError as error:
                self._recorder.add(Unknown(plan.n, str(error)))
                if once:
                    await anyio.sleep(_RETRY_S)
                    continue
            else:
                self._recorder.add(Ok(plan.n, job.id))
                self._acknowledged += 1
                if job.id in self._early:
                    self._early.discard(job.id)
                else:
                    self._open.add(job.id)
            self._submitting -= 1
            return

    async def _watch(self) -> None:
        async for entry in follow(self._client.transport, EVENTS, since_s=_OVERLAP_S):
            event = decode_event(entry.body)
            if event.ends_job:
                self._recorder.add(_end(event, entry.position, entry.body))
                self._ended += 1
                if event.job in self._open:
                    self._open.discard(event.job)
                else:
                    self._early.add(event.job)

    async def _tell(self) -> None:
        while True:
            told = Progress(
                self._acknowledged, self._ended, len(self._open), self._submitting, self._probes
            )
            sys.stdout.buffer.write(encode(told) + b"\n")
            sys.stdout.buffer.flush()
            await anyio.sleep(_TELL_EVERY_S)


def _end(event: Event, position: str, body: bytes) -> End:
    output = None
    if event.kind == "succeeded" and event.payload is not UNSET:
        output = output_of(codec_of(body).decode(event.payload, type=Item))
    error = None if event.error is None else event.error.type
    return End(event.job, event.kind, position, output, error)


async def _lines() -> AsyncIterator[str]:
    while line := await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield line.strip()


async def main(settings: Settings) -> None:
    """Submit and follow until the end of the input."""
    with Recorder(Path(settings.folder) / f"client-{os.getpid()}.jsonl") as recorder:
        async with app.connect(settings.url) as client:
            await Submitter(settings, client, recorder).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", help="as JSON")
    run_loop(partial(main, decode(parser.parse_args().settings, type=Settings)))
