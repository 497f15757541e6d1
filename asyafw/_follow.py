"""Read a log through whatever happens to the connection."""

from collections.abc import AsyncIterator

from asyafw._backoff import back_off
from asyafw.exceptions import TransportClosed, TransportError
from asyafw.transport import Entry, Transport

__all__ = ["follow"]


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
            await back_off(failures, f"cannot read the log {log}", error)
