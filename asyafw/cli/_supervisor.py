"""A parent process, which keeps others running and never imports what they run."""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator

import anyio
from anyio.abc import TaskStatus

from asyafw.cli._errors import DONE
from asyafw.cli._keeper import Keeper, Restarts, Service
from asyafw.cli._process import longest_end_s, run_loop
from asyafw.cli._reload import changes

__all__ = ["Supervisor", "supervise"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_logger = logging.getLogger("asyafw.cli")


def supervise(count: int, *, drain_timeout_s: float, reload: bool) -> int:
    """Keep so many processes of this very command running, and give the code to exit with.

    With `reload` they start again when Python files below this folder change, and only then.

    Raises:
        MissingExtra: the library that watches files is not installed.
    """
    service = Service(
        # Unchanged: the processes know by their bond that they are the children.
        [sys.executable, *sys.orig_argv[1:]],
        patience_s=longest_end_s(drain_timeout_s),
        count=count,
        restarts=None if reload else Restarts(),
    )
    watched = changes() if reload else None
    return run_loop(Supervisor(service, watched, on_terminal=_has_terminal()).run)


class Supervisor:
    """Keeps the processes of a service running until a signal comes.

    The first SIGINT or SIGTERM lets all of them drain, a second one kills them.
    SIGHUP replaces them one at a time; `on_terminal` it is the terminal's end, and lets them drain.
    Each of `changes` restarts them all.
    """

    def __init__(
        self,
        service: Service,
        changes: AsyncIterator[str] | None = None,
        *,
        on_terminal: bool = False,
    ) -> None:
        self._keepers = [Keeper(service, index) for index in range(service.count)]
        self._changes = changes
        self._on_terminal = on_terminal
        self._stopping = False
        self._code = DONE
        self._outdated = anyio.Event()

    async def run(self) -> int:
        """Keep them running, and give the code to exit with."""
        async with anyio.create_task_group() as around:
            await around.start(self._listen)
            around.start_soon(self._replace_when_outdated)
            around.start_soon(self._restart_on_changes)
            async with anyio.create_task_group() as tasks:
                for keeper in self._keepers:
                    tasks.start_soon(self._keep, keeper)
            around.cancel_scope.cancel()
        return self._code or max(keeper.code for keeper in self._keepers)

    def act_on(self, signum: int) -> None:
        """Do what a signal means."""
        if self._stopping:
            # A terminal that is closed sends several hangups.
            if signum != signal.SIGHUP:
                self._code = 128 + signum
                for keeper in self._keepers:
                    keeper.kill()
        elif signum == signal.SIGHUP and not self._on_terminal:
            self._outdated.set()
        else:
            self._stop()

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for signum in signals:
                self.act_on(signum)

    async def _keep(self, keeper: Keeper) -> None:
        await keeper.run()
        # It was stopped, or its command cannot run, which is the command of the others, too.
        if not self._stopping:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        _logger.info("stopping, once what is in hand is done; a second signal ends it at once")
        for keeper in self._keepers:
            keeper.stop()

    async def _restart_on_changes(self) -> None:
        if self._changes is not None:
            async for files in self._changes:
                _logger.info("restarting, because of changes in %s", files)
                for keeper in self._keepers:
                    keeper.renew()

    async def _replace_when_outdated(self) -> None:
        while True:
            await self._outdated.wait()
            outdated = self._outdated = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._replace)
                await outdated.wait()
                # Outdated once more: those that were just replaced, or still do not serve, too.
                tasks.cancel_scope.cancel()

    async def _replace(self) -> None:
        _logger.info("replacing the processes, one at a time")
        for keeper in self._keepers:
            if not await keeper.replace():
                _logger.error("the new process does not serve: those not yet replaced stay")
                return
        _logger.info("replaced all processes")


def _has_terminal() -> bool:
    """Tell if there is a terminal, whose end is told by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
