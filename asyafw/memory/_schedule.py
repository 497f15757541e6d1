"""What is to happen later."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TypeAlias

import anyio

from asyafw.clock import Clock

__all__ = ["Action", "Schedule"]

Action: TypeAlias = Callable[[float], None]
"""Is called with the time at which it runs, which is not before it was due."""

# An event loop's timers overflow somewhere beyond; who sleeps longer looks again in between.
_LONGEST_NAP_S = 3600.0


class Schedule:
    """Runs actions when they are due by the clock.

    One heap and one sleeper serve all of them; nothing happens while there is nothing to wait for.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._heap: list[tuple[float, int, Action]] = []
        self._order = count()
        self._nap: anyio.CancelScope | None = None
        self._wakes_at = inf

    def add(self, due: float, action: Action) -> None:
        """Run `action` once the clock has come to `due`."""
        heappush(self._heap, (due, next(self._order), action))
        if due < self._wakes_at and self._nap is not None:
            self._wakes_at = due
            self._nap.cancel()

    def run_due(self) -> None:
        """Run what is due by now, in the order in which it became due."""
        heap = self._heap
        if heap:
            now = self.clock.now()
            while heap and heap[0][0] <= now:
                heappop(heap)[2](now)

    async def run(self) -> None:
        """Run actions as they become due, until cancelled."""
        while True:
            with anyio.CancelScope() as self._nap:
                self._wakes_at = self._heap[0][0] if self._heap else inf
                if self._wakes_at == inf:
                    await anyio.sleep_forever()
                nap_s = self._wakes_at - self.clock.now()
                await self.clock.sleep(max(0.0, min(nap_s, _LONGEST_NAP_S)))
            self.run_due()
