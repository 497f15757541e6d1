"""How often messages may run."""

import time
from collections.abc import Callable
from math import ceil, isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from asyafw.context import Context
from asyafw.coordination import Pace, Turn, Wait
from asyafw.envelope import LONGEST_WAIT_S
from asyafw.exceptions import ConfigurationError, DeadlineExceeded, RateLimited
from asyafw.limits._common import Key, asked, key_of
from asyafw.middleware import Handler

__all__ = ["RateLimit"]

_US = 1_000_000


class RateLimit(Struct, frozen=True):
    """Let `rate` messages run in `per_s` seconds, evenly spread; a middleware.

    A message that comes too early waits in its queue for its turn, in the order of arrival,
    and takes no slot meanwhile. It waits once, unless no worker has time for it when its turn
    comes, and others take that.
    Each run takes a turn; that of a retry needs not wait at the end of the line.

    `burst` messages may run at once after a time of rest.
    All with the same `key` share one limit. It is a text, or a function of the payload and the
    context that gives one, such as a tenant; without it each actor has a limit of its own.
    `cost` gives how many of `rate` a message counts for, such as its tokens; without it 1.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    rate: float
    per_s: float = 1.0
    key: Key = None
    burst: int = 1
    cost: Callable[[Any, Context], float] | None = None

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.per_s > 0):
            raise ConfigurationError("RateLimit(rate, per_s) are positive")
        if not 1 / _US <= self.per_s / self.rate <= LONGEST_WAIT_S:
            raise ConfigurationError("RateLimit(rate, per_s) is at most a million a second")
        if not 1 <= self.burst <= _US:
            raise ConfigurationError("RateLimit(burst=...) is at least 1, which is no burst")

    async def __call__(self, payload: Any, ctx: Context, call_next: Handler) -> Any:
        """Run the message if its turn has come.

        Raises:
            RateLimited: it has not.
            DeadlineExceeded: it comes after the job's deadline; the message takes none.
        """
        key = key_of(self.key, payload, ctx)
        wait = await self._take_turn(key, payload, ctx)
        # Should the message run again, it needs another turn.
        _note(ctx, key, Turn(wait.turn.at_us))
        try:
            return await call_next(payload, ctx)
        except RateLimited as error:
            # Another limit, further in, lets it wait: it has not run, and this turn is still good.
            after_us = ceil((error.after_s or 0.0) * _US)
            _note(ctx, key, Turn(wait.now_us + after_us, sure=True))
            raise

    async def _take_turn(self, key: str, payload: Any, ctx: Context) -> Wait:
        within_s = LONGEST_WAIT_S
        if ctx.deadline is not None:
            within_s = min(within_s, max(0.0, ctx.deadline - time.time()))
        had, within_us = ctx.envelope.turns.get(key), int(within_s * _US)
        pace = self._pace(payload, ctx)
        wait = await asked(ctx.coordinator.take_turn(key, pace, had, within_us))
        after_s = wait.us / _US
        if wait.us > within_us:
            raise DeadlineExceeded(
                f"its turn under the limit {key!r} comes in {after_s:.3g} s, too late for the job"
            )
        if wait.us:
            _note(ctx, key, wait.turn)
            raise RateLimited(
                f"its turn under the limit {key!r} comes in {after_s:.3g} s",
                after_s=after_s,
                counted=False,
            )
        return wait

    def _pace(self, payload: Any, ctx: Context) -> Pace:
        each_us = self.per_s / self.rate * _US
        cost = 1.0 if self.cost is None else self.cost(payload, ctx)
        if not (isfinite(cost) and cost >= 0):
            raise ValueError(f"RateLimit(cost=...) gave {cost!r}: a number from 0 is needed")
        step_us = min(each_us * cost, LONGEST_WAIT_S * _US)
        return Pace(ceil(step_us), ceil(each_us * (self.burst - 1)))


def _note(ctx: Context, key: str, turn: Turn) -> None:
    """Let the message have its turn with it when it comes again."""
    ctx.envelope = replace(ctx.envelope, turns={**ctx.envelope.turns, key: turn})
