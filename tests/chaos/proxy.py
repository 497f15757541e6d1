"""A TCP proxy that harms the connections through it."""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias, cast

import anyio
from anyio.abc import TaskStatus

__all__ = ["Connection", "Direction", "Proxy", "proxying"]

Direction: TypeAlias = Literal["to server", "to client"]


class Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy
        self._swallowed: set[Direction] = set()
        self._loses_reply = False
        # What the client has sent before there was anybody to get it.
        self._early: list[bytes] = []
        self._client = _End(self, "to server")
        self._server = _End(self, "to client")

    @property
    def is_harmed(self) -> bool:
        """Whether nothing will ever become of it again."""
        return bool(self._swallowed) or self._loses_reply

    def cut(self) -> None:
        """Close both sides, whatever is on its way."""
        for end in (self._client, self._server):
            if end.transport is not None:
                end.transport.abort()
        self._proxy.forget(self)

    def swallow(self, direction: Direction) -> None:
        """Let nothing more through in this direction, and tell nobody.

        That lasts: neither side will know that the other has gone.
        """
        self._swallowed.add(direction)

    def lose_reply(self) -> None:
        """Forward the next request, but cut the connection in place of its reply."""
        self._loses_reply = True

    async def open(self) -> None:
        """Connect to the server, and begin to forward."""
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self._server, *self._proxy.server
            )
        except OSError:
            self.cut()

    def accepted(self) -> asyncio.BaseProtocol:
        """Give what the client talks to."""
        return self._client

    def made(self, end: "_End") -> None:
        """Be told that one side is connected."""
        if end is self._client:
            self._proxy.connect(self)
        elif self._client.is_open:
            early, self._early = self._early, []
            for data in early:
                end.write(data)
        else:
            self.cut()

    def received(self, direction: Direction, data: bytes) -> None:
        """Be told what one side has sent."""
        if direction in self._swallowed:
            return
        if direction == "to client":
            if self._loses_reply:
                self.cut()
            else:
                self._client.write(data)
        elif self._server.transport is None:
            self._early.append(data)
        else:
            self._server.write(data)

    def flowing(self, end: "_End", *, is_flowing: bool) -> None:
        """Be told whether one side takes more."""
        other = self._server if end is self._client else self._client
        if other.transport is not None and other.is_open:
            (other.transport.resume_reading if is_flowing else other.transport.pause_reading)()

    def ended(self, end: "_End") -> None:
        """Be told that one side has gone, of which the other is told unless it is cut off."""
        other = self._server if end is self._client else self._client
        if end.direction not in self._swallowed and other.transport is not None:
            other.transport.close()
        if not other.is_open:
            self._proxy.forget(self)


class _End(asyncio.Protocol):
    """One side of a connection; what comes from it goes in this direction."""

    def __init__(self, connection: Connection, direction: Direction) -> None:
        self.direction: Direction = direction
        self.transport: asyncio.Transport | None = None
        self._connection = connection

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        if self.transport is not None and self.is_open:
            self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        self._connection.received(self.direction, data)

    def pause_writing(self) -> None:
        self._connection.flowing(self, is_flowing=False)

    def resume_writing(self) -> None:
        self._connection.flowing(self, is_flowing=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.ended(self)


class Proxy:
    """Listens on `port` of this host, and forwards to a server."""

    def __init__(self, host: str, port: int) -> None:
        self.server = (host, port)
        self.port = 0
        self._connections: dict[Connection, None] = {}
        self._new, self._to_open = anyio.create_memory_object_stream[Connection](math.inf)

    @property
    def connections(self) -> Sequence[Connection]:
        """Those that nothing has been done to yet, the oldest first."""
        return [each for each in self._connections if not each.is_harmed]

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        """Take connections, until cancelled."""
        listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(self).accepted(), "127.0.0.1", 0
        )
        self.port = listener.sockets[0].getsockname()[1]
        task_status.started()
        try:
            async with self._to_open, anyio.create_task_group() as tasks:
                async for connection in self._to_open:
                    tasks.start_soon(connection.open)
        finally:
            listener.close()
            self._new.close()
            for connection in tuple(self._connections):
                connection.cut()

    def connect(self, connection: Connection) -> None:
        """Have a connection opened to the server."""
        self._connections[connection] = None
        self._new.send_nowait(connection)

    def forget(self, connection: Connection) -> None:
        """Be told that a connection is over."""
        self._connections.pop(connection, None)


@asynccontextmanager
async def proxying(host: str, port: int) -> AsyncGenerator[Proxy, None]:
    """Run a proxy before a server."""
    proxy = Proxy(host, port)
    async with anyio.create_task_group() as tasks:
        await tasks.start(proxy.listen)
        yield proxy
        tasks.cancel_scope.cancel()
