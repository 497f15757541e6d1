"""One run: break what runs, let it heal, and judge what was recorded."""

import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Final

import anyio
from anyio import to_thread
from msgspec import Struct

from tests.chaos.checker import Aftermath, Verdict, check
from tests.chaos.client import ClientProcess
from tests.chaos.faults import of_connections, of_workers, torment
from tests.chaos.history import read_histories
from tests.chaos.rest import come_to_rest
from tests.chaos.scene import Broker, Request, Scene, set_up

__all__ = ["Report", "run"]


_TELL_EVERY_S: Final = 15.0


class Report(Struct, frozen=True):
    """What came of a run: jobs a second while it was broken, and what it took to come to rest."""

    broker: str
    request: Request
    verdict: Verdict
    exits: Mapping[str, int]
    broken_s: float
    jobs_per_s: float
    drain_s: float


async def run(broker: Broker, request: Request, folder: Path) -> Report:
    """Run once, with all histories and logs in `folder`."""
    async with set_up(broker, request, folder) as scene:
        began = monotonic()
        await _break(scene)
        broken_s = monotonic() - began
        jobs_per_s = scene.client.progress.acknowledged / broken_s
        rest = await come_to_rest(scene)
    workers = scene.workers
    aftermath = Aftermath(rest.left, rest.idle, workers.stuck, workers.crashed)
    verdict = await to_thread.run_sync(lambda: check(read_histories(folder), aftermath))
    exits = dict(workers.exits)
    return Report(broker.name, request, verdict, exits, broken_s, jobs_per_s, rest.drain_s)


async def _break(scene: Scene) -> None:
    """Let faults strike until the time is over and enough jobs are in."""
    request, client = scene.request, scene.client
    ends_at = monotonic() + request.seconds

    def is_over() -> bool:
        return monotonic() >= ends_at and client.progress.acknowledged >= request.jobs

    async with anyio.create_task_group() as tasks:
        faults = [
            *of_connections(scene.proxy),
            *of_workers(scene.workers, tasks, scene.broker.lease_s),
            *scene.broker.faults(),
        ]
        if unknown := set(request.only) - {fault.name for fault in faults}:
            raise ValueError(f"there is no fault {unknown}; there are {[f.name for f in faults]}")
        chosen = [fault for fault in faults if not request.only or fault.name in request.only]
        tasks.start_soon(_tell, client)
        await torment(chosen, scene.rng, request.pauses_s, is_over, scene.recorder)
        # Who is stopped goes on; connections that are half-open stay so, as they would.
        tasks.cancel_scope.cancel()


async def _tell(client: ClientProcess) -> None:
    """Show that a long run goes on."""
    while True:
        await anyio.sleep(_TELL_EVERY_S)
        told = client.progress
        sys.stderr.write(f"{told.acknowledged:,} jobs acknowledged, {told.open:,} under way\n")
