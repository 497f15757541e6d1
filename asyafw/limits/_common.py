"""What limits have in common: their keys, and how they ask."""

from collections.abc import Awaitable, Callable
from random import random
from typing import Any, TypeAlias, TypeVar

from asyafw.context import Context
from asyafw.exceptions import Retry, TransportUnavailable

__all__ = ["Key", "asked", "key_of"]

T = TypeVar("T")

Key: TypeAlias = str | Callable[[Any, Context], str] | None
"""A text, a function that makes one for a message, or None for the name of its actor."""

_PAUSE_S = 1.0


def key_of(key: Key, payload: Any, ctx: Context) -> str:
    """Give the key of a message."""
    if key is None:
        return ctx.envelope.route.curr
    return key if isinstance(key, str) else key(payload, ctx)


async def asked(answer: Awaitable[T]) -> T:
    """Wait for the answer of a coordinator.

    Raises:
        Retry: it cannot be reached; nothing has run, so that is no attempt.
        TransportError: it refuses, as it would the next time.
    """
    try:
        return await answer
    except TransportUnavailable as error:
        after_s = _PAUSE_S * (1 + random())  # noqa: S311 — no secret
        raise Retry(f"no limit can be asked: {error}", after_s=after_s, counted=False) from error
