"""The state that transports share."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import anyio

from asyafw.clock import Clock
from asyafw.coordination import LocalCoordinator
from asyafw.exceptions import ConfigurationError, TransportClosed
from asyafw.memory._joins import Joins
from asyafw.memory._log import Bounds, Log
from asyafw.memory._queue import Admission, Queue, wake
from asyafw.memory._schedule import Schedule
from asyafw.transport import Append, Lag, Out, Part, Send

__all__ = ["Broker"]


class Broker:
    """Queues, logs and joins, for any number of transports in one event loop at a time."""

    def __init__(self, clock: Clock, bounds: Bounds) -> None:
        self.bounds = bounds
        self.schedule = Schedule(clock)
        self.queues: defaultdict[str, Queue] = defaultdict(Queue)
        self.logs: defaultdict[str, Log] = defaultdict(lambda: Log(bounds, self.now()))
        self.joins = Joins(self.queues, self.schedule)
        self.coordinator = LocalCoordinator(self.now)
        self._own_clock = clock
        self._owners: dict[object, Callable[[], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = anyio.Lock()

    def now(self) -> float:
        return self.schedule.clock.now()

    def enter(self, owner: object, close: Callable[[], None], clock: Clock | None) -> None:
        """Let a transport in, and have its clock, unless None, tell the time.

        `close` is called if it is still there when its event loop is not.

        Raises:
            ConfigurationError: another one is open in another event loop, or with another clock.
        """
        loop = asyncio.get_running_loop()
        if self._owners and self._loop is not loop:
            self._leave_loop()
        if not self._owners:
            self._loop = loop
            self._turn = anyio.Lock()
            self.schedule.clock = clock or self._own_clock
        elif clock not in (None, self.schedule.clock):
            raise ConfigurationError("this memory transport is already open with another clock")
        self._owners[owner] = close

    def _leave_loop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise ConfigurationError(
                "this memory transport is already open in another event loop: "
                "give each loop a name of its own (memory://NAME), or close it there first"
            )
        # The loop ended without closing its transports, and can no longer wake anybody.
        for queue in self.queues.values():
            queue.waiters.clear()
            queue.admissions.clear()
        for log in self.logs.values():
            log.forget_waiters()
        for close in tuple(self._owners.values()):
            close()

    def leave(self, owner: object) -> None:
        """Let a transport out, and end its calls that wait."""
        self._owners.pop(owner, None)
        for queue in self.queues.values():
            for admission in queue.admissions:
                if admission.owner is owner:
                    wake(admission.woken)
        for log in self.logs.values():
            log.wake()

    async def move(self) -> None:
        """Run what falls due, until cancelled; one transport does so and the others stand by."""
        async with self._turn:
            await self.schedule.run()

    def commit(self, outs: Sequence[Out]) -> None:
        """Emit in one step, without waiting.

        Raises:
            ValueError: a part does not fit its join; nothing was emitted.
        """
        if Part in map(type, outs):
            self.joins.check(outs)
        now = self.schedule.clock.now()
        for out in outs:
            if isinstance(out, Send):
                queue = self.queues[out.queue]
                if out.delay_s > 0:
                    self.schedule.add(now + out.delay_s, queue.put_later(out.message))
                else:
                    queue.put(out.message, None, now)
            elif isinstance(out, Append):
                self.logs[out.log].append(out.body, now)
            else:
                self.joins.add(out, now)

    async def emit(self, owner: object, outs: Sequence[Out]) -> None:
        """Emit in one step, once every queue that a message goes to has room for one.

        Raises:
            TransportClosed: `owner` left while this waited.
            ValueError: a part does not fit its join.
        """
        self.joins.check(outs)
        names = {out.queue for out in outs if not isinstance(out, Append)}
        queues = [self.queues[name] for name in names]
        if all(len(queue) < self.bounds.capacity and not queue.admissions for queue in queues):
            self.commit(outs)
            return
        # All lines are joined at once, so the eldest is the first of all of its own: no deadlock.
        admission = Admission(owner, queues, asyncio.get_running_loop().create_future())
        for queue in queues:
            queue.admissions.append(admission)
        try:
            await admission.woken
            if owner not in self._owners:
                raise TransportClosed
            self.commit(outs)
        finally:
            for queue in queues:
                queue.admissions.remove(admission)
            for queue in queues:
                self.make_room(queue)

    def make_room(self, queue: Queue) -> None:
        """Let the first in line for a queue go on, if it can."""
        if queue.admissions:
            first = queue.admissions[0]
            if all(
                len(wanted) < self.bounds.capacity and wanted.admissions[0] is first
                for wanted in first.queues
            ):
                wake(first.woken)

    def lag(self, name: str) -> Lag:
        self.schedule.run_due()
        queue = self.queues.get(name)
        return Lag(0, 0, 0, None, 0) if queue is None else queue.lag(self.now())
