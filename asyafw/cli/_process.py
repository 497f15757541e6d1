"""How a command that serves runs, and how its process ends, whatever its handlers do."""

import asyncio
import contextvars
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Self, TypeAlias, TypeVar

import anyio

from asyafw._connect import redacted
from asyafw.cli._errors import leaves
from asyafw.worker import Worker

__all__ = [
    "Stop",
    "leave_threads_behind",
    "longest_end_s",
    "open_closed_streams",
    "run_async",
    "run_loop",
    "serve",
    "serve_until_stopped",
]

T = TypeVar("T")

FORCED = 1
"""The exit code of a process that ends before its work is settled or handed back."""

# A worker gives handlers 5 s more to react to their cancellation, and its transport as many.
_GRACE_S = 10.0
_LEAVE_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_logger = logging.getLogger("asyafw.cli")

_Order: TypeAlias = tuple[float, int] | None


class Stop:
    """Listens for SIGINT and SIGTERM between ``with`` and its end.

    The first asks for the end: the action that was set last is called in the event loop,
    and the process has `limit_s` seconds left.
    The second ends it at once. So does a first one while nobody acts on it for too long,
    such as a handler that blocks the event loop or ignores its cancellation.
    A process that has a parent leaves the second to it: the first may come from both
    the parent and whoever stops it.
    """

    def __init__(self, limit_s: float, *, has_parent: bool = False) -> None:
        self.signum: int | None = None
        self._told = False
        self._limit_s = limit_s
        self._has_parent = has_parent
        self._action: Callable[[], Any] = lambda: None
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        self._previous: dict[int, Any] = {}
        self._wake: Callable[[], Any] = lambda: None

    def __enter__(self) -> Self:
        # Started here, because a signal may interrupt the very code that starts threads.
        threading.Thread(target=self._watch, name="asyafw-exit", daemon=True).start()
        for signum in _SIGNALS:
            self._previous[signum] = signal.signal(signum, self._signalled)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, previous)
        self._orders.put(None)

    def call(self, action: Callable[[], Any]) -> None:
        """Have `action` called when the first signal comes, or soon if it has come."""
        loop = asyncio.get_running_loop()
        # Of its own, because a signal interrupts whatever is running, with the ids that it logs.
        context = contextvars.copy_context()
        self._action = action
        self._wake = lambda: loop.call_soon_threadsafe(self._act, context=context)
        if self.signum is not None:
            self._wake()

    async def wait(self) -> None:
        """Wait for the first signal."""
        asked = anyio.Event()
        self.call(asked.set)
        await asked.wait()

    def end_within(self, limit_s: float, code: int) -> None:
        """Leave the process `limit_s` seconds left, then end it with `code`."""
        self._orders.put((limit_s, code))

    def exit_code(self) -> int:
        """Give the code by which shells know what a signal ended, or 0 without one."""
        return 0 if self.signum is None else 128 + self.signum

    def _act(self) -> None:
        if not self._told:
            self._told = True
            hint = "" if self._has_parent else "; a second signal ends it at once"
            _logger.info("stopping, once what is in hand is done%s", hint)
        self._action()

    def _signalled(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            if self._has_parent:
                return
            os._exit(128 + signum)
        self.signum = signum
        self.end_within(self._limit_s, FORCED)
        with suppress(RuntimeError):  # the loop is closed already
            self._wake()

    def _watch(self) -> None:
        order = self._orders.get()
        while order is not None:
            limit_s, code = order
            try:
                order = self._orders.get(timeout=limit_s)
            except Empty:
                os.write(2, b"asyafw: something still runs and cannot be stopped: left it behind\n")
                os._exit(code)


def run_async(
    main: Callable[[Stop], Awaitable[int]], *, drain_timeout_s: float, has_parent: bool = False
) -> int:
    """Run `main` in an event loop, uvloop's if that is installed, and give its exit code."""
    with Stop(drain_timeout_s + _GRACE_S, has_parent=has_parent) as stop:

        async def until_done() -> int:
            code = FORCED
            try:
                code = await main(stop)
            finally:
                # The loop waits for the threads of `asyncio.to_thread`, and these may be stuck.
                stop.end_within(_LEAVE_S, code)
            return code

        return run_loop(until_done)


def longest_end_s(drain_timeout_s: float) -> float:
    """Tell how long after a signal a process may end that has not lost control of itself."""
    # One is for the threads of the event loop, one for the others.
    return drain_timeout_s + _GRACE_S + 2 * _LEAVE_S


def run_loop(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` in an event loop, uvloop's if that is installed.

    An exception that is alone in a group is raised without it.
    """
    try:
        return anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    except BaseExceptionGroup as group:
        first, *others = leaves(group)
        if others:
            raise
    raise first


async def serve_until_stopped(
    worker: Worker, stop: Stop, transport: str, begun: Callable[[], Any] = lambda: None
) -> None:
    """Serve until a signal comes, then drain; `begun` is called in between, when it serves."""
    served, where = ", ".join(worker.actors), redacted(transport)

    async def tell_and_wait() -> None:
        _logger.info("serving %s on %s", served, where)
        begun()
        await stop.wait()

    _logger.info("opening %s on %s", served, where)
    await serve(worker, stop, tell_and_wait)


async def serve(worker: Worker, stop: Stop, work: Callable[[], Awaitable[None]]) -> None:
    """Serve until `work` is done, then drain; a signal before it begins ends the opening.

    Then the task is cancelled by itself: a scope would also cancel the handlers that have begun.
    """
    task = asyncio.current_task()
    assert task is not None, "anyio runs tasks"  # noqa: S101 — for type checkers
    stop.call(task.cancel)
    try:
        async with worker:
            await work()
    except asyncio.CancelledError:
        if stop.signum is None:
            raise
        task.uncancel()


def open_closed_streams() -> None:
    """Let those of the three standard streams that are closed lead nowhere.

    Other files would take their numbers, which libuv, for one, does not allow.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 — for as long as the process lives
            setattr(sys, name, stream)


def leave_threads_behind(code: int, known: set[threading.Thread]) -> None:
    """End the process if threads beside those `known` still run: Python would wait for them."""
    latest = time.monotonic() + _LEAVE_S
    for thread in set(threading.enumerate()) - known:
        if not thread.daemon:
            thread.join(max(0.0, latest - time.monotonic()))
            if thread.is_alive():
                _flush()
                os._exit(code)


def _flush() -> None:
    """Write what is still to be written, unless that, too, is what a thread is stuck in."""

    def flush() -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()

    flusher = threading.Thread(target=flush, daemon=True)
    flusher.start()
    flusher.join(_LEAVE_S)
