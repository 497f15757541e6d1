"""Read a log through whatever happens to the connection."""

import logging
from collections.abc import AsyncIterator
from random import random

import anyio

from asyafw.exceptions import TransportClosed, TransportError
from asyafw.retry import exponential
from asyafw.transport import Entry, Transport

__all__ = ["follow"]

_RECONNECT = exponential(0.1)
_LONGEST_PAUSE_S = 10.0

_logger = logging.getLogger("asyafw.worker")


async def follow(transport: Transport, log: str, *, since_s: float = 0) -> AsyncIterator[Entry]:
    """Read a log as `Transport.tail` does, and go on behind the last entry after a failure.

    Raises:
        TransportClosed: the transport was closed.
    """
    after: str | None = None
    failures = 0
    while True:
        try:
            async for entry in transport.tail(log, since_s=since_s, after=after):
                after, failures = entry.position, 0
                yield entry
        except TransportClosed:
            raise
        except TransportError as error:
            failures += 1
            pause_s = min(_RECONNECT(failures), _LONGEST_PAUSE_S) * (0.5 + random() / 2)
            _logger.warning("cannot read the log %s, again in %.1f s: %s", log, pause_s, error)
            await anyio.sleep(pause_s)
