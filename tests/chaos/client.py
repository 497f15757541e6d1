"""The client process, as its runner sees it."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from msgspec.json import decode, encode

from tests.chaos.submitter import Order, Progress, Settings

__all__ = ["ClientProcess", "submitting"]

_LONGEST_LINE: Final = 10_000
_TICK_S: Final = 0.05
_LONGEST_END_S: Final = 30.0


class ClientProcess:
    """Takes orders, and tells how far it is: `progress` is what it told last."""

    def __init__(self, process: Process) -> None:
        self.progress = Progress()
        self._process = process

    async def listen(self) -> None:
        """Take in what it tells, until it ends."""
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        while True:
            try:
                line = await lines.receive_until(b"\n", _LONGEST_LINE)
            except (anyio.EndOfStream, anyio.IncompleteRead):
                return
            self.progress = decode(line, type=Progress)

    async def leave(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with anyio.fail_after(_LONGEST_END_S):
            await self._process.wait()

    async def tell(self, order: Order) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        await self._process.stdin.send(order.encode() + b"\n")

    async def probe(self, patience_s: float) -> None:
        """Have it submit many jobs at once, and wait until they have ended."""
        probes = self.progress.probes + 1
        await self.tell("probe")
        await self.until(
            lambda told: told.probes == probes and not told.open and not told.submitting,
            patience_s,
        )

    async def until(self, condition: Callable[[Progress], bool], patience_s: float) -> bool:
        """Wait until it is so far, and tell whether it is.

        Raises:
            RuntimeError: the process has ended.
        """
        with anyio.move_on_after(patience_s):
            while not condition(self.progress):
                if self._process.returncode is not None:
                    raise RuntimeError("the client has ended: see client.log")
                await anyio.sleep(_TICK_S)
            return True
        return False


@asynccontextmanager
async def submitting(settings: Settings) -> AsyncGenerator[ClientProcess, None]:
    """Run a client, which ends with the block."""
    with (Path(settings.folder) / "client.log").open("ab") as log:
        process = await anyio.open_process(
            [sys.executable, "-m", "tests.chaos.submitter", encode(settings).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    client = ClientProcess(process)
    async with process, anyio.create_task_group() as tasks:
        tasks.start_soon(client.listen)
        yield client
        await client.leave()
