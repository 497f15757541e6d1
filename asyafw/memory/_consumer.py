"""A subscription to a queue."""

import asyncio
from collections.abc import Callable, Sequence

from asyafw.exceptions import TransportClosed
from asyafw.memory._delivery import Delivery, Lease
from asyafw.memory._queue import Queue, Waiter, wake
from asyafw.transport import Out

__all__ = ["Consumer"]


class Consumer:
    """Takes messages from a queue, and owns them until they are settled or it is closed."""

    def __init__(
        self,
        queue: Queue,
        commit: Callable[[Sequence[Out]], None],
        make_room: Callable[[Queue], None],
    ) -> None:
        self._queue = queue
        self._make_room = make_room
        self._lease = Lease(commit, queue.put_back)
        self._closed = False
        queue.leases.add(self._lease)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Take up to `limit` messages, the first come first, or wait for one.

        Those who wait are served in turn, each with its share of what has arrived.
        Other tasks always get a chance to run, so that a full queue cannot keep the loop to itself.

        Raises:
            TransportClosed: the consumer or its transport was closed, perhaps while this waited.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        queue = self._queue
        if queue and not queue.waiters:
            await asyncio.sleep(0)
        self._check_open()
        if queue and not queue.waiters:
            return self._take(limit)
        return await self._wait_and_take(limit)

    async def _wait_and_take(self, limit: int) -> Sequence[Delivery]:
        queue = self._queue
        waiter = Waiter(self, asyncio.get_running_loop().create_future())
        queue.waiters.append(waiter)
        try:
            await waiter.woken
            self._check_open()
            share = -(-len(queue) // len(queue.waiters))
            return self._take(min(limit, share))
        finally:
            queue.waiters.remove(waiter)
            queue.wake()

    def _take(self, limit: int) -> list[Delivery]:
        lease = self._lease
        held = lease.held
        taken = self._queue.take(limit)
        for delivery in taken:
            delivery.attempt += 1
            delivery.lease = lease
            held[delivery] = None
        if self._queue.admissions:
            self._make_room(self._queue)
        return taken

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed

    def close(self) -> None:
        """Put back what was not settled, and end calls that wait."""
        self._closed = True
        self._queue.leases.discard(self._lease)
        self._lease.drop()
        for waiter in self._queue.waiters:
            if waiter.owner is self:
                wake(waiter.woken)
