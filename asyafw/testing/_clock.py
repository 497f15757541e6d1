"""A clock that stands still."""

from heapq import heapify, heappop, heappush
from itertools import count

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["ManualClock"]

# Enough turns of the loop for what a wake-up sets in motion, so that the far slower
# `wait_all_tasks_blocked` finds nothing left to wait for.
_TURNS = 50


class ManualClock:
    """A `Clock` whose time passes only when a test says so.

    ::

        clock = ManualClock()
        async with MemoryTransport(clock) as transport:
            await transport.emit(Send("orders", message, delay_s=60))
            await clock.advance(60)
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await checkpoint()
            return
        sleeper = self._now + delay_s, next(self._order), anyio.Event()
        heappush(self._sleepers, sleeper)
        try:
            await sleeper[2].wait()
        finally:
            if not sleeper[2].is_set():
                self._sleepers.remove(sleeper)
                heapify(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking those who sleep in the order in which their time is over.

        Before the time moves on, and at the end, everybody runs until all tasks wait for something.
        Threads and processes are not waited for, nor does this return while a task spins.
        """
        if not seconds >= 0:
            raise ValueError(f"time does not go back: {seconds}")
        end = self._now + seconds
        await _quiet()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now = self._sleepers[0][0]
            while self._sleepers and self._sleepers[0][0] <= self._now:
                heappop(self._sleepers)[2].set()
            await _quiet()
        self._now = max(self._now, end)
        await _quiet()


async def _quiet() -> None:
    for _ in range(_TURNS):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()
