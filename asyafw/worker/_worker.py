"""A worker: some actors of an app, served in this process."""

import logging
import time
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self, TypeAlias

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct

from asyafw._actor import Actor
from asyafw._outcome import Rules
from asyafw.blobs import Blobs
from asyafw.coordination import Coordinating, Coordinator, LocalCoordinator
from asyafw.envelope import MSGPACK, Codec
from asyafw.exceptions import ConfigurationError, TransportError
from asyafw.middleware import Middleware
from asyafw.telemetry import Metrics
from asyafw.transport import Transport
from asyafw.worker._batches import Batcher
from asyafw.worker._calls import open_handler
from asyafw.worker._control import Cancellations
from asyafw.worker._notices import Notices
from asyafw.worker._processing import Drained, Processor, Surroundings
from asyafw.worker._results import result_encoder
from asyafw.worker._slots import Lane
from asyafw.worker._watch import Sweep

__all__ = ["Lifespan", "Setup", "Worker"]

Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens what handlers find in `Context.state`."""

_MEASURE_EVERY_S = 5.0
_STUCK_AFTER_S = 300.0
_GRACE_S = 5.0

_logger = logging.getLogger("asyafw.worker")


class Setup(Struct, frozen=True):
    """What an app gives to its workers."""

    rules: Rules = Rules()
    middleware: Sequence[Middleware] = ()
    blobs: Blobs | None = None
    lifespan: Lifespan | None = None
    codec: Codec = MSGPACK
    drain_timeout_s: float = 30.0
    max_deliveries: int = 5


class Worker:
    """Serves actors between ``async with`` and its end, which drains it.

    To drain is to receive nothing more, to finish what is in hand within `Setup.drain_timeout_s`,
    and to hand the rest back to its queues.
    Also when everything around the worker is cancelled it drains first.
    """

    def __init__(
        self,
        actors: Mapping[str, Actor[..., Any]],
        transport: Transport,
        setup: Setup,
        metrics: Metrics | None = None,
    ) -> None:
        self.actors = actors
        self.metrics = metrics or Metrics()
        self._transport = transport
        self._setup = setup
        self._sweep = Sweep(self.metrics)
        self._notices = Notices(setup.codec, self.metrics)
        self._cancellations = Cancellations(self._sweep.cancel_job)
        self._lanes: list[Lane] = []
        self._tasks: TaskGroup | None = None
        self._leaving = anyio.Event()
        self._unreachable: str | None = None
        self._state = "starting"

    async def __aenter__(self) -> Self:
        """Connect, open the actors, and begin to receive.

        Raises:
            TransportError: the transport cannot be reached.
            ConfigurationError: an actor cannot be served as it is declared.
        """
        if self._tasks is not None:
            raise ConfigurationError("a worker serves once; `app.worker(...)` makes another")
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            await self._tasks.start(self._run, name="asyafw worker")
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, *exc_info: Any) -> None:  # noqa: PYI036 — as the group's types
        if self._tasks is None:
            return
        self._leaving.set()
        # Told of an exception of the body's, the group would wrap it.
        cancelled = isinstance(exc_info[1], CancelledError)
        await self._tasks.__aexit__(*(exc_info if cancelled else (None, None, None)))

    def healthy(self) -> str | None:
        """Say what is wrong so that only a restart can help, or None."""
        now = time.monotonic()
        blocked_s = now - self._sweep.swept_at
        if self._state == "running" and blocked_s > _STUCK_AFTER_S:
            return f"the event loop has been blocked for {blocked_s:.0f} s"
        if self._unreachable is not None:
            return None
        for lane in self._lanes:
            lag = self.metrics.actor(lane.actor.name).lag
            idle_s = now - lane.progressed_at
            if lag is not None and lag.backlog and idle_s > lane.patience_s:
                return f"{lane.actor.name} has {lag.backlog} messages, none came in {idle_s:.0f} s"
        return None

    def ready(self) -> str | None:
        """Say why this worker does not receive messages now, or None."""
        return f"the worker is {self._state}" if self._state != "running" else self._unreachable

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        """Live from the first connection to the last, in a task whose end is the worker's own."""
        with CancelScope() as life:
            try:
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(self._transport)
                    served = await self._open(stack)
                    async with anyio.create_task_group() as tasks:
                        await self._start(served, tasks)
                        # Whatever is cancelled around it: what is in hand would only come again.
                        life.shield = True
                        self._state = "running"
                        task_status.started()
                        await self._leaving.wait()
                        await self._drain()
                        tasks.cancel_scope.cancel()
            except ExceptionGroup as failures:
                raise (failure := _unwrapped(failures)) from failure.__cause__
            finally:
                self._state = "stopped"

    async def _open(self, stack: AsyncExitStack) -> "Sequence[tuple[Lane, Batcher | None]]":
        setup = self._setup
        state = await stack.enter_async_context(setup.lifespan()) if setup.lifespan else None
        around = Surroundings(
            rules=setup.rules,
            state=state,
            middleware=setup.middleware,
            blobs=setup.blobs,
            metrics=self.metrics,
            watch=self._sweep,
            notify=self._notices.add,
            cancelled_jobs=self._cancellations.jobs,
            max_deliveries=setup.max_deliveries,
            coordinator=_coordinator(self._transport),
        )
        return [await self._lane(actor, around, stack) for actor in self.actors.values()]

    async def _lane(
        self, actor: Actor[..., Any], around: Surroundings, stack: AsyncExitStack
    ) -> tuple[Lane, Batcher | None]:
        children = around.rules.limits.children
        handler = await open_handler(actor, stack, result_encoder(actor), children)
        batcher = Batcher(actor, actor.batch, handler) if actor.batch else None
        processor = Processor(actor, batcher or handler, around)
        return Lane(actor, processor, self.metrics.actor(actor.name)), batcher

    async def _start(self, served: Sequence[tuple[Lane, Batcher | None]], tasks: TaskGroup) -> None:
        tasks.start_soon(self._sweep.run, name="asyafw sweep")
        tasks.start_soon(self._notices.run, self._transport, name="asyafw notices")
        await tasks.start(self._cancellations.run, self._transport, name="asyafw control")
        for lane, batcher in served:
            if batcher is not None:
                for _ in range(lane.actor.concurrency):
                    tasks.start_soon(batcher.run, name=f"asyafw batch {lane.actor.name}")
            await tasks.start(lane.serve, self._transport, name=f"asyafw {lane.actor.name}")
            self._lanes.append(lane)
        tasks.start_soon(self._measure, name="asyafw lag")

    async def _measure(self) -> None:
        while True:
            try:
                for lane in self._lanes:
                    name = lane.actor.name
                    self.metrics.actor(name).lag = await self._transport.lag(name)
                self._unreachable = None
            except TransportError as error:
                self._unreachable = str(error)
            await anyio.sleep(_MEASURE_EVERY_S)

    async def _drain(self) -> None:
        self._state = "draining"
        async with anyio.create_task_group() as tasks:
            for lane in self._lanes:
                tasks.start_soon(lane.stop)
        with anyio.move_on_after(self._setup.drain_timeout_s):
            await self._all_drained()
        if left := sum(lane.in_hand for lane in self._lanes):
            _logger.warning("the worker stops and gives %d messages back", left)
            self._sweep.interrupt_all(Drained())
            with anyio.move_on_after(_GRACE_S):
                await self._all_drained()
        with anyio.move_on_after(_GRACE_S):
            await self._notices.flush(self._transport)

    async def _all_drained(self) -> None:
        for lane in self._lanes:
            await lane.drained()


def _coordinator(transport: Transport) -> Coordinator:
    """Give what is shared with other workers, or what this one has to itself."""
    return transport.coordinator if isinstance(transport, Coordinating) else LocalCoordinator()


def _unwrapped(failure: Exception) -> Exception:
    """Give what is alone in a group, and in groups of groups."""
    inside: tuple[Exception, ...] = getattr(failure, "exceptions", ())
    return _unwrapped(inside[0]) if len(inside) == 1 else failure
