from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from msgspec import Struct

from tests.chaos.proxy import Connection, Proxy, proxying
from tests.integration.running import PATIENCE_S, becomes

QUIET_S = 0.05


class Server(Struct):
    """Answers in capitals, and keeps what it was sent and when its clients have left."""

    port: int = 0
    received: bytes = b""
    left: int = 0

    async def answer(self, stream: SocketStream) -> None:
        try:
            async with stream:
                while True:
                    data = await stream.receive()
                    self.received += data
                    await stream.send(data.upper())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self.left += 1


@asynccontextmanager
async def scene() -> AsyncGenerator[tuple[Server, Proxy, SocketStream], None]:
    """Run a server, a proxy before it, and a client that has had one answer."""
    server = Server()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        server.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, server.answer)
        with anyio.fail_after(PATIENCE_S):
            async with (
                proxying("127.0.0.1", server.port) as proxy,
                await anyio.connect_tcp("127.0.0.1", proxy.port) as client,
            ):
                await client.send(b"a")
                assert await client.receive() == b"A"
                yield server, proxy, client
        tasks.cancel_scope.cancel()


def only(proxy: Proxy) -> Connection:
    (connection,) = proxy.connections
    return connection


async def is_quiet(client: SocketStream) -> bool:
    with anyio.move_on_after(QUIET_S):
        await client.receive()
        return False
    return True


async def test_much_goes_through_in_both_directions() -> None:
    async with scene() as (_, _, client):
        sent, answer = b"x" * 3_000_000, b""

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, sent)
            while len(answer) < len(sent):
                answer += await client.receive()

        assert answer == sent.upper()


async def test_a_cut_closes_both_sides() -> None:
    async with scene() as (server, proxy, client):
        only(proxy).cut()

        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await client.receive()
        await becomes(lambda: server.left)
        assert proxy.connections == []


async def test_a_lost_reply_is_of_a_request_that_arrived() -> None:
    async with scene() as (server, proxy, client):
        only(proxy).lose_reply()
        await client.send(b"b")

        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await client.receive()
        assert server.received == b"ab"


async def test_swallowed_requests_do_not_arrive_and_nobody_is_told() -> None:
    async with scene() as (server, proxy, client):
        only(proxy).swallow("to server")
        await client.send(b"b")

        assert await is_quiet(client)
        await client.aclose()
        await anyio.sleep(QUIET_S)
        assert (server.received, server.left) == (b"a", 0)


async def test_swallowed_replies_are_of_requests_that_arrived() -> None:
    async with scene() as (server, proxy, client):
        only(proxy).swallow("to client")
        await client.send(b"b")

        await becomes(lambda: server.received == b"ab")
        assert await is_quiet(client)


async def test_what_is_harmed_is_not_harmed_again() -> None:
    async with scene() as (_, proxy, _):
        only(proxy).swallow("to client")

        assert proxy.connections == []


async def test_the_end_of_one_side_is_the_end_of_the_other() -> None:
    async with scene() as (server, proxy, client):
        await client.aclose()

        await becomes(lambda: server.left and not proxy.connections)


async def test_a_connection_to_a_server_that_is_away_is_closed() -> None:
    async with scene() as (_, proxy, _):
        proxy.server = ("127.0.0.1", 1)

        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as client:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await client.receive()
