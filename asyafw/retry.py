"""When a failed message is run again, and after how long."""

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from asyafw.exceptions import AsyafwError, Reject, Retry

__all__ = ["Backoff", "RetryPolicy", "Rule", "exponential", "fixed", "matches"]

Backoff: TypeAlias = Callable[[int], float]
"""Maps the number of attempts made, from 1, to a delay in seconds."""

Rule: TypeAlias = type[BaseException] | str
"""An exception's class, or its name with or without the module: ``"torch.OutOfMemoryError"``."""


def exponential(base_s: float = 1.0, factor: float = 2.0) -> Backoff:
    """Wait `base_s` seconds after the first attempt and `factor` times longer after each further one."""

    def backoff(attempt: int) -> float:
        # Beyond this power every delay is cut to the maximum, and a float could overflow.
        return float(base_s * factor ** min(attempt - 1, 100))

    return backoff


def fixed(delay_s: float) -> Backoff:
    """Wait `delay_s` seconds after every attempt."""
    return lambda _attempt: delay_s


class RetryPolicy(Struct, frozen=True):
    """When a failed message is run again.

    `max_attempts` counts all runs, the first included; 1 means never again.
    The delay is ``backoff(attempt)``, at most `max_delay_s` seconds,
    shortened at random by up to the fraction `jitter` so that what failed together does not return together.
    An exception is retried if a rule in `retry_on` matches it and none in `give_up_on` does.
    asyafw's own errors, such as a result of the wrong type, are final unless they are time-outs.
    """

    max_attempts: int = 3
    backoff: Backoff = exponential()
    max_delay_s: float = 300.0
    jitter: float = 0.2
    retry_on: tuple[Rule, ...] = (Exception,)
    give_up_on: tuple[Rule, ...] = ()

    def delay_s(self, error: BaseException, attempt: int, random: float) -> float | None:
        """Decide about the failure of attempt number `attempt`, from 1; `random` is in [0, 1).

        Returns the delay in seconds, or None to give up.
        """
        if attempt >= self.max_attempts or not self._retries(error):
            return None
        if isinstance(error, Retry) and error.after_s is not None:
            return error.after_s
        return min(self.backoff(attempt), self.max_delay_s) * (1 - self.jitter * random)

    def _retries(self, error: BaseException) -> bool:
        if isinstance(error, Retry):
            return True
        if isinstance(error, Reject) or any(matches(rule, error) for rule in self.give_up_on):
            return False
        if isinstance(error, AsyafwError) and not isinstance(error, TimeoutError):
            return False
        return any(matches(rule, error) for rule in self.retry_on)


def matches(rule: Rule, error: BaseException) -> bool:
    """Tell if a rule names the error's class or one of those it derives from."""
    return any(
        rule in (cls, cls.__qualname__, f"{cls.__module__}.{cls.__qualname__}")
        for cls in type(error).__mro__
    )
