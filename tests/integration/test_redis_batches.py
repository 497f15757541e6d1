"""How many steps become one command of Redis, and what a message looks like on its way."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import uuid4

import anyio
import pytest
from asyafw_redis import from_url

from asyafw.transport import Delivery, Message, Out, Part, Send, Transport
from tests.servers.redis import DURABLE, RedisServer, redis_server

PATIENCE_S = 10.0
MIB = 1024 * 1024
ODD_BODIES = (b"", b"\xff\xff\xff\xff", b"\xff", b"\0\r\n$5", bytes(range(256)))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(*DURABLE) as server:
        yield server


@pytest.fixture
async def transport(server: RedisServer) -> AsyncIterator[Transport]:
    async with from_url(f"{server.url}?prefix={uuid4().hex[:8]}") as transport:
        # The server knows the script from here on.
        await transport.emit(Send("queue", Message(b"")))
        yield transport


async def commands(server: RedisServer, transport: Transport, outs: Sequence[Out]) -> int:
    """Emit each by itself, all at once, and count the commands that this takes."""
    client = server.client()
    client.config_resetstat()
    async with anyio.create_task_group() as tasks:
        for out in outs:
            tasks.start_soon(transport.emit, out)
    stats: Any = client.info("commandstats")
    client.close()
    return int(stats["cmdstat_evalsha"]["calls"])


async def take(transport: Transport, queue: str, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    with anyio.fail_after(PATIENCE_S):
        async with transport.consume(queue) as consumer:
            while len(taken) < count:
                for delivery in await consumer.receive(count - len(taken)):
                    assert await delivery.settle()
                    taken.append(delivery)
    return taken


async def test_a_command_has_256_steps_at_most(server: RedisServer, transport: Transport) -> None:
    outs = [Send("queue", Message(b"%d" % n)) for n in range(1000)]

    count = await commands(server, transport, outs)

    # One more may be the keeper's, which comes every few seconds.
    assert count in {4, 5}
    assert (await transport.lag("queue")).backlog == 1001


async def test_a_command_has_little_more_than_4_mib(
    server: RedisServer, transport: Transport
) -> None:
    outs = [Send("queue", Message(b"%d" % n + bytes(MIB))) for n in range(10)]

    count = await commands(server, transport, outs)

    assert count in {3, 4}
    assert (await transport.lag("queue")).backlog == 11


async def test_parts_are_delivered_byte_for_byte(transport: Transport) -> None:
    total = len(ODD_BODIES) + 1
    parts = [Part("joins", "j", n, total, body, 0.2) for n, body in enumerate(ODD_BODIES)]

    await transport.emit(*parts)

    (delivery,) = await take(transport, "joins", 1)
    assert delivery.message == Message(b"", "j")
    assert delivery.parts == (*ODD_BODIES, None)


@pytest.mark.parametrize("key", [None, "", "k", "ключ\0\n"])
async def test_what_is_delayed_comes_byte_for_byte(transport: Transport, key: str | None) -> None:
    messages = [Message(body, key) for body in ODD_BODIES]

    # Twice the same is two messages.
    await transport.emit(*(Send("later", each, 0.05) for each in [*messages, *messages]))

    taken = [delivery.message for delivery in await take(transport, "later", 2 * len(messages))]
    assert taken == [*messages, *messages]
