"""Handlers that other processes import."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from asyafw import RetryPolicy, actor

ONCE = RetryPolicy(max_attempts=1)


class OwnError(Exception):
    """An exception with a class of its own."""


class TwoArgumentsError(Exception):
    """One that pickle cannot make again."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


@actor(executor="process")
def pid_of(_: None) -> int:
    return os.getpid()


@actor(executor="process", timeout_s=0.3, retry=ONCE)
def sleeps_for_ever(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)


@actor(executor="process", retry=ONCE)
def dies(_: None) -> NoReturn:
    os._exit(1)


@actor(executor="process", retry=ONCE)
def leaves(_: None) -> NoReturn:
    sys.exit(3)


@actor(executor="process", retry=ONCE)
def raises_own(_: None) -> NoReturn:
    raise OwnError("as it was")


@actor(executor="process", retry=ONCE)
def raises_what_cannot_be_made_again(_: None) -> NoReturn:
    raise TwoArgumentsError("a hole", "the bucket")


@actor(executor="process", retry=ONCE)
def raises_what_cannot_travel(_: None) -> NoReturn:
    error = OwnError("locked")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


@actor(executor="process", retry=ONCE)
def gives_what_cannot_travel(_: None) -> Any:
    return threading.Lock()


@actor(executor="process")
def tiles_elsewhere(count: int) -> Iterator[dict[str, int]]:
    tile = {"x": -1}
    for x in range(count):
        tile["x"] = x
        yield tile


@actor(executor="process", retry=ONCE)
def tiles_without_end(_: None) -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


@actor(executor="process", concurrency=2)
def meets_another(folder: str) -> int:
    """Wait until another one runs, too."""
    Path(folder, str(os.getpid())).touch()
    while len(pids := os.listdir(folder)) < 2:  # noqa: PTH208
        time.sleep(0.01)
    return len(pids)
