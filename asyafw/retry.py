"""When a failed message is run again, and after how long."""

from collections.abc import Callable, Sequence
from math import inf
from typing import TypeAlias

from msgspec import Struct

from asyafw.envelope import LONGEST_WAIT_S
from asyafw.exceptions import AsyafwError, ConfigurationError, Reject, Retry

__all__ = ["Backoff", "RetryPolicy", "Rule", "check_rules", "exponential", "fixed", "matches"]

Backoff: TypeAlias = Callable[[int], float]
"""Maps the number of attempts made, from 1, to a delay in seconds."""

Rule: TypeAlias = type[BaseException] | str
"""An exception's class, or its name with or without the module, as ``"torch.OutOfMemoryError"``."""


def exponential(base_s: float = 1.0, factor: float = 2.0) -> Backoff:
    """Wait `base_s` seconds after the first attempt, `factor` times longer after each other one."""

    def backoff(attempt: int) -> float:
        try:
            return base_s * float(factor) ** (attempt - 1)
        except OverflowError:  # longer than any maximum
            return base_s and inf

    return backoff


def fixed(delay_s: float) -> Backoff:
    """Wait `delay_s` seconds after every attempt."""
    return lambda _attempt: delay_s


class RetryPolicy(Struct, frozen=True):
    """When a failed message is run again.

    `max_attempts` counts all runs, the first included; 1 means never again.
    The delay is ``backoff(attempt)``, at most `max_delay_s` seconds, shortened at random
    by up to the fraction `jitter`, so that what failed together does not return together.
    An exception is retried if a rule in `retry_on` matches it and none in `give_up_on` does.
    asyafw's own errors, such as a result of the wrong type, are final unless `transient`.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    max_attempts: int = 3
    backoff: Backoff = exponential()
    max_delay_s: float = 300.0
    jitter: float = 0.2
    retry_on: tuple[Rule, ...] = (Exception,)
    give_up_on: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(
                "RetryPolicy(max_attempts=...) is at least 1, which is no retry"
            )
        if not callable(self.backoff):
            raise ConfigurationError("RetryPolicy(backoff=...) is a function: fixed(1.0)")
        if not 0 <= self.max_delay_s <= LONGEST_WAIT_S:
            raise ConfigurationError(f"RetryPolicy(max_delay_s=...) is in 0–{LONGEST_WAIT_S:g}")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError("RetryPolicy(jitter=...) is a fraction from 0 to 1")
        check_rules("RetryPolicy(retry_on=...)", self.retry_on)
        check_rules("RetryPolicy(give_up_on=...)", self.give_up_on)

    def delay_s(self, error: BaseException, attempt: int, random: float) -> float | None:
        """Decide about the failure of attempt number `attempt`, from 1; `random` is in [0, 1).

        Returns the delay in seconds, or None to give up.
        """
        if attempt >= self.max_attempts or not self._retries(error):
            return None
        if isinstance(error, Retry) and error.after_s is not None:
            return error.after_s
        # In this order NaN, which a backoff might give, becomes 0.
        delay_s = min(self.max_delay_s, max(0.0, self.backoff(attempt)))
        return delay_s * (1 - self.jitter * random)

    def _retries(self, error: BaseException) -> bool:
        if isinstance(error, Retry):
            return True
        if isinstance(error, Reject) or any(matches(rule, error) for rule in self.give_up_on):
            return False
        if isinstance(error, AsyafwError) and not error.transient:
            return False
        return any(matches(rule, error) for rule in self.retry_on)


def matches(rule: Rule, error: BaseException) -> bool:
    """Tell if a rule names the error's class or one of those it derives from."""
    return any(
        rule in (cls, cls.__qualname__, f"{cls.__module__}.{cls.__qualname__}")
        for cls in type(error).__mro__
    )


def check_rules(option: str, rules: Sequence[Rule]) -> None:
    """Check what somebody without a type checker may have mistaken.

    Raises:
        ConfigurationError: these are no rules.
    """
    # A string is a sequence, too: of letters, which name no exception.
    if not isinstance(rules, (tuple, list)) or not all(map(_is_rule, rules)):
        raise ConfigurationError(
            f"{option} is a tuple of exception classes and their names, not {rules!r}"
        )


def _is_rule(rule: object) -> bool:
    return isinstance(rule, str) or (isinstance(rule, type) and issubclass(rule, BaseException))
