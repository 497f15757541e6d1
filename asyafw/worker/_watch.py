"""One sweep over all running handlers, in place of a timer for each."""

import asyncio
import time
from contextlib import suppress
from math import inf
from typing import Any

import anyio

from asyafw.context import Context
from asyafw.exceptions import DeadlineExceeded, HandlerTimeout, JobCancelled
from asyafw.middleware import expires_at
from asyafw.telemetry import Metrics

__all__ = ["Sweep", "begin", "calm", "interrupt", "is_stopping"]

_TICK_S = 0.02
_IDLE_TICK_S = 5.0
_ANNOUNCE_AFTER_S = 1.0


class Sweep:
    """Interrupts handlers whose time is over, and tells of those that run for a while.

    It implements `asyafw.middleware.Watch`.
    `swept_at` is when it last ran, on the monotonic clock; it cannot while the loop is blocked.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.swept_at = time.monotonic()
        self._metrics = metrics
        self._running: dict[Context, None] = {}
        self._idle: anyio.Event | None = None

    def enter(self, ctx: Context) -> None:
        self._running[ctx] = None
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    def leave(self, ctx: Context) -> None:
        del self._running[ctx]

    def cancel_job(self, job: str) -> None:
        """Interrupt what runs for a job."""
        for ctx in self._running:
            if ctx.envelope.job == job:
                interrupt(ctx, JobCancelled(job))

    def interrupt_all(self, reason: BaseException) -> None:
        """Interrupt everything."""
        for ctx in self._running:
            interrupt(ctx, reason)

    async def run(self) -> None:
        """Look at every running handler 50 times a second; sleep while there is none."""
        while True:
            self.swept_at = time.monotonic()
            if not self._running:
                self._idle = idle = anyio.Event()
                with anyio.move_on_after(_IDLE_TICK_S):
                    await idle.wait()
            slept_at = time.monotonic()
            await anyio.sleep(_TICK_S)
            now = time.monotonic()
            self._metrics.observe_loop_lag(max(0.0, now - slept_at - _TICK_S))
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        wall = time.time()
        for ctx in self._running:
            if now >= ctx.expires_at:
                interrupt(ctx, _reason(ctx, wall))
            if not ctx.announced and wall - ctx.started_at >= _ANNOUNCE_AFTER_S:
                ctx.announced = True
                ctx.tell("started")


def interrupt(ctx: Context, reason: BaseException) -> None:
    """Cancel a handler, once."""
    if ctx.interrupt is None and ctx.task is not None:
        ctx.interrupt = reason
        ctx.expires_at = inf
        ctx.task.cancel()


def begin(ctx: Context | list[Context], timeout_s: float | None) -> None:
    """Let the timeout of a handler, or of one that has a batch, begin now.

    None is for while it only waits: then the job's deadline alone counts.
    """
    for each in ctx if isinstance(ctx, list) else (ctx,):
        each.expires_at = expires_at(each, timeout_s)


def is_stopping() -> bool:
    """Tell if a cancellation that arrives here is the worker's end, not the handler's own doing."""
    return anyio.current_effective_deadline() == -inf


async def calm(task: "asyncio.Task[Any]") -> None:
    """Undo what a handler did to the task that runs it, by cancelling it."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # where a cancellation that it asked for and did not await arrives
    while task.uncancel():
        pass


def _reason(ctx: Context, wall: float) -> BaseException:
    actor, ran_s = ctx.envelope.route.curr, wall - ctx.started_at
    if ctx.deadline is not None and wall >= ctx.deadline:
        return DeadlineExceeded(f"the job's deadline passed while {actor} was running")
    return HandlerTimeout(f"{actor} ran for {ran_s:.3g} s, longer than its timeout")
