"""What a command says of an error, and the code that it exits with."""

import sys
import traceback
from typing import Final

from asyafw.exceptions import AsyafwError, ConfigurationError, LimitExceeded, PayloadError

__all__ = ["DONE", "FAILED", "USAGE", "report", "say", "sole"]

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2

_OF_USAGE = (ConfigurationError, LimitExceeded, PayloadError)


def say(message: str) -> None:
    """Tell people something, on standard error."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 — that is what it is for


def report(error: BaseException) -> int:
    """Tell what went wrong, with a traceback only if nobody has foreseen it; give the exit code."""
    error = sole(error)
    if not isinstance(error, AsyafwError):
        traceback.print_exception(error)
        return FAILED
    say(f"Error: {error}")
    return USAGE if isinstance(error, _OF_USAGE) else FAILED


def sole(error: BaseException) -> BaseException:
    """Take an exception out of the groups around it, if it is alone in them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
