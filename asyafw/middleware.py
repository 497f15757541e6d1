"""The chain of callables around a handler.

A middleware is ``async def name(payload, ctx, call_next)``.
It returns what ``await call_next(payload, ctx)`` gives, or something else, or raises.
An app's middleware wraps every actor, an actor's only itself; the first listed is the outermost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from random import random
from reprlib import repr as short_repr
from typing import Any, Protocol, TypeAlias

import anyio

from asyafw.context import Context
from asyafw.exceptions import (
    HandlerCancelled,
    HandlerExited,
    JobCancelled,
    RetriesExhausted,
    Retry,
    message_of,
)
from asyafw.retry import RetryPolicy

__all__ = [
    "Handler",
    "Middleware",
    "Watch",
    "compose",
    "contained",
    "expires_at",
    "retry",
    "timeout",
]

Handler: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Middleware: TypeAlias = Callable[[Any, Context, Handler], Awaitable[Any]]


def compose(middleware: Iterable[Middleware], handler: Handler) -> Handler:
    """Wrap a handler, the first middleware outermost."""
    for layer in reversed(tuple(middleware)):
        handler = _around(layer, handler)
    return handler


def _around(layer: Middleware, call_next: Handler) -> Handler:
    return lambda payload, ctx: layer(payload, ctx, call_next)


def retry(policy: RetryPolicy) -> Middleware:
    """Turn a failure that the policy forgives into `Retry` with its delay.

    Raises `RetriesExhausted` for a `Retry` that comes once too often.
    """

    async def retry_(payload: Any, ctx: Context, call_next: Handler) -> Any:
        try:
            return await call_next(payload, ctx)
        except Exception as error:
            if isinstance(error, JobCancelled):
                raise
            if isinstance(error, Retry) and not error.counted:
                raise _postponed(error, policy) from error
            delay_s = policy.delay_s(error, ctx.attempt, random())  # noqa: S311 — no secret
            if delay_s is not None and time.time() + delay_s <= (ctx.deadline or inf):
                raise Retry(message_of(error), after_s=delay_s) from error
            if isinstance(error, Retry):
                raise RetriesExhausted(f"asked to be run again: {error}") from error
            raise

    return retry_


def _postponed(error: Retry, policy: RetryPolicy) -> Retry:
    delay_s = error.after_s
    if delay_s is None:
        longest_s = min(policy.max_delay_s, max(0.0, policy.backoff(1)))
        delay_s = longest_s * (1 - policy.jitter * random())  # noqa: S311 — as above
    return Retry(message_of(error), after_s=delay_s, counted=False)


class Watch(Protocol):
    """Interrupts handlers whose time is over, by one sweep over all of them."""

    def enter(self, ctx: Context) -> None:
        """Begin to watch."""
        ...

    def leave(self, ctx: Context) -> None:
        """Stop watching."""
        ...


def timeout(watch: Watch, timeout_s: float | None) -> Middleware:
    """Bound a handler by its timeout and by the deadline of the job, and contain what it raises.

    No timer is started: `watch` looks at `Context.expires_at`, puts the reason
    into `Context.interrupt` and cancels the task; here the cancellation becomes that reason.
    What is no `Exception` becomes one, `HandlerCancelled` or `HandlerExited`.
    """

    async def timeout_(payload: Any, ctx: Context, call_next: Handler) -> Any:
        result: Any = None
        if timeout_s is not None or ctx.deadline is not None:
            ctx.expires_at = expires_at(ctx, timeout_s)
        watch.enter(ctx)
        try:
            result = await call_next(payload, ctx)
        except Exception:
            if ctx.interrupt is None:
                raise
        except BaseException as error:
            if ctx.interrupt is None:
                if _ends_worker(error):
                    raise
                raise contained(error) from error
        finally:
            watch.leave(ctx)
        if ctx.interrupt is None:
            return result
        # A handler that swallowed the cancellation and returned is late all the same.
        while ctx.task is not None and ctx.task.uncancel():
            pass
        raise ctx.interrupt

    return timeout_


def _ends_worker(error: BaseException) -> bool:
    """Tell if what was cancelled is all around the handler, not just the handler by itself."""
    cancelled = isinstance(error, asyncio.CancelledError)
    return cancelled and anyio.current_effective_deadline() == -inf


def contained(error: BaseException) -> Exception:
    """Make what no worker can raise into an error of the message."""
    if isinstance(error, asyncio.CancelledError):
        return HandlerCancelled()
    return HandlerExited(f"the handler raised {short_repr(error)}")


def expires_at(ctx: Context, timeout_s: float | None) -> float:
    """Tell when a handler that begins now must have ended, on the monotonic clock."""
    limit_s = inf if timeout_s is None else timeout_s
    deadline = ctx.envelope.deadline_at
    if deadline is not None:
        limit_s = min(limit_s, deadline - time.time())
    return time.monotonic() + limit_s
