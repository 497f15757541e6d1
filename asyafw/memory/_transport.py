"""The transport of `memory://`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

import anyio
from anyio.abc import TaskGroup

from asyafw.clock import SYSTEM_CLOCK, Clock
from asyafw.coordination import Coordinator
from asyafw.exceptions import ConfigurationError, TransportClosed
from asyafw.memory._broker import Broker
from asyafw.memory._consumer import Consumer
from asyafw.memory._log import Bounds, Tail
from asyafw.transport import Lag, Out

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """A handle on queues and logs in this process, opened with ``async with``.

    Each one made has queues and logs of its own; `share` makes another handle on the same ones.

    `emit` waits while a queue it sends to holds `capacity` messages that wait to be delivered,
    first come first served; room for one message is room for all of the step.
    `Delivery.settle` never waits, so what actors send each other may go beyond `capacity`.
    A log keeps its last `log_capacity` entries, none for longer than `retention_s` seconds,
    and an open reader still gets all that followed what it has read.

    Give `broker`, as `share` does, to use the clock and the bounds of that one instead.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        capacity: int = 10_000,
        log_capacity: int = 50_000,
        retention_s: float = 3600.0,
        *,
        broker: Broker | None = None,
    ) -> None:
        self._clock = clock
        self._broker = broker or Broker(
            clock or SYSTEM_CLOCK, Bounds(capacity, log_capacity, retention_s)
        )
        self._consumers: set[Consumer] = set()
        self._open = False
        self._tasks: TaskGroup | None = None
        self._mover: anyio.CancelScope | None = None

    def share(self) -> Self:
        """Make another handle, to be opened by itself, on the same queues and logs."""
        return type(self)(broker=self._broker)

    @property
    def coordinator(self) -> Coordinator:
        """Turns and circuits, shared by all handles on the same queues."""
        return self._broker.coordinator

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise ConfigurationError("this memory transport is already open; `share` gives another")
        self._broker.enter(self, self._drop, self._clock)
        self._open = True
        self._mover = anyio.CancelScope()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._move, self._mover, name="memory transport: delays")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.crash()
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            # Not told of the exception, the group lets it pass as it is.
            await tasks.__aexit__(None, None, None)

    async def _move(self, mover: anyio.CancelScope) -> None:
        with mover:
            await self._broker.move()

    async def crash(self) -> None:
        """Behave as if the process of this handle had died, for tests.

        Its deliveries are on their queues again, and all its calls raise `TransportClosed`.
        """
        if self._mover is not None:
            self._mover.cancel()
        self._drop()

    def _drop(self) -> None:
        self._open = False
        for consumer in tuple(self._consumers):
            consumer.close()
        self._broker.leave(self)

    async def emit(self, *out: Out) -> None:
        """Emit `out` in one step, waiting for room first; a cancelled call has emitted nothing.

        Raises:
            TransportClosed: before the call, or while it waited.
            ValueError: a part does not fit its join; nothing was emitted.
        """
        await asyncio.sleep(0)
        self._check_open()
        await self._broker.emit(self, out)

    @asynccontextmanager
    async def consume(self, queue: str) -> AsyncGenerator[Consumer, None]:
        self._check_open()
        consumer = Consumer(self._broker.queues[queue], self._broker.commit, self._broker.make_room)
        self._consumers.add(consumer)
        try:
            yield consumer
        finally:
            self._consumers.discard(consumer)
            consumer.close()

    def tail(self, log: str, *, since_s: float = 0, after: str | None = None) -> Tail:
        """Read a log from here: what is appended after this call is read, whenever reading begins.

        Raises:
            TransportClosed: now, or when it is read, the transport being closed.
            ValueError: `after` is no position, or one that nothing in this log has reached.
        """
        self._check_open()
        read = self._broker.logs[log]
        return Tail(read, read.before(since_s, after, self._broker.now()), lambda: self._open)

    async def lag(self, queue: str) -> Lag:
        """Measure a queue, exactly.

        A delayed message counts as arrived when its time has come, a join when it is complete.
        """
        self._check_open()
        return self._broker.lag(queue)

    def _check_open(self) -> None:
        if not self._open:
            raise TransportClosed
