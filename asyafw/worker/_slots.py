"""One actor's deliveries: a reader takes them, slots handle them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from asyafw._actor import Actor
from asyafw._backoff import back_off
from asyafw.exceptions import TransportClosed, TransportError
from asyafw.telemetry import ActorMetrics
from asyafw.transport import Consumer, Delivery, Transport
from asyafw.worker._processes import LONGEST_START_S
from asyafw.worker._settling import release

__all__ = ["Lane", "Process"]

Process: TypeAlias = Callable[[Delivery, "asyncio.Task[Any]"], Awaitable[bool]]
"""Handles and settles one delivery in the slot's task; gives False if that can take no other."""

_LONGEST_PAUSE_S = 60.0


class Lane:
    """The queue of one actor, as one worker serves it.

    A slot is a task that takes one delivery after another; slots are started as they are needed.
    The reader asks for no more than there are free slots: that is the back-pressure.
    """

    def __init__(self, actor: Actor[..., Any], process: Process, metrics: ActorMetrics) -> None:
        self.actor = actor
        self.progressed_at = monotonic()
        self._process = process
        self._metrics = metrics
        self._free = actor.slots
        self._started = 0
        self._ready: deque[Delivery] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._waking = False
        self._freed: asyncio.Future[None] | None = None
        self._drained: anyio.Event | None = None
        self._reader = anyio.CancelScope()
        self._slots: TaskGroup | None = None

    @property
    def in_hand(self) -> int:
        """How many deliveries are not settled yet."""
        return self.actor.slots - self._free

    @property
    def patience_s(self) -> float:
        """How long none may come while messages wait in the queue."""
        if self._free:
            return _LONGEST_PAUSE_S
        timeout_s, batch = self.actor.timeout_s, self.actor.batch
        # Those of a batch that fails run again one by one.
        runs = batch.max_size + 1 if batch else 1
        return inf if timeout_s is None else LONGEST_START_S + timeout_s * runs

    async def serve(self, transport: Transport, *, task_status: TaskStatus[None]) -> None:
        """Consume and handle, until cancelled; after `stop` handle what is in hand."""
        self.progressed_at = monotonic()
        async with (
            transport.consume(self.actor.name) as consumer,
            anyio.create_task_group() as self._slots,
        ):
            task_status.started()
            with self._reader:
                await self._read(consumer)
            await anyio.sleep_forever()

    async def stop(self) -> None:
        """Receive nothing more, and hand back what no slot has begun."""
        self._reader.cancel()
        while self._ready:
            delivery = self._ready.popleft()
            self._give_back_slot()
            await release(delivery, self.actor.name)

    async def drained(self) -> None:
        """Wait until nothing is in hand."""
        self._drained = anyio.Event()
        if self.in_hand:
            await self._drained.wait()

    async def _read(self, consumer: Consumer) -> None:
        failures = 0
        while True:
            if not self._free:
                self._freed = asyncio.get_running_loop().create_future()
                await self._freed
                self._freed = None
            try:
                deliveries = await consumer.receive(self._free)
            except TransportClosed:
                raise
            except TransportError as error:
                failures += 1
                await back_off(failures, f"{self.actor.name} cannot receive", error)
                self.progressed_at = monotonic()
                continue
            failures = 0
            self.progressed_at = monotonic()
            count = len(deliveries)
            self._free -= count
            self._metrics.in_flight += count
            self._ready.extend(deliveries)
            self._wake()

    def _wake(self) -> None:
        """Let one slot more run, which does so in turn if anything is left for another.

        A slot whose handlers never wait takes all there is, before a second one even wakes.
        """
        if self._waking:
            return
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                self._waking = True
                return
        if self._slots is not None and self._started < self.actor.slots:
            self._started += 1
            self._waking = True
            self._slots.start_soon(self._slot, name=f"asyafw {self.actor.name} {self._started}")

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a slot is a task"  # noqa: S101 — for type checkers
        loop, ready, process = asyncio.get_running_loop(), self._ready, self._process
        while True:
            self._waking = False
            while ready:
                delivery = ready.popleft()
                if ready:
                    self._wake()
                try:
                    is_reusable = await process(delivery, task)
                finally:
                    self._give_back_slot()
                if not is_reusable:
                    self._started -= 1
                    return
            future = loop.create_future()
            self._idle.append(future)
            await future

    def _give_back_slot(self) -> None:
        self._free += 1
        self._metrics.in_flight -= 1
        if self._freed is not None and not self._freed.done():
            self._freed.set_result(None)
        if self._drained is not None and not self.in_hand:
            self._drained.set()
