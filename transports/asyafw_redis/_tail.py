"""Read a log as it grows."""

from collections import deque
from collections.abc import Callable
from re import compile as regex
from typing import Any, Self

from asyafw.transport import Entry
from asyafw_redis._errors import FOREIGN, translated
from asyafw_redis._link import Link
from asyafw_redis._options import Options

__all__ = ["Tail"]

_BURST = 500
_BLOCK_S = 4.0
_POSITION = regex(r"[0-9]+-[0-9]+")


class Tail:
    """Reads a log through a connection of its own; a cancelled read loses nothing.

    Where to begin is decided by the first read, on the server's clock.
    """

    def __init__(
        self,
        log: str,
        since_s: float,
        after: str | None,
        options: Options,
        lend: Callable[["Tail"], Link],
    ) -> None:
        if after is not None and not _POSITION.fullmatch(after):
            raise ValueError(f"{after!r} is not a position of this log")
        self._key = f"{options.prefix}:log:{log}"
        self._since_s = since_s
        self._after = after
        self._options = options
        self._lend = lend
        self._link: Link | None = None
        self._read: deque[Entry] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        """Give the next entry, or wait for one.

        Raises:
            TransportClosed: the transport was closed, perhaps while this waited.
            TransportError: the connection failed; the next call makes another one.
        """
        read = self._read
        while not read:
            link = self._lend(self)
            try:
                await self._more(link)
            except FOREIGN as error:
                self._lend(self)  # raises, if that is why
                raise translated(error, self._options) from error
        return read.popleft()

    async def _more(self, link: Link) -> None:
        await link.open()
        if self._after is None:
            self._after = await self._start(link)
        reply = await link.call(
            *("XREAD", "COUNT", _BURST, "BLOCK", int(_BLOCK_S * 1000)),
            *("STREAMS", self._key, self._after),
            wait_s=_BLOCK_S,
        )
        for _, entries in reply or ():
            for position, fields in entries:
                self._after = position.decode()
                self._read.append(Entry(self._after, fields[1]))

    async def _start(self, link: Link) -> str:
        """Find the position behind which to begin."""
        if self._since_s > 0:
            seconds, microseconds = await link.call("TIME")
            now_ms = int(seconds) * 1000 + int(microseconds) // 1000
            return f"{max(0, now_ms - int(self._since_s * 1000))}-0"
        last: Any = await link.call("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        return last[0][0].decode() if last else "0-0"
