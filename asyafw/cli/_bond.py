"""What ties a process to the parent that keeps it running: a pair of sockets.

The child writes to its end once it serves, and reads. Nobody ever writes to the parent's end,
but the system closes it when the parent ends, even by SIGKILL; the child then ends, too.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from socket import socket, socketpair
from threading import Thread
from types import FrameType
from typing import Final, Self

import anyio
from anyio.abc import Process

__all__ = ["BOND", "INDEX", "Child", "Parent"]

BOND: Final = "ASYAFW_BOND"
"""Names the descriptor of the child's end."""

INDEX: Final = "ASYAFW_PROCESS_INDEX"
"""Names the number of the process, from 0; for the app, too, that chooses a GPU by it."""


class Child:
    """A process that this one has started."""

    def __init__(self, process: Process, bond: socket) -> None:
        self._process = process
        self._bond = bond
        self._bond.setblocking(False)  # noqa: FBT003 — the library's own signature
        self._started_at = time.monotonic()
        self._served_at: float | None = None

    @classmethod
    async def start(cls, command: Sequence[str], index: int) -> Self:
        """Start a command, out of reach of the terminal's signals.

        Raises:
            OSError: the system cannot do that, or not now.
        """
        ours, theirs = socketpair()
        try:
            with theirs:
                process = await anyio.open_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=None,
                    stderr=None,
                    env={**os.environ, INDEX: str(index), BOND: str(theirs.fileno())},
                    start_new_session=True,
                    pass_fds=[theirs.fileno()],
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The number that the system knows it by."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None before the end."""
        return self._process.returncode

    @property
    def age_s(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started_at

    @property
    def served_s(self) -> float:
        """How long ago it said that it serves; 0 if it did not."""
        return 0 if self._served_at is None else time.monotonic() - self._served_at

    async def serves(self) -> None:
        """Wait until it says that it serves; for ever, if it ends before."""
        await anyio.wait_readable(self._bond)
        if not self.has_served():
            await anyio.sleep_forever()

    def has_served(self) -> bool:
        """Tell whether it has ever said that it serves; also after its end, until `close`."""
        if self._served_at is None:
            with suppress(OSError):  # it has said nothing yet
                self._served_at = time.monotonic() if self._bond.recv(1) else None
        return self._served_at is not None

    async def wait(self) -> None:
        """Wait for the end."""
        await self._process.wait()

    def ask(self) -> None:
        """Ask it to finish what is in hand, and to leave."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it at once, with what it has started itself."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Untie the bond; a process that still runs then drains."""
        self._bond.close()


class Parent:
    """The process that keeps this one running: this one gets a SIGTERM when that one ends.

    `index` is the number of this process among those of the parent, from 0.
    """

    def __init__(self, index: int, bond: socket) -> None:
        self.index = index
        self._bond = bond
        Thread(target=self._leave_with_it, name="asyafw-parent", daemon=True).start()

    @classmethod
    def find(cls) -> Self | None:
        """Find the parent; None in a process that nobody keeps running."""
        # Taken away, because what this process starts is not the parent's.
        descriptor = os.environ.pop(BOND, None)
        if descriptor is None:
            return None
        # Not by SIG_IGN, which would be handed down to what this process starts.
        signal.signal(signal.SIGHUP, _leave_to_parent)
        bond = socket(fileno=int(descriptor))
        bond.set_inheritable(False)
        return cls(int(os.environ[INDEX]), bond)

    def tell_that_it_serves(self) -> None:
        """Tell the parent that this process has begun to serve."""
        with suppress(OSError):
            self._bond.send(b"\n")

    def _leave_with_it(self) -> None:
        with suppress(OSError):
            self._bond.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)


def _leave_to_parent(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing about a signal that came to all processes at once, as by ``pkill -HUP``."""
