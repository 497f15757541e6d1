"""`asyafw worker --reload`: the worker is a process of its own, restarted when files change."""

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import anyio
from anyio.abc import Process, TaskStatus

from asyafw.cli._errors import DONE
from asyafw.cli._process import run_loop
from asyafw.exceptions import MissingExtra

__all__ = ["restart_on_changes"]

# A closed terminal sends the last one; the worker, which is in a session of its own, gets none.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_logger = logging.getLogger("asyafw.cli")


def restart_on_changes() -> int:
    """Run this very command without ``--reload``, again and again, until a signal comes.

    Before each restart the worker is told to drain, and waited for.
    Gives the exit code of the last one.

    Raises:
        MissingExtra: the library that watches files is not installed.
    """
    if find_spec("watchfiles") is None:
        raise MissingExtra("reload", "--reload")
    return run_loop(_Reloader().run)


class _Reloader:
    """Keeps one worker running."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._draining = False
        self._stopping = False
        self._wake = anyio.Event()

    async def run(self) -> int:
        """Restart the worker on changes until a signal comes."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._listen)
            tasks.start_soon(self._watch)
            while not self._stopping:
                self._wake = anyio.Event()
                process = self._process = await _start()
                tasks.start_soon(self._tell_end, process)
                await self._wake.wait()
                await self._end(process)
            tasks.cancel_scope.cancel()
        return self._exit_code()

    async def _watch(self) -> None:
        watchfiles: Any = import_module("watchfiles")
        async for changes in watchfiles.awatch(".", watch_filter=watchfiles.PythonFilter()):
            files = ", ".join(sorted(file for _, file in changes))
            _logger.info("restarting, because of changes in %s", files)
            self._wake.set()

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for _ in signals:
                if self._stopping and self._process is not None:
                    self._process.kill()
                self._stopping = True
                self._wake.set()

    async def _tell_end(self, process: Process) -> None:
        code = await process.wait()
        if not self._draining:
            _logger.error("the worker ended with %d; it starts again when a file changes", code)

    async def _end(self, process: Process) -> None:
        self._draining = True
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
        self._draining = False

    def _exit_code(self) -> int:
        code = None if self._process is None else self._process.returncode
        if code is None:
            return DONE
        return 128 - code if code < 0 else code


async def _start() -> Process:
    """Start the command anew; a session of its own keeps the terminal's signals away from it."""
    arguments = [each for each in sys.orig_argv[1:] if each != "--reload"]
    return await anyio.open_process(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
        env={**os.environ, "ASYAFW_RELOAD": "0"},
        start_new_session=True,
    )
