"""What is looked at once nothing breaks any more."""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

import anyio
from msgspec import Struct

from asyafw.dead_letters import DeadLetter, browse
from asyafw.transport import Transport
from tests.chaos.history import Letter
from tests.chaos.scene import Scene
from tests.chaos.workload import app, plan_of

__all__ = ["Rest", "come_to_rest"]

_TICK_S: Final = 0.1
_MOST_LETTERS: Final = 10**9


class Rest(Struct, frozen=True):
    """How long it took until nothing moved, what the queues held then, and who was idle."""

    drain_s: float
    left: Mapping[str, str]
    idle: Sequence[str]


async def come_to_rest(scene: Scene) -> Rest:
    """Submit nothing more, wait until nothing moves, and look; dead letters are recorded."""
    began, patience_s = monotonic(), scene.request.patience_s
    await scene.client.tell("pause")
    broker = scene.broker
    async with app.connect(broker.url(broker.port, timeout_s=patience_s)) as observer:
        transport = observer.transport
        left = await _wait(scene, transport, patience_s)
        drain_s = monotonic() - began
        idle: list[str] = []
        if not left:
            idle = await _probe(scene, patience_s)
            left = await _wait(scene, transport, patience_s)
        for letter in await browse(transport, _MOST_LETTERS):
            scene.recorder.add(_record(letter))
    return Rest(drain_s, left, idle)


async def _wait(scene: Scene, transport: Transport, patience_s: float) -> Mapping[str, str]:
    """Wait until all jobs have ended and all queues are empty, and tell what is not."""
    latest = monotonic() + patience_s
    left = await _left(scene, transport)
    while left and monotonic() < latest:
        await anyio.sleep(_TICK_S)
        left = await _left(scene, transport)
    return left


async def _left(scene: Scene, transport: Transport) -> Mapping[str, str]:
    left: dict[str, str] = {}
    told = scene.client.progress
    if told.open or told.submitting:
        left["jobs"] = f"{told.open} have not ended, {told.submitting} are being submitted"
    for name in app.actors:
        lag = await transport.lag(name)
        if lag.backlog or lag.in_flight or lag.delayed:
            left[name] = f"{lag.backlog} wait, {lag.in_flight} in flight, {lag.delayed} delayed"
    return left


async def _probe(scene: Scene, patience_s: float) -> list[str]:
    """Submit until every worker has handled something, and tell which have not."""
    before = _runs(scene)
    idle = set(before)
    latest = monotonic() + patience_s
    while idle and monotonic() < latest:
        await scene.client.probe(patience_s)
        now = _runs(scene)
        idle = {slot for slot in idle if now[slot] in (0, before[slot])}
    return [f"worker {slot}" for slot in sorted(idle)]


def _runs(scene: Scene) -> dict[int, int]:
    """Tell how much the present process of each slot has recorded, in bytes."""
    paths = {slot: scene.workers.history(pid) for slot, pid in scene.workers.pids.items()}
    return {
        slot: paths[slot].stat().st_size if slot in paths and paths[slot].exists() else 0
        for slot in range(scene.workers.count)
    }


def _record(letter: DeadLetter) -> Letter:
    envelope, error = letter.envelope, letter.error
    if envelope is None or error is None:
        return Letter(-1, letter.id, letter.actor or "", "undecodable")
    return Letter(plan_of(envelope.headers).n, envelope.job, envelope.route.curr, error.type)
