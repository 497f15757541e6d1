"""Micro-batches: messages that wait in their own slots are handled by one call."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeGuard

import anyio
from msgspec import Struct

from asyafw._actor import Actor, Batch
from asyafw.context import Context
from asyafw.exceptions import HandlerCancelled, ResultTypeError, Retry
from asyafw.middleware import contained
from asyafw.worker._watch import begin, calm, is_stopping

__all__ = ["Batcher"]

_Call: TypeAlias = Callable[[Any, Any], Awaitable[Any]]


class _Item(Struct, eq=False):
    """A message's place in a batch; `result` is what the handler gave for it, or an exception."""

    payload: Any
    ctx: Context
    result: asyncio.Future[Any]


class Batcher:
    """Gathers the payloads of an actor's slots; an `asyafw.middleware.Handler` to each of them.

    As many batches run at a time as the actor's `concurrency` says.
    If a call for several messages fails, each is run again by itself before it is blamed.
    """

    def __init__(self, actor: Actor[..., Any], batch: Batch, call: _Call) -> None:
        self._name = actor.name
        self._batch = batch
        self._timeout_s = actor.timeout_s
        self._call = call
        self._waiting: deque[_Item] = deque()
        self._more: asyncio.Future[None] | None = None
        self._forming = anyio.Lock()
        self._scopes: dict[int, anyio.CancelScope] = {}

    async def __call__(self, payload: Any, ctx: Context) -> Any:
        """Wait for the result of one message's place in a batch."""
        item = _Item(payload, ctx, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
        result = await item.result
        if isinstance(result, Exception):
            raise result
        return result

    async def run(self) -> None:
        """Form batches and run them, until cancelled; so many of these run as batches may."""
        task = asyncio.current_task()
        assert task is not None, "this runs in a task"  # noqa: S101 — for type checkers
        while True:
            async with self._forming:
                items = await self._gather()
            if items:
                await self._run(items)
            if task.cancelling():
                await calm(task)

    async def _gather(self) -> list[_Item]:
        while not self._waiting:
            await self._changed()
        with anyio.move_on_after(self._batch.max_wait_s):
            while len(self._waiting) < self._batch.max_size:
                await self._changed()
        count = min(self._batch.max_size, len(self._waiting))
        taken = [self._waiting.popleft() for _ in range(count)]
        return [item for item in taken if not item.result.done()]

    async def _changed(self) -> None:
        self._more = asyncio.get_running_loop().create_future()
        try:
            await self._more
        finally:
            self._more = None

    async def _run(self, items: Sequence[_Item]) -> None:
        try:
            await self._run_together(items)
        except Retry as error:
            _fail(items, error)
        except Exception as error:  # noqa: BLE001 — whatever it is, it is these messages' outcome
            await self._blame(items, error)
        except asyncio.CancelledError:
            if is_stopping():
                raise
            await self._blame(items, HandlerCancelled())
        except BaseException as error:  # noqa: BLE001 — as above
            exited = contained(error)
            exited.__cause__ = error
            await self._blame(items, exited)

    async def _blame(self, items: Sequence[_Item], error: Exception) -> None:
        if len(items) == 1:
            _fail(items, error)
            return
        begin([item.ctx for item in items], None)
        for item in items:
            if not item.result.done():
                await self._run([item])

    async def _run_together(self, items: Sequence[_Item]) -> None:
        contexts = [item.ctx for item in items]
        begin(contexts, self._timeout_s)
        with anyio.CancelScope() as scope:
            for item in items:
                item.result.add_done_callback(lambda _: _cancel_if_abandoned(scope, items))
            results = await self._call([item.payload for item in items], contexts)
            if not _is_list(results) or len(results) != len(items):
                raise ResultTypeError(
                    f"{self._name} got a batch of {len(items)} and returned {_described(results)}; "
                    "a list with one result for each is needed"
                )
            for item, result in zip(items, results, strict=True):
                _settle(item, result)


def _settle(item: _Item, result: Any) -> None:
    if not item.result.done():
        item.result.set_result(result)


def _fail(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        _settle(item, error)


def _cancel_if_abandoned(scope: anyio.CancelScope, items: Sequence[_Item]) -> None:
    if all(item.result.cancelled() for item in items):
        scope.cancel()


def _is_list(results: Any) -> TypeGuard[list[Any]]:
    return isinstance(results, list)


def _described(results: Any) -> str:
    return f"{len(results)} results" if _is_list(results) else f"a {type(results).__name__}"
