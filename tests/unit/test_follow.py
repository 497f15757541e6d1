from collections.abc import AsyncIterator

import anyio

from asyafw._follow import follow
from asyafw.exceptions import TransportUnavailable
from asyafw.memory import MemoryTransport
from asyafw.transport import Append, Entry


class OnceAway(MemoryTransport):
    """Fails to read once; meanwhile something is appended."""

    failed = False

    async def tail(  # type: ignore[override]  # as the seam has it
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        if not self.failed:
            self.failed = True
            await self.emit(Append(log, b"meanwhile"))
            raise TransportUnavailable
        async for entry in super().tail(log, since_s=since_s, after=after):
            yield entry


async def test_what_is_appended_before_the_first_entry_is_read_is_not_missed() -> None:
    async with OnceAway() as transport:
        with anyio.fail_after(5):
            first = await anext(aiter(follow(transport, "log")))

    assert first.body == b"meanwhile"
