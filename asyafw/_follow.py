"""Read a log through whatever happens to the connection."""

from collections.abc import AsyncIterator
from time import monotonic

from asyafw._backoff import back_off
from asyafw.exceptions import TransportClosed, TransportError
from asyafw.transport import Entry, Transport

__all__ = ["follow"]


async def follow(transport: Transport, log: str, *, since_s: float = 0) -> AsyncIterator[Entry]:
    """Read a log as `Transport.tail` does, and go on behind the last entry after a failure.

    Raises:
        TransportClosed: the transport was closed.
    """
    began = monotonic()
    after: str | None = None
    failures = 0
    while True:
        # Until an entry was read, what is asked for begins where it began at first.
        back_s = since_s + (monotonic() - began if failures else 0)
        try:
            async for entry in transport.tail(log, since_s=back_s, after=after):
                after, failures = entry.position, 0
                yield entry
        except TransportClosed:
            raise
        except TransportError as error:
            failures += 1
            await back_off(failures, f"cannot read the log {log}", error)
