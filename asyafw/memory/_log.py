"""A log and its readers."""

import asyncio
from collections.abc import Callable
from typing import Self

from msgspec import Struct

from asyafw.exceptions import TransportClosed
from asyafw.transport import Entry

__all__ = ["Bounds", "Log", "Tail"]

# So many entries may be read in a row before other tasks get a chance to run.
_BURST = 64


class Bounds(Struct):
    """How much is kept.

    `capacity` messages wait on a queue before an `emit` has to wait.
    A log keeps its last `log_capacity` entries, none longer than `retention_s` seconds.
    """

    capacity: int = 10_000
    log_capacity: int = 50_000
    retention_s: float = 3600.0


class _Node(Struct, eq=False):
    number: int
    at: float
    body: bytes
    next: "_Node | None" = None


class Log:
    """Entries in the order in which they were appended, as a linked list.

    A reader holds on to the last entry it has read, and thereby to all that follow:
    what is trimmed is gone for later readers only, and nobody has to be asked.
    """

    __slots__ = ("_bounds", "_last", "_size", "_start", "_waiters")

    def __init__(self, bounds: Bounds, now: float) -> None:
        self._bounds = bounds
        # Numbers begin with the microseconds of the epoch, so that a position
        # which outlived its process lies before all entries of the next one.
        self._start = self._last = _Node(int(now * 1_000_000), now, b"")
        self._size = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def append(self, body: bytes, now: float) -> None:
        last = self._last
        last.next = self._last = _Node(last.number + 1, now, body)
        self._size += 1
        if self._size > self._bounds.log_capacity:
            self._drop_first()
        self._trim(now)
        if self._waiters:
            self.wake()

    def _trim(self, now: float) -> None:
        oldest = now - self._bounds.retention_s
        while (first := self._start.next) is not None and first.at < oldest:
            self._drop_first()

    def _drop_first(self) -> None:
        first = self._start.next
        if first is not None:
            self._start = first
            self._size -= 1

    def wake(self) -> None:
        """Wake every reader that waits."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def forget_waiters(self) -> None:
        """Forget readers whose event loop is gone."""
        self._waiters.clear()

    async def grown(self) -> None:
        """Wait until something is appended, or `wake` is called."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def before(self, since_s: float, after: str | None, now: float) -> _Node:
        """Find the entry behind which to begin to read."""
        self._trim(now)
        node = self._start
        if after is not None:
            number = _number(after)
            if number > self._last.number:
                raise ValueError(f"position {after!r} is beyond the end of the log")
            while node.next is not None and node.next.number <= number:
                node = node.next
        elif since_s <= 0:
            node = self._last
        else:
            while node.next is not None and node.next.at <= now - since_s:
                node = node.next
        return node


class Tail:
    """Reads a log from a given entry on; a cancelled read loses nothing, and one may go on."""

    def __init__(self, log: Log, node: _Node, is_open: Callable[[], bool]) -> None:
        self._log = log
        self._node = node
        self._is_open = is_open
        self._burst = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        self._burst += 1
        if self._burst % _BURST == 0:
            await asyncio.sleep(0)
        while True:
            if not self._is_open():
                raise TransportClosed
            if (node := self._node.next) is not None:
                self._node = node
                return Entry(f"{node.number:020d}", node.body)
            await self._log.grown()


def _number(position: str) -> int:
    if not (position.isascii() and position.isdigit()):
        raise ValueError(f"{position!r} is not a position of this log")
    return int(position)
