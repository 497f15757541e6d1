"""How a handler of each form is called; its result is what it returned, or a list if it yields."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, suppress
from math import inf
from typing import Any, TypeAlias

from anyio import CapacityLimiter, WouldBlock, to_thread

from asyafw._actor import Actor
from asyafw.context import Context
from asyafw.exceptions import LimitExceeded
from asyafw.middleware import Handler, contained
from asyafw.worker._processes import in_process
from asyafw.worker._watch import begin

__all__ = ["Keep", "open_handler"]

Keep: TypeAlias = Callable[[Context, Any], Any]
"""Makes of an item that was yielded what is kept of it: the handler may change it afterwards."""


async def open_handler(
    actor: Actor[..., Any], stack: AsyncExitStack, keep: Keep, most_children: int
) -> Handler:
    """Make an actor ready to handle messages, until `stack` is left.

    Raises:
        ConfigurationError: the handler cannot run where it is to run.
    """
    signature = actor.signature
    if actor.executor == "process":
        handler = in_process(actor, most_children + 1)
        return _kept(handler, keep, most_children) if signature.yields else handler
    handler = await actor.open(stack)
    if not signature.has_context:
        handler = _without_context(handler)
    if signature.yields:
        collect = _collect_async if signature.is_async else _collect
        handler = collect(handler, keep, most_children)
    return handler if signature.is_async else _in_thread(handler, actor)


def _without_context(handler: Callable[..., Any]) -> Callable[..., Any]:
    def call(payload: Any, _ctx: Any) -> Any:
        return handler(payload)

    return call


def _kept(handler: Handler, keep: Keep, most: int) -> Handler:
    async def call(payload: Any, ctx: Context) -> list[Any]:
        items: list[Any] = await handler(payload, ctx)
        _check_count(len(items), most, ctx)
        return [keep(ctx, item) for item in items]

    return call


def _collect_async(handler: Callable[..., Any], keep: Keep, most: int) -> Handler:
    async def collect(payload: Any, ctx: Context) -> list[Any]:
        items: list[Any] = []
        stream: AsyncGenerator[Any, None] = handler(payload, ctx)
        async with aclosing(stream):
            async for item in stream:
                _check_count(len(items) + 1, most, ctx)
                items.append(keep(ctx, item))
        return items

    return collect


def _collect(handler: Callable[..., Any], keep: Keep, most: int) -> Callable[..., Any]:
    def collect(payload: Any, ctx: Context) -> list[Any]:
        items: list[Any] = []
        stream: Iterator[Any] = handler(payload, ctx)
        for item in stream:
            _check_count(len(items) + 1, most, ctx)
            items.append(keep(ctx, item))
        return items

    return collect


def _check_count(count: int, most: int, ctx: Context) -> None:
    if count > most:
        raise LimitExceeded(
            f"{ctx.route.curr} yields more than {most} children; "
            "fan out in two steps, or raise App(limits=Limits(children=...))"
        )


def _in_thread(handler: Callable[..., Any], actor: Actor[..., Any]) -> Handler:
    """Call a handler in a thread.

    One that cannot be stopped when its time is over keeps its place until it ends,
    so that never more of them run than the actor's concurrency says.
    """
    places, unlimited = CapacityLimiter(actor.concurrency), CapacityLimiter(inf)

    async def call(payload: Any, ctx: Context) -> Any:
        place, loop = object(), asyncio.get_running_loop()
        has_begun = has_ended = is_left_behind = False

        def run() -> Any:
            nonlocal has_begun, has_ended
            has_begun = True
            try:
                return handler(payload, ctx)
            except GeneratorExit as error:  # would close the coroutine that awaits it
                raise contained(error) from error
            finally:
                # Either sees what the other has just said: the place is left, if twice.
                has_ended = True
                if is_left_behind:
                    with suppress(RuntimeError):  # the loop is closed
                        loop.call_soon_threadsafe(_leave, places, place)

        try:
            places.acquire_on_behalf_of_nowait(place)
        except WouldBlock:
            begin(ctx, None)
            await places.acquire_on_behalf_of(place)
            begin(ctx, actor.timeout_s)
        try:
            return await to_thread.run_sync(run, abandon_on_cancel=True, limiter=unlimited)
        finally:
            is_left_behind = True
            if has_ended or not has_begun:
                _leave(places, place)

    return call


def _leave(places: CapacityLimiter, place: object) -> None:
    with suppress(RuntimeError):  # it was left already
        places.release_on_behalf_of(place)
