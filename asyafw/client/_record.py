"""What is known of a job."""

from collections.abc import Callable

import anyio
from msgspec import UNSET, Struct

from asyafw.envelope import Codec, codec_of
from asyafw.events import Event, decode_event
from asyafw.exceptions import DecodeError, TransportClosed

__all__ = ["Record", "Result"]


class Result(Struct, frozen=True):
    """An event that tells a result, and how that is encoded."""

    event: Event
    codec: Codec

    @property
    def raw(self) -> bytes:
        payload = self.event.payload
        return self.codec.null if payload is UNSET else payload


class Record:
    """What is known of a job.

    `begin` is called with it by the first who waits for more.
    """

    def __init__(self, job: str, begin: "Callable[[Record], None] | None" = None) -> None:
        self.job = job
        self.events: list[Event] = []
        self.results: dict[tuple[int, ...], Result] = {}
        self.end: Event | None = None
        self._begin = begin
        self._closed = False
        self._changed: anyio.Event | None = None  # there while somebody waits

    def add(self, body: bytes) -> None:
        """Add an encoded event; what comes after the end is of a replay."""
        if self.end is not None:
            return
        try:
            event = decode_event(body)
        except DecodeError:
            return
        if event.kind == "accepted" and self.events:
            return  # another submission with the same key
        self.events.append(event)
        if event.kind in ("child", "succeeded"):
            self.results[event.path] = Result(event, codec_of(body))
        if event.ends_job:
            self.end = event
        self._wake()

    def close(self) -> None:
        """Tell those who wait that no more will be known."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def changed(self) -> None:
        """Wait for another event.

        Raises:
            TransportClosed: the client was closed.
        """
        known = len(self.events)
        if not self._closed:
            if self._begin is not None:
                begin, self._begin = self._begin, None
                begin(self)
            self._changed = self._changed or anyio.Event()
            await self._changed.wait()
        if self._closed and len(self.events) == known:
            raise TransportClosed(f"the client was closed while job {self.job} was waited for")

    async def ended(self) -> Event:
        """Wait for the end.

        Raises:
            TransportClosed: the client was closed before it.
        """
        while self.end is None:
            await self.changed()
        return self.end
