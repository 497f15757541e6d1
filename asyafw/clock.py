"""Time as a value, so that tests can drive it."""

import time
from typing import Protocol

import anyio

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait until `delay_s` seconds have passed."""
        ...


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)

    async def sleep(self, delay_s: float) -> None:
        await anyio.sleep(delay_s)


SYSTEM_CLOCK = SystemClock()
