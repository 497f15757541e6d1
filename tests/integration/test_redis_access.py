"""Which servers are reached, which are refused, and what is said of those that are not there."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import anyio
import pytest
from asyafw_redis import from_url

from asyafw.exceptions import ConfigurationError, TransportUnavailable
from asyafw.transport import Message, Send
from tests.integration.cli import call
from tests.integration.whole_job import app, do_everything
from tests.servers.redis import DURABLE, RedisServer, free_port, redis_server

PROGRAMS = ["redis-server", "valkey-server"]
PATIENCE_S = 20.0
BODY = Message(b"tea")


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server on a port and, in its folder, on a socket."""
    with redis_server(*DURABLE, "--unixsocket", "redis.sock", program=request.param) as server:
        yield server


async def problem(url: str) -> str:
    """Tell what is said of a server that cannot be reached."""
    with pytest.raises(TransportUnavailable) as caught:
        async with from_url(url):
            pass
    return str(caught.value)


async def refusal(url: str) -> str:
    """Tell what is said of a server that is not fit."""
    with pytest.raises(ConfigurationError) as caught:
        async with from_url(url):
            pass
    return str(caught.value)


async def test_an_app_runs(server: RedisServer) -> None:
    url = f"{server.url}?prefix=whole"

    await do_everything(app.worker(url), app.connect(url), from_url(url))


async def test_an_app_runs_over_a_unix_socket(server: RedisServer) -> None:
    url = f"unix://{server.folder}/redis.sock?db=2"

    await do_everything(app.worker(url), app.connect(url), from_url(url))

    assert server.client(db=2).dbsize() > 0


async def test_a_database_has_a_number(server: RedisServer) -> None:
    async with from_url(f"{server.url}/3") as third, from_url(f"{server.url}/4") as fourth:
        await third.emit(Send("q", BODY))

        assert (await third.lag("q")).backlog == 1
        assert (await fourth.lag("q")).backlog == 0


async def test_a_database_that_is_not_there_is_told(server: RedisServer) -> None:
    assert "DB index is out of range" in await refusal(f"{server.url}/16")


async def test_prefixes_do_not_see_each_other(server: RedisServer) -> None:
    async with (
        from_url(f"{server.url}?prefix=blue") as blue,
        from_url(f"{server.url}?prefix=green") as green,
        blue.consume("q") as consumer,
    ):
        await green.emit(Send("q", BODY))
        await blue.emit(Send("q", Message(b"blue")))

        (delivery,) = await consumer.receive(10)
        assert delivery.message.body == b"blue"
        assert (await green.lag("q")).backlog == 1


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_server_that_loses_messages_is_refused(program: str) -> None:
    with redis_server("--maxmemory-policy", "allkeys-lru", program=program) as server:
        told = await refusal(server.url)

        assert f"Redis at 127.0.0.1:{server.port} would lose messages" in told
        assert "appendonly yes" in told
        assert "(allkeys-lru): set `maxmemory-policy noeviction`" in told
        async with from_url(f"{server.url}?durability=relaxed") as transport:
            await transport.emit(Send("q", BODY))


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_cluster_is_refused(program: str) -> None:
    # The port that members use among themselves is not one that is free by chance.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with redis_server(*DURABLE, *options, program=program) as server:
        assert "is a Cluster" in await refusal(server.url)


async def test_a_replica_is_refused_and_its_master_named(server: RedisServer) -> None:
    with redis_server(*DURABLE, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        told = await refusal(replica.url)

    assert told == (
        f"Redis at 127.0.0.1:{replica.port} is a replica; its master is 127.0.0.1:{server.port}"
    )


async def test_a_closed_port_is_told_within_the_time_out() -> None:
    port = free_port()
    began = time.monotonic()

    told = await problem(f"redis://127.0.0.1:{port}?timeout_s=0.5")

    assert told == f"Redis at 127.0.0.1:{port} cannot be reached: Connection refused"
    assert 0.4 < time.monotonic() - began < 1.5


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_port_that_never_answers_is_told_within_the_time_out(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        began = time.monotonic()

        told = await problem(f"{scheme}://127.0.0.1:{port}?timeout_s=0.5")

    assert f"Redis at 127.0.0.1:{port} does not answer" in told
    assert time.monotonic() - began < 1.5


async def test_a_host_without_an_address_is_told() -> None:
    told = await problem("redis://redis.invalid?timeout_s=0.5")

    assert told.startswith("Redis at redis.invalid:6379 cannot be reached: ")


async def test_a_socket_that_is_not_there_is_told() -> None:
    assert await problem("unix:///no/such.sock?timeout_s=0.2") == (
        "Redis at /no/such.sock cannot be reached: No such file or directory"
    )


async def test_a_server_that_comes_a_little_later_is_waited_for() -> None:
    with redis_server(*DURABLE) as server:
        server.stop()
        starting = Timer(1, server.start)
        starting.start()
        async with from_url(f"{server.url}?timeout_s=10") as transport:
            await transport.emit(Send("q", BODY))
        starting.join()


async def test_a_server_that_is_loading_is_waited_for() -> None:
    with redis_server(*DURABLE, *SLOWLY) as server:
        fill(server)
        server.stop()
        server.start(wait=False)

        async with from_url(f"{server.url}?timeout_s=15") as transport, transport.consume("q"):
            await transport.emit(Send("q", BODY))


async def test_a_server_that_is_loading_for_too_long_is_told() -> None:
    with redis_server(*DURABLE, *SLOWLY) as server:
        fill(server)
        server.stop()
        server.start(wait=False)
        await answers(server)

        told = await problem(f"{server.url}?timeout_s=1")

        assert told == f"Redis at 127.0.0.1:{server.port}: it is still loading its data"


SLOWLY = (
    *("--key-load-delay", "2000"),  # in microseconds
    *("--loading-process-events-interval-bytes", "1024"),
)


def fill(server: RedisServer) -> None:
    """Give the server something to load, which takes it some seconds."""
    client = server.client()
    with client.pipeline() as pipeline:
        for number in range(1500):
            pipeline.set(f"key:{number}", "x" * 100)
        pipeline.execute()
    # What is in the base of the file is loaded in small steps.
    client.bgrewriteaof()
    latest = time.monotonic() + PATIENCE_S
    while client.info("persistence")["aof_rewrite_in_progress"]:
        assert time.monotonic() < latest
        time.sleep(0.01)


async def answers(server: RedisServer) -> None:
    """Wait until the port of the server is open."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", server.port)
            except OSError:
                await anyio.sleep(0.01)
            else:
                await stream.aclose()
                return


def test_the_command_line_tells_it_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)

    url = "redis://ada:hush@127.0.0.1:1?timeout_s=0.5"
    done = call(tmp_path, "worker", "shop", "--transport", url)

    assert done.returncode == 1
    *logged, told = done.stderr.splitlines()
    assert told == "Error: Redis at 127.0.0.1:1 cannot be reached: Connection refused"
    assert not any("hush" in line or "Traceback" in line for line in logged)


def test_the_command_line_tells_of_a_wrong_url_without_the_password(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)

    done = call(tmp_path, "worker", "shop", "--transport", "redis://ada:hush@h?lease=1")

    assert done.returncode == 2
    assert "unknown option 'lease'" in done.stderr
    assert "sh" not in re.sub("shop|push", "", done.stderr + done.stdout)


SHOP = """
from asyafw import App, actor

@actor
async def echo(word: str) -> str:
    return word

app = App(actors=[echo])
"""
