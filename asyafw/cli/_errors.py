"""What a command says of an error, and the code that it exits with."""

import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final, cast

import typer

from asyafw.exceptions import AsyafwError, ConfigurationError, LimitExceeded, PayloadError

__all__ = ["DONE", "FAILED", "USAGE", "leaves", "report", "say"]

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2

_OWN = tuple(str(Path(file).parent) for file in (__file__, typer.__file__))
_OF_USAGE = (ConfigurationError, LimitExceeded, PayloadError)


def say(message: str) -> None:
    """Tell people something, on standard error."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 — that is what it is for


def report(error: BaseException) -> int:
    """Tell what went wrong, with a traceback only if nobody has foreseen it; give the exit code."""
    errors = leaves(error)
    foreseen = [each for each in errors if isinstance(each, AsyafwError)]
    if len(foreseen) < len(errors):
        traceback.print_exception(error.with_traceback(_foreign(error.__traceback__)))
        return FAILED
    for each in foreseen:
        say(f"Error: {each}")
    return USAGE if isinstance(foreseen[0], _OF_USAGE) else FAILED


def leaves(error: BaseException) -> list[BaseException]:
    """Take exceptions out of the groups around them."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for member in group.exceptions for leaf in leaves(member)]


def _foreign(frames: TracebackType | None) -> TracebackType | None:
    """Cut off the frames of the command line, which tell nothing, unless there are no others."""
    found = frames
    while found and found.tb_frame.f_code.co_filename.startswith(_OWN):
        found = found.tb_next
    return found or frames
