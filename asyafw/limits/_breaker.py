"""When an actor had better not run."""

import logging
import time
from collections.abc import Callable
from math import inf
from random import random
from typing import Any

import anyio
from msgspec import Struct

from asyafw.context import Context
from asyafw.coordination import Change, CircuitRules, Permit, Report
from asyafw.exceptions import (
    AsyafwError,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    HandlerTimeout,
    RateLimited,
    Retry,
    TransportError,
    message_of,
)
from asyafw.limits._common import Key, asked, key_of
from asyafw.middleware import Handler
from asyafw.retry import Rule, check_rules, matches

__all__ = ["CircuitBreaker"]

_US = 1_000_000
_MOST = 1_000
_SHORTEST_S, _LONGEST_S = 1e-3, 1e6
_REPORT_S = 5.0
# What was known of the circuit when so long a call began says little when it ends.
_LONG_S = 1.0

_logger = logging.getLogger("asyafw.limits")


class CircuitBreaker(Struct, frozen=True, kw_only=True):
    """Stop calling what is out of order, until it is well again; a middleware.

    When `failures` runs have failed in a row within `within_s` seconds, the circuit opens:
    for `open_s` seconds no message runs, each waits in its queue, takes no slot, and has made
    no attempt. Then `half_open` messages at a time run as probes, in all replicas together.
    The first that goes well closes the circuit; one that fails opens it again, for twice as long
    each time, up to `max_open_s`. A probe that takes longer than `open_s`, as its worker may have
    died, makes way for another.

    An exception counts if a rule in `errors` matches it, or the cause of a `Retry`, and none in
    `ignore` does. Of asyafw's own only `HandlerTimeout` and `Retry` count, and a `Retry` with
    ``counted=False`` does not.
    With `honour_retry_after` a `Retry` that has `after_s`, be it counted or not, is the callee's
    wish to be left alone: nobody runs until then, for at most `max_open_s`, and no probe is needed.

    All with the same `key` share one circuit: a text, or a function of the payload and the context;
    without it each actor has its own.
    `on_change` is called with the key, and ``"opened"``, ``"paused"`` or ``"closed"``, by the
    worker whose message has made it so.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    key: Key = None
    failures: int = 5
    within_s: float = 30.0
    open_s: float = 30.0
    max_open_s: float = 300.0
    half_open: int = 1
    errors: tuple[Rule, ...] = (Exception,)
    ignore: tuple[Rule, ...] = ()
    honour_retry_after: bool = False
    on_change: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.failures <= _MOST and 1 <= self.half_open <= _MOST):
            raise ConfigurationError(f"CircuitBreaker(failures, half_open) are in 1–{_MOST}")
        for name in ("within_s", "open_s", "max_open_s"):
            if not _SHORTEST_S <= getattr(self, name) <= _LONGEST_S:
                raise ConfigurationError(
                    f"CircuitBreaker({name}=...) is in {_SHORTEST_S}–{_LONGEST_S:g}"
                )
        check_rules("CircuitBreaker(errors=...)", self.errors)
        check_rules("CircuitBreaker(ignore=...)", self.ignore)

    async def __call__(self, payload: Any, ctx: Context, call_next: Handler) -> Any:
        """Run the message if the circuit lets it.

        Raises:
            CircuitOpen: it does not, yet.
            DeadlineExceeded: it does not before the job's deadline.
        """
        key = key_of(self.key, payload, ctx)
        permit = await asked(ctx.coordinator.ask(key, self._rules))
        if not permit.allowed:
            raise _postponed(key, permit, ctx)
        began = time.monotonic()
        try:
            result = await call_next(payload, ctx)
        except BaseException as error:
            await self._tell(key, ctx, self._verdict(ctx.interrupt or error, permit), error)
            raise
        if permit.probe_us or permit.failing or time.monotonic() - began > _LONG_S:
            await self._tell(key, ctx, Report("well", permit.probe_us))
        return result

    @property
    def _rules(self) -> CircuitRules:
        return CircuitRules(
            failures=self.failures,
            within_us=int(self.within_s * _US),
            open_us=int(self.open_s * _US),
            max_open_us=int(max(self.open_s, self.max_open_s) * _US),
            probes=self.half_open,
        )

    def _verdict(self, error: BaseException, permit: Permit) -> Report:
        if isinstance(error, RateLimited | CircuitOpen):  # it has not run
            return Report("other", permit.probe_us)
        if isinstance(error, Retry) and error.after_s and self.honour_retry_after:
            pause_s = min(error.after_s, max(self.open_s, self.max_open_s))
            return Report("failed", permit.probe_us, int(pause_s * _US))
        return Report("failed" if self._counts(error) else "other", permit.probe_us)

    def _counts(self, error: BaseException) -> bool:
        if isinstance(error, Retry):
            causes = [each for each in (error, error.__cause__) if each is not None]
            return error.counted and self._names(causes)
        own = isinstance(error, AsyafwError) and not isinstance(error, HandlerTimeout)
        return isinstance(error, Exception) and not own and self._names([error])

    def _names(self, causes: list[BaseException]) -> bool:
        def is_in(rules: tuple[Rule, ...]) -> bool:
            return any(matches(rule, cause) for rule in rules for cause in causes)

        return is_in(self.errors) and not is_in(self.ignore)

    async def _tell(
        self, key: str, ctx: Context, report: Report, error: BaseException | None = None
    ) -> None:
        """Report how the call ended; what became of the message does not depend on that."""
        if report == Report("other"):
            return
        # The task may be cancelled already: it is when a handler's time is over.
        with anyio.move_on_after(_REPORT_S, shield=True):
            try:
                change, for_us = await ctx.coordinator.tell(key, self._rules, report)
            except TransportError as failure:
                _logger.warning("the circuit %r cannot be told of a call: %s", key, failure)
                return
            if change is not None:
                _log(key, change, for_us / _US, ctx.interrupt or error)
                if self.on_change is not None:
                    self.on_change(key, change)


def _postponed(key: str, permit: Permit, ctx: Context) -> CircuitOpen:
    wait_s = permit.wait_us / _US
    left_s = inf if ctx.deadline is None else ctx.deadline - time.time()
    if wait_s > left_s:
        raise DeadlineExceeded(
            f"the circuit {key!r} is open for {wait_s:.3g} s, too long for the job"
        )
    spread_s = min(permit.spread_us / _US, left_s - wait_s)
    after_s = wait_s + spread_s * random()  # noqa: S311 — no secret
    state = f"is open for {wait_s:.3g} s" if permit.wait_us else "waits for its probe"
    return CircuitOpen(f"the circuit {key!r} {state}", after_s=after_s, counted=False)


def _log(key: str, change: Change, for_s: float, error: BaseException | None) -> None:
    if change == "closed":
        _logger.warning("the circuit %r is closed", key)
    else:
        why = f"{type(error).__name__}: {message_of(error)}" if error else ""
        _logger.warning("the circuit %r is %s for %.3g s: %s", key, change, for_s, why)
