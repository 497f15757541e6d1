"""When what breaks: a plan drawn from a seed, and what befalls workers and connections."""

import random
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from tests.chaos.history import Recorder, Struck
from tests.chaos.proxy import Connection, Proxy
from tests.chaos.workers import Workers

__all__ = ["Fault", "Strike", "of_connections", "of_workers", "torment"]

Strike: TypeAlias = Callable[[random.Random], Awaitable[str]]
"""Breaks something, and tells what."""


class Fault(Struct, frozen=True):
    """A way to break something."""

    name: str
    strike: Strike


async def torment(
    faults: Sequence[Fault],
    rng: random.Random,
    pauses_s: tuple[float, float],
    is_over: Callable[[], bool],
    recorder: Recorder,
) -> None:
    """Let one fault after another strike, each as often as the others, until it is over."""
    began = monotonic()
    turn: list[Fault] = []
    while True:
        await anyio.sleep(rng.uniform(*pauses_s))
        if is_over():
            return
        turn = turn or rng.sample(faults, len(faults))
        if turn:
            fault, at_s = turn.pop(), monotonic() - began
            recorder.add(Struck(round(at_s, 3), fault.name, await fault.strike(rng)))


def of_workers(workers: Workers, tasks: TaskGroup, lease_s: float) -> list[Fault]:
    """Tell what may befall workers; what takes its time goes on in `tasks`."""

    async def kill(rng: random.Random) -> str:
        return workers.kill(rng.randrange(workers.count))

    async def stop(rng: random.Random) -> str:
        slot, pause_s = rng.randrange(workers.count), lease_s * rng.uniform(1.2, 2.5)
        tasks.start_soon(workers.pause, slot, pause_s)
        return f"worker {slot} for {pause_s:.1f} s"

    async def roll(_: random.Random) -> str:
        tasks.start_soon(workers.roll)
        return "all workers, one after another"

    return [
        Fault("worker killed", kill),
        Fault("worker stopped beyond its lease", stop),
        Fault("rolling restart", roll),
    ]


def of_connections(proxy: Proxy) -> list[Fault]:
    """Tell what may befall the connections through a proxy."""

    def some(rng: random.Random) -> list[Connection]:
        """Choose one connection, some of them, or all."""
        share = rng.choice((0.0, 0.3, 1.0))
        open_ones = proxy.connections
        return rng.sample(open_ones, min(len(open_ones), max(1, round(share * len(open_ones)))))

    def fault(name: str, harm: Callable[[Connection], None]) -> Fault:
        async def strike(rng: random.Random) -> str:
            chosen = some(rng)
            for connection in chosen:
                harm(connection)
            return f"{len(chosen)} connections"

        return Fault(name, strike)

    return [
        fault("connections cut", Connection.cut),
        fault("half-open, requests lost", lambda each: each.swallow("to server")),
        fault("half-open, replies lost", lambda each: each.swallow("to client")),
        fault("reply lost", Connection.lose_reply),
    ]
