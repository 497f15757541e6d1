from contextlib import AbstractAsyncContextManager

from asyafw.memory import MemoryTransport
from asyafw.testing import ManualClock
from asyafw.transport import Transport


class MemoryHarness:
    patience_s = 5.0
    quiet_s = 0.01
    tick_s = 10.0
    lease_s = 30.0
    counts_crashes = True

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.service = MemoryTransport(self.clock)

    def open(self) -> AbstractAsyncContextManager[Transport]:
        return self.service.share()

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, MemoryTransport)
        await transport.crash()

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)
