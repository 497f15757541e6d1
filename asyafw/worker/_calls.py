"""How a handler of each form is called; its result is what it returned, or a list if it yields."""

import inspect
import pickle
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from copy import deepcopy
from importlib import import_module
from itertools import islice
from typing import Any, TypeAlias

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process, to_thread

from asyafw._actor import Actor
from asyafw.context import Context
from asyafw.exceptions import ConfigurationError, LimitExceeded, ProcessCrashed
from asyafw.middleware import Handler

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
    limiter = CapacityLimiter(actor.concurrency)
    if actor.executor == "process":
        return _in_process(actor, limiter, keep, most_children)
    handler = await actor.open(stack)
    signature = actor.signature
    if not signature.has_context:
        handler = _without_context(handler)
    if signature.yields:
        collect = _collect_async if signature.is_async else _collect
        handler = collect(handler, keep, most_children)
    return handler if signature.is_async else _in_thread(handler, limiter)


def _without_context(handler: Callable[..., Any]) -> Callable[..., Any]:
    return lambda payload, _ctx: handler(payload)


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


def _in_thread(handler: Callable[..., Any], limiter: CapacityLimiter) -> Handler:
    async def call(payload: Any, ctx: Context) -> Any:
        return await to_thread.run_sync(
            handler, payload, ctx, abandon_on_cancel=True, limiter=limiter
        )

    return call


def _in_process(actor: Actor[..., Any], limiter: CapacityLimiter, keep: Keep, most: int) -> Handler:
    module, name = actor.handler.__module__, getattr(actor.handler, "__qualname__", "<instance>")
    if "<" in name or inspect.isclass(actor.handler):
        raise ConfigurationError(
            f"actor {actor.name!r}: a handler for another process is a function of a module, "
            f"so that it can be imported there; {actor.handler!r} is not"
        )

    async def call(payload: Any, ctx: Context) -> Any:
        try:
            result = await to_process.run_sync(
                _call_by_name, module, name, payload, most + 1, cancellable=True, limiter=limiter
            )
        except BrokenWorkerProcess as error:
            raise ProcessCrashed(f"the process that ran {actor.name} died") from error
        if not actor.signature.yields:
            return result
        _check_count(len(result), most, ctx)
        return [keep(ctx, item) for item in result]

    return call


def _call_by_name(module: str, name: str, payload: Any, most: int) -> Any:
    """Run a handler in the process that this is called in."""
    found: Any = import_module(module)
    for attribute in name.split("."):
        found = getattr(found, attribute)
    handler = found.handler if isinstance(found, Actor) else found
    try:
        result = handler(payload)
        # The handler may change afterwards what it has yielded.
        return [*map(deepcopy, islice(result, most))] if inspect.isgenerator(result) else result
    except Exception as error:
        raise _portable(error) from None


def _portable(error: Exception) -> Exception:
    """Make an exception survive the way to another process, with its traceback as a note."""
    lines = traceback.format_exception(error)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 — made on the same line
    except Exception:  # noqa: BLE001 — whatever a user's class does
        error = RuntimeError(traceback.format_exception_only(error)[-1].strip())
    error.add_note(f"In the process of the handler:\n{''.join(lines)}")
    return error
