"""Events that travel by themselves, not with a settlement: in batches, and at most once."""

import logging
from collections import deque

import anyio

from asyafw.envelope import Codec
from asyafw.events import Event, append
from asyafw.exceptions import TransportError
from asyafw.telemetry import Metrics
from asyafw.transport import Append, Transport

__all__ = ["Notices"]

_EVERY_S = 0.1
_MOST = 10_000
_AT_ONCE = 500

_logger = logging.getLogger("asyafw.worker")


class Notices:
    """Gathers events and appends them to their logs ten times a second.

    If more come than can be sent, the oldest are dropped and counted.
    """

    def __init__(self, codec: Codec, metrics: Metrics) -> None:
        self._codec = codec
        self._metrics = metrics
        self._waiting: deque[Append] = deque()
        self._some = anyio.Event()
        self._sending = anyio.Lock()

    def add(self, event: Event, log: str | None = None) -> None:
        """Have an event sent soon."""
        if len(self._waiting) >= _MOST:
            self._waiting.popleft()
            self._metrics.events_dropped += 1
        self._waiting.append(append(event, self._codec, log))
        self._some.set()

    async def run(self, transport: Transport) -> None:
        """Send what comes, until cancelled."""
        while True:
            await self._some.wait()
            self._some = anyio.Event()
            await self.flush(transport)
            await anyio.sleep(_EVERY_S)

    async def flush(self, transport: Transport) -> None:
        """Send what waits; when this returns nothing is on its way either."""
        async with self._sending:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                try:
                    await transport.emit(*batch)
                except TransportError as error:
                    self._metrics.events_dropped += len(batch)
                    _logger.warning("cannot tell %d events: %s", len(batch), error)
                    return
