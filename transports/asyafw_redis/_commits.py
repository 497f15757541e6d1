"""Settle, release and emit: many of them in one step of the server."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import ceil
from struct import Struct as Layout
from time import monotonic
from typing import Any, Final, TypeAlias, cast

from msgspec import Struct

from asyafw.exceptions import TransportClosed, TransportError
from asyafw.transport import Append, Message, Out, Part, Send, check_parts, misfit
from asyafw_redis._errors import FOREIGN, refused, translated
from asyafw_redis._link import Link
from asyafw_redis._options import Options
from asyafw_redis._scripts import COMMIT

__all__ = ["Arm", "Commits"]

Arm: TypeAlias = Callable[[str, float], None]
"""Is told of a queue for which something falls due in so many seconds."""

# The server does nothing else while it runs a batch.
_MOST_STEPS = 256
_MOST_BYTES = 4 * 1024 * 1024
_LARGEST_BYTES: Final = 256 * 1024 * 1024
_LONGEST_S = 1e9
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0

_LENGTH = Layout(">i")


class _Step(Struct, eq=False):
    """The arguments of a step in the script, and who waits for its result.

    `due` has the queues for which it lets something fall due, and in how many seconds.
    """

    arguments: list[Any]
    outs: Sequence[Out]
    size_bytes: int
    due: Sequence[tuple[str, float]]
    done: "asyncio.Future[bool]"


class Commits:
    """Collects the steps of all who wait, and runs them in batches, one at a time.

    While one batch is on its way the next one gathers, so that it is the larger the busier it is.
    A step whose caller was cancelled before it was sent is left out.
    """

    def __init__(self, link: Link, options: Options, arm: Arm) -> None:
        self._link = link
        self._options = options
        self._arm = arm
        self._steps: deque[_Step] = deque()
        self._retention_ms = int(options.retention_s * 1000)
        self._mine = os.urandom(8)
        self._numbers = count()
        self._idle: asyncio.Future[None] | None = None
        self._failures = 0
        self._failing_since = 0.0
        self._closing = False
        self._finished = asyncio.Event()

    def commit(
        self, outs: Sequence[Out], stream: str = "", entry: bytes = b"", consumer: str = ""
    ) -> "asyncio.Future[bool]":
        """Emit `outs`; with a `stream`, acknowledge its `entry` in the same step.

        The result is False if the entry is somebody else's. Its exceptions are
        TransportError: it is unknown whether the step happened, or the server refused it;
        ValueError: a part does not fit its join, or a message is too large for the server.
        """
        arguments: list[Any] = [stream, entry, consumer, len(outs)]
        due: list[tuple[str, float]] = []
        size = 0
        has_parts = False
        for out in outs:
            if isinstance(out, Send):
                message = out.message
                size += len(message.body)
                if out.delay_s > 0:
                    arguments += ("d", out.queue, self._member(message), _ms(out.delay_s))
                    due.append((out.queue, out.delay_s))
                elif message.key is None:
                    arguments += ("m", out.queue, message.body)
                else:
                    arguments += ("k", out.queue, message.key, message.body)
                continue
            size += len(out.body)
            if isinstance(out, Append):
                arguments += ("e", out.log, out.body)
            else:
                has_parts = True
                arguments += ("p", out.queue, out.join, out.index, out.total, out.body)
                arguments.append(_ms(out.timeout_s))
                due.append((out.queue, out.timeout_s))
        if has_parts:
            check_parts(outs)
        if size > _LARGEST_BYTES:
            raise ValueError(
                f"{size} bytes in one step are more than Redis takes: {_LARGEST_BYTES}"
            )
        return self._add(arguments, outs, size, due)

    def release(self, stream: str, entry: bytes) -> "asyncio.Future[bool]":
        """Hand back an entry, without counting its delivery."""
        return self._add([stream, entry, "", -1])

    def _add(
        self,
        arguments: list[Any],
        outs: Sequence[Out] = (),
        size_bytes: int = 0,
        due: Sequence[tuple[str, float]] = (),
    ) -> "asyncio.Future[bool]":
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        is_acknowledging = bool(arguments[0])
        if self._finished.is_set() or (self._closing and not is_acknowledging):
            done.set_exception(TransportClosed())
            return done
        self._steps.append(_Step(arguments, outs, size_bytes, due, done))
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
        return done

    def _member(self, message: Message) -> bytes:
        """Give the message the form that it has in a sorted set, where all members differ."""
        own = self._mine + next(self._numbers).to_bytes(8, "big")
        if message.key is None:
            return own + _LENGTH.pack(-1) + message.body
        key = message.key.encode()
        return own + _LENGTH.pack(len(key)) + key + message.body

    async def run(self) -> None:
        """Run batches until `close` has been called and nothing waits."""
        try:
            while True:
                if not self._steps:
                    if self._closing:
                        return
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
                    continue
                try:
                    await self._link.open()
                except FOREIGN as error:
                    await self._wait(translated(error, self._options))
                    continue
                self._failures = 0
                await self._run_batch(self._batch())
        finally:
            self._finished.set()
            self._fail(TransportClosed())
            await self._link.close()

    async def close(self) -> None:
        """Take no more to be emitted, and wait until everything taken has its result."""
        self._closing = True
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
        await self._finished.wait()

    async def _wait(self, error: TransportError) -> None:
        """Wait before the next try to connect; those that have waited too long get the error."""
        if not self._failures:
            self._failing_since = monotonic()
        self._failures += 1
        if self._closing or monotonic() - self._failing_since >= self._options.timeout_s:
            self._fail(error)
        else:
            pause_s = _FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10)
            await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S))

    def _fail(self, error: TransportError) -> None:
        steps, self._steps = self._steps, deque()
        for step in steps:
            _finish(step, error)

    def _batch(self) -> list[_Step]:
        batch: list[_Step] = []
        size = 0
        while self._steps and len(batch) < _MOST_STEPS and size < _MOST_BYTES:
            step = self._steps.popleft()
            if not step.done.done():
                batch.append(step)
                size += step.size_bytes
        return batch

    async def _run_batch(self, batch: list[_Step]) -> None:
        arguments = [self._options.prefix, self._retention_ms]
        for step in batch:
            arguments += step.arguments
        try:
            results = await self._link.run(COMMIT, *arguments)
        except FOREIGN as error:
            results = [translated(error, self._options)] * len(batch)
        for step, result in zip(batch, results, strict=True):
            _finish(step, self._result(step, result))

    def _result(self, step: _Step, result: Any) -> bool | Exception:
        if result == 1:
            for queue, delay_s in step.due:
                self._arm(queue, delay_s)
            return True
        if result == 0:
            return False
        if isinstance(result, list):
            number, total = cast("list[int]", result)
            part = step.outs[number - 1]
            assert isinstance(part, Part), "only parts can misfit"  # noqa: S101 — for type checkers
            return misfit(part, total)
        if isinstance(result, bytes):
            return refused(result.decode(errors="replace"), self._options)
        error: TransportError = result
        return error


def _ms(seconds: float) -> int:
    return ceil(min(seconds, _LONGEST_S) * 1000)


def _finish(step: _Step, result: bool | Exception) -> None:  # noqa: FBT001 — a value, no option
    if step.done.done():
        return
    if isinstance(result, Exception):
        # A copy for each: who raises one adds to its traceback.
        step.done.set_exception(type(result)(str(result)))
    else:
        step.done.set_result(result)
