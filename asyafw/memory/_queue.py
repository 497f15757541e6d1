"""A queue."""

import asyncio
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from msgspec import Struct

from asyafw.memory._delivery import Delivery, Lease, Parts
from asyafw.memory._schedule import Action
from asyafw.transport import Lag, Message

__all__ = ["Admission", "Queue", "Waiter", "wake"]


class Waiter(Struct, eq=False):
    """A `receive` that waits for a message."""

    owner: object
    woken: asyncio.Future[None]


class Admission(Struct, eq=False):
    """An `emit` that waits for room on some queues."""

    owner: object
    queues: Sequence["Queue"]
    woken: asyncio.Future[None]


class Queue:
    """Messages in the order of their arrival, and who waits for them or for room."""

    __slots__ = ("_back", "_ready", "admissions", "arrived", "delayed", "leases", "waiters")

    def __init__(self) -> None:
        self._ready: deque[Delivery] = deque()
        # What came back. It has been at the front, so all of it is older than what is ready.
        self._back: list[tuple[int, Delivery]] = []
        self.waiters: deque[Waiter] = deque()
        self.admissions: deque[Admission] = deque()
        self.leases: set[Lease] = set()
        self.arrived = 0
        self.delayed = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._back)

    def put(self, message: Message, parts: Parts | None, now: float) -> None:
        """Add a message that has never been on the queue."""
        self.arrived = number = self.arrived + 1
        self._ready.append(Delivery(message, parts, number, now))
        if self.waiters:
            self.wake()

    def put_later(self, message: Message) -> Action:
        """Count a message as delayed; the action makes it one that waits."""
        self.delayed += 1

        def put(now: float) -> None:
            self.delayed -= 1
            self.put(message, None, now)

        return put

    def put_back(self, delivery: Delivery, attempts: int) -> None:
        """Give a message its old place again, `attempts` deliveries having been made of it."""
        again = Delivery(
            delivery.message, delivery.parts, delivery.number, delivery.ready_at, attempts
        )
        heappush(self._back, (again.number, again))
        self.wake()

    def take(self, limit: int) -> list[Delivery]:
        """Remove up to `limit` messages, the first come first."""
        ready = self._ready
        if self._back:
            taken = [heappop(self._back)[1] for _ in range(min(limit, len(self._back)))]
            return taken + [ready.popleft() for _ in range(min(limit - len(taken), len(ready)))]
        if len(ready) > limit:
            return [ready.popleft() for _ in range(limit)]
        taken = list(ready)
        ready.clear()
        return taken

    def wake(self) -> None:
        """Let the first in line take what waits; having done so it wakes the next."""
        if self.waiters and (self._ready or self._back):
            wake(self.waiters[0].woken)

    def lag(self, now: float) -> Lag:
        first = self._back[0][1] if self._back else self._ready[0] if self._ready else None
        return Lag(
            backlog=len(self),
            in_flight=sum(len(lease.held) for lease in self.leases),
            delayed=self.delayed,
            # A system clock may be set back.
            oldest_s=None if first is None else max(0.0, now - first.ready_at),
            arrived=self.arrived,
        )


def wake(future: "asyncio.Future[None]") -> None:
    """Wake who awaits `future`, unless somebody did, or it gave up."""
    if not future.done():
        future.set_result(None)
