"""Worker processes, each kept running whatever ends it."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

__all__ = ["Workers"]

_DRAIN_TIMEOUT_S: Final = 5
# What the drain of a worker takes at most is 10 s more, and a few seconds for its threads.
_LONGEST_END_S: Final = _DRAIN_TIMEOUT_S + 15
_LONGEST_START_S: Final = 10.0
_RESTART_S: Final = 0.2
_TICK_S: Final = 0.05


class Workers:
    """So many slots with a process in each.

    `exits` counts how they ended. `stuck` names those that did not leave when they were told to,
    `crashed` those that had served and ended by themselves, or told of an error that nobody caught.
    """

    def __init__(
        self, command: Sequence[str], count: int, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.count = count
        self.exits: Counter[str] = Counter()
        self.stuck: list[str] = []
        self.crashed: list[str] = []
        self._command = [sys.executable, *command, "--drain-timeout", str(_DRAIN_TIMEOUT_S)]
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._processes: dict[int, Process] = {}
        self._rolling = False
        self._leaving = False

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Keep a process running in each slot, and let them end in good order."""
        async with anyio.create_task_group() as tasks:
            for slot in range(self.count):
                tasks.start_soon(self._keep, slot)
            yield
            self._leaving = True
            for slot, process in self._processes.items():
                tasks.start_soon(self._end, slot, process)
        for slot in range(self.count):
            lines = self._log(slot).read_text(errors="replace").splitlines()
            self.crashed += [f"worker {slot}: {line}" for line in _complaints(lines)]

    @property
    def pids(self) -> dict[int, int]:
        """The process of each slot that has one now."""
        return {slot: process.pid for slot, process in self._processes.items()}

    def kill(self, slot: int) -> str:
        """End a process as the kernel would that has no memory left."""
        if process := self._processes.get(slot):
            _send(process, signal.SIGKILL)
        return f"worker {slot}"

    async def pause(self, slot: int, pause_s: float) -> None:
        """Stop a process for so long, and let it go on."""
        if process := self._processes.get(slot):
            _send(process, signal.SIGSTOP)
            try:
                await anyio.sleep(pause_s)
            finally:
                _send(process, signal.SIGCONT)

    async def roll(self) -> None:
        """Let one process after another end in good order, and wait for its successor."""
        if self._rolling:
            return
        self._rolling = True
        try:
            for slot in range(self.count):
                if process := self._processes.get(slot):
                    await self._end(slot, process)
                with anyio.move_on_after(_LONGEST_START_S):
                    await self.serve(slot)
        finally:
            self._rolling = False

    async def serve(self, *slots: int) -> None:
        """Wait until those of these slots serve."""
        for slot in slots:
            # Its file is all that tells so.
            while slot not in self.pids or not self.history(self.pids[slot]).exists():  # noqa: ASYNC110
                await anyio.sleep(_TICK_S)

    def history(self, pid: int) -> Path:
        """Tell where a process records what it runs; the file is there once it serves."""
        return self._folder / f"worker-{pid}.jsonl"

    async def _end(self, slot: int, process: Process) -> None:
        _send(process, signal.SIGCONT)
        _send(process, signal.SIGTERM)
        with anyio.move_on_after(_LONGEST_END_S) as limit:
            await process.wait()
        if limit.cancelled_caught:
            self.stuck.append(f"worker {slot}, process {process.pid}")
            _send(process, signal.SIGKILL)

    def _log(self, slot: int) -> Path:
        return self._folder / f"worker-{slot}.log"

    async def _keep(self, slot: int) -> None:
        with self._log(slot).open("ab") as log:
            while not self._leaving:
                process = await anyio.open_process(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                )
                self._processes[slot] = process
                if self._leaving:
                    _send(process, signal.SIGKILL)
                try:
                    code = await process.wait()
                finally:
                    del self._processes[slot]
                    _send(process, signal.SIGKILL)
                self.exits[_how(code)] += 1
                if not self._leaving:
                    await anyio.sleep(_RESTART_S)


def _how(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return "drained" if code == 0 else f"code {code}"


def _complaints(log: Sequence[str]) -> Iterator[str]:
    """Find what a slot's processes told beside their log, which is JSON.

    One that cannot reach the broker when it starts may say so and leave.
    """
    serves = False
    for line in log:
        if line.startswith("{"):
            serves = '"event": "serving ' in line or (serves and '"event": "opening ' not in line)
        elif line.startswith(("Traceback", "Exception", "asyafw:")) or (
            serves and line.startswith("Error")
        ):
            yield line


def _send(process: Process, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signum)
