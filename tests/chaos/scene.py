"""What a run is made of: a broker, a proxy before it, a client and workers that use the proxy."""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol, Self

import anyio
from msgspec import Struct

from tests.chaos.client import ClientProcess, submitting
from tests.chaos.faults import Fault
from tests.chaos.history import Recorder
from tests.chaos.proxy import Proxy, proxying
from tests.chaos.submitter import Settings
from tests.chaos.workers import Workers
from tests.chaos.workload import FOLDER

__all__ = ["Broker", "Request", "Scene", "set_up"]

_WORKER: Final = ("worker", "tests.chaos.workload:app", "--log-format", "json")
_HEAD_START: Final = 50
_START_S: Final = 60.0


class Broker(Protocol):
    """A queue service that can be broken, opened with ``with``."""

    name: str
    lease_s: float

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    @property
    def port(self) -> int:
        """Where it listens on this host."""
        ...

    def url(self, port: int, *, timeout_s: float = 1) -> str:
        """Give the URL by which to reach it through this port, and what may take how long."""
        ...

    def faults(self) -> Sequence[Fault]:
        """Tell what may befall it."""
        ...


class Request(Struct, frozen=True):
    """What to run: faults for `seconds`, and on until so many `jobs` were acknowledged.

    `rate` is in jobs a second at most, and no more than `most_open` are under way.
    Every `kill_every_s` seconds one comes that ends whatever process handles it, and a share of
    them is `slow`: it takes longer than a lease.
    `command` runs the command line of asyafw. `only` names the faults to use, if not all;
    from one to the next it takes as long as `pauses_s` says, at least and at most.
    Once healed, everything has `patience_s` seconds to come to rest.
    """

    seed: int
    seconds: float
    jobs: int = 0
    workers: int = 6
    rate: float = 1_000
    most_open: int = 1_000
    kill_every_s: float = 25
    slow: float = 0.001
    command: Sequence[str] = ("-m", "asyafw")
    only: Sequence[str] = ()
    pauses_s: tuple[float, float] = (0.5, 2.0)
    patience_s: float = 60


class Scene(Struct, frozen=True):
    """All that takes part in a run; everybody's histories are in `folder`."""

    broker: Broker
    request: Request
    folder: Path
    proxy: Proxy
    client: ClientProcess
    workers: Workers
    recorder: Recorder
    rng: random.Random


@asynccontextmanager
async def set_up(broker: Broker, request: Request, folder: Path) -> AsyncGenerator[Scene, None]:
    """Start everything, with its histories and logs in `folder`."""
    rng = random.Random(request.seed)
    with broker, Recorder(folder / "runner.jsonl") as recorder:
        async with proxying("127.0.0.1", broker.port) as proxy:
            url = broker.url(proxy.port)
            workers = Workers(
                [*request.command, *_WORKER, "--transport", url],
                request.workers,
                folder,
                {FOLDER: str(folder)},
            )
            async with submitting(_settings(broker, request, url, folder)) as client:
                # What is submitted before anybody serves is not to be lost either.
                await client.until(lambda told: told.acknowledged >= _HEAD_START, _START_S)
                async with workers.running():
                    with anyio.fail_after(_START_S):
                        await workers.serve(*range(workers.count))
                    yield Scene(broker, request, folder, proxy, client, workers, recorder, rng)


def _settings(broker: Broker, request: Request, url: str, folder: Path) -> Settings:
    return Settings(
        url=url,
        folder=str(folder),
        seed=request.seed,
        rate=request.rate,
        most_open=request.most_open,
        kill_every_s=request.kill_every_s,
        slow=request.slow,
        slow_s=1.5 * broker.lease_s,
    )
