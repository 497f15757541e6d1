"""Keep a process running."""

import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from random import random

import anyio
from msgspec import Struct

from asyafw.cli._bond import Child
from asyafw.cli._errors import DONE, FAILED, USAGE
from asyafw.retry import Backoff, exponential

__all__ = ["Keeper", "Restarts", "Service"]

_logger = logging.getLogger("asyafw.cli")


class Restarts(Struct, frozen=True):
    """When a process that ended by itself is started again.

    After `steady_s` seconds of service it counts as the first one that did.
    """

    backoff: Backoff = exponential(1.0)
    longest_s: float = 30.0
    steady_s: float = 60.0

    def failures(self, before: int, served_s: float) -> int:
        """Count the failures in a row, when one more process has ended by itself."""
        return 1 if served_s >= self.steady_s else before + 1

    def pause_s(self, failures: int, random: float) -> float:
        """Tell the seconds before the next start; `random` is in [0, 1)."""
        # Processes that failed together, as without their broker, do not return together.
        return min(self.backoff(failures), self.longest_s) * (0.5 + random / 2)


class Service(Struct, frozen=True):
    """A command, and how `count` processes of it are kept running.

    `patience_s` is how long one may take to end once it has been asked to.
    Without `restarts` one that ended by itself is not started again until `Keeper.renew`.
    """

    command: Sequence[str]
    patience_s: float
    count: int = 1
    restarts: Restarts | None = Restarts()


class Keeper:
    """Runs processes of a service, one after another.

    `code` is what the last one came to, when `run` has returned.
    """

    def __init__(self, service: Service, index: int) -> None:
        self.code = DONE
        self._service = service
        self._index = index
        self._name = f"process {index}" if service.count > 1 else "the worker"
        self._child: Child | None = None
        self._stopping = False
        self._served = False
        self._failures = 0
        self._asked = anyio.Event()
        self._replaced = anyio.Event()
        self._serves = False

    async def run(self) -> None:
        """Start a process whenever there is none, until `stop`.

        It also returns when the command proves to be wrong before it has ever served.
        """
        while not self._stopping:
            self._asked = anyio.Event()
            try:
                child = await Child.start(self._service.command, self._index)
            except OSError as error:
                await self._pause(f"cannot be started, {error}")
                continue
            _logger.info("%s has started as pid %d", self._name, child.pid)
            await self._see_through(child)
            if self._stopping:
                self.code = _code(child.code)
            elif not self._asked.is_set():
                await self._judge(child)

    def renew(self) -> None:
        """Let another process take the place of this one once it has drained."""
        self._asked.set()

    async def replace(self) -> bool:
        """Renew, and tell whether the new process serves, once it does or has failed."""
        self._replaced = anyio.Event()
        self.renew()
        await self._replaced.wait()
        return self._serves

    def stop(self) -> None:
        """Let the process drain, and start no other."""
        self._stopping = True
        self._asked.set()

    def kill(self) -> None:
        """End the process at once."""
        if self._child is not None:
            self._child.kill()

    async def _see_through(self, child: Child) -> None:
        self._child = child
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._end_when_asked, child)
                tasks.start_soon(self._tell_when_it_serves, child)
                await child.wait()
                tasks.cancel_scope.cancel()
            self._served = self._served or child.has_served()
        finally:
            self._child, self._serves = None, False
            child.close()

    async def _end_when_asked(self, child: Child) -> None:
        await self._asked.wait()
        child.ask()
        await anyio.sleep(self._service.patience_s)
        _logger.error("%s does not end, and is killed", self._name)
        child.kill()

    async def _tell_when_it_serves(self, child: Child) -> None:
        await child.serves()
        if not self._asked.is_set():
            self._serves = True
            self._replaced.set()

    async def _judge(self, child: Child) -> None:
        said = f"{_how(child.code)} after {child.age_s:.1f} s"
        if child.code == USAGE and self._service.restarts and not self._served:
            _logger.error("%s %s, before it could serve: no restart mends that", self._name, said)
            self.code = USAGE
            self.stop()
        else:
            await self._pause(said, child.served_s)

    async def _pause(self, said: str, served_s: float = 0) -> None:
        restarts = self._service.restarts
        if restarts is None:
            pause_s = inf
            _logger.error("%s %s; it starts again when a file changes", self._name, said)
        else:
            self._failures = restarts.failures(self._failures, served_s)
            pause_s = restarts.pause_s(self._failures, random())  # noqa: S311 — no secret
            _logger.error("%s %s; it starts again in %.1f s", self._name, said, pause_s)
        self._replaced.set()
        with anyio.move_on_after(pause_s):
            await self._asked.wait()


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with {code}"
    name = f"signal {-code}"
    with suppress(ValueError):  # some have only a number
        name = signal.Signals(-code).name
    return f"was ended by {name}"


def _code(code: int | None) -> int:
    # By SIGTERM it ends of a process that has not begun, or no longer has anything in hand.
    return DONE if code in (None, DONE, -signal.SIGTERM) else FAILED
