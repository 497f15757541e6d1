"""Masters that are replaced: by Sentinels, or behind a name that leads elsewhere."""

import socket
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from anyio import to_thread
from asyafw_redis import from_url

from asyafw import App, actor
from asyafw.client import Client
from asyafw.exceptions import ConfigurationError, TransportError, TransportUnavailable
from asyafw.transport import Message, Send
from tests.integration.whole_job import app as everything
from tests.integration.whole_job import do_everything
from tests.servers.certificates import Authority
from tests.servers.redis import DURABLE, RedisServer, free_port, redis_server
from tests.servers.sentinel import SERVICE, SentinelServer, Watched, sentinel_server, watched

T = TypeVar("T")

PATIENCE_S = 30.0
BODY = Message(b"tea")


@actor
async def greet(name: str) -> str:
    return f"hello {name}"


app = App(actors=[greet])


@pytest.fixture(params=["redis-server", "valkey-server"])
def own(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """Servers that the test may kill."""
    with watched(request.param) as servers:
        yield servers


@pytest.fixture(scope="module")
def master() -> Iterator[RedisServer]:
    with redis_server(*DURABLE) as server:
        yield server


@pytest.fixture
def sentinel(master: RedisServer) -> Iterator[SentinelServer]:
    with sentinel_server(master.port) as server:
        yield server


async def greets(client: Client, name: str) -> None:
    """See a job through, whatever becomes of the servers meanwhile."""
    with anyio.fail_after(PATIENCE_S):
        job = await until_done(lambda: client.submit(["greet"], name))
        assert await job.result() == f"hello {name}"


async def until_done(act: Callable[[], Awaitable[T]]) -> T:
    """Try again for as long as the transport fails."""
    while True:
        try:
            return await act()
        except TransportError:
            await anyio.sleep(0.05)


@asynccontextmanager
async def serving(url: str) -> AsyncGenerator[Client, None]:
    async with app.worker(url), app.connect(url) as client:
        yield client


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a server brings about."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 — a server sets no event
            await anyio.sleep(0.02)


def role(server: RedisServer) -> Any:
    with server.client() as client:
        return client.info("replication")["role"]


async def test_work_goes_on_with_the_new_master(own: Watched) -> None:
    async with serving(f"{own.url}?lease_s=2") as client:
        await greets(client, "Ada")

        own.master.kill()
        await greets(client, "Grace")

        assert own.sentinel.master() == own.replica.port
        assert role(own.replica) == "master"


async def test_what_is_emitted_waits_for_the_new_master(own: Watched) -> None:
    async with from_url(f"{own.url}?timeout_s=20") as transport:
        await transport.emit(Send("q", BODY))

        await to_thread.run_sync(own.master.kill)
        await transport.emit(Send("q", BODY))

        assert (await transport.lag("q")).backlog >= 1
        assert own.sentinel.master() == own.replica.port


async def test_work_goes_on_when_masters_change_places() -> None:
    with watched() as servers:
        async with serving(f"{servers.url}?lease_s=2") as client:
            await greets(client, "Ada")

            servers.sentinel.fail_over()
            await eventually(lambda: servers.sentinel.master() == servers.replica.port)
            await greets(client, "Grace")

            await eventually(lambda: role(servers.master) == "slave")
            await greets(client, "Edith")


async def test_an_app_runs(sentinel: SentinelServer) -> None:
    url = url_of(sentinel)

    await do_everything(everything.worker(url), everything.connect(url), from_url(url))


async def test_sentinels_that_are_not_there_are_passed_over(sentinel: SentinelServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        others = f"127.0.0.1:{free_port()},127.0.0.1:{silent.getsockname()[1]}"
        url = f"redis+sentinel://{others},127.0.0.1:{sentinel.port}/{SERVICE}?timeout_s=2"

        async with from_url(url) as transport:
            await transport.emit(Send("q", BODY))


async def test_sentinels_that_are_all_away_are_told() -> None:
    port = free_port()
    began = time.monotonic()

    told = await problem(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}?timeout_s=0.5")

    assert told == (
        f"Sentinel's '{SERVICE}' at 127.0.0.1:{port} cannot be reached, or knows no master "
        "that is well"
    )
    assert time.monotonic() - began < 1.5


async def test_a_service_that_is_not_known_is_told(sentinel: SentinelServer) -> None:
    told = await problem(f"redis+sentinel://127.0.0.1:{sentinel.port}/other?timeout_s=0.5")

    assert told == (
        f"Sentinel's 'other' at 127.0.0.1:{sentinel.port} is not known there, or its master is down"
    )


async def test_a_master_that_is_away_is_told(sentinel: SentinelServer) -> None:
    with redis_server(*DURABLE) as lost, sentinel_server(lost.port) as knows:
        lost.kill()

        told = await problem(f"{url_of(knows)}?timeout_s=0.3")

    assert f"Sentinel's '{SERVICE}' at 127.0.0.1:{knows.port} " in told


async def test_sentinels_have_a_login_of_their_own(sentinel: SentinelServer) -> None:
    sentinel.protect("hush")
    began = time.monotonic()

    with pytest.raises(ConfigurationError, match="give its sentinel_username and sentinel_pass"):
        async with from_url(f"{url_of(sentinel)}?timeout_s=60"):
            pass
    url = f"{url_of(sentinel)}?timeout_s=60&sentinel_password=wrong-hush"
    with pytest.raises(ConfigurationError, match="give its sentinel_username") as caught:
        async with from_url(url):
            pass

    assert time.monotonic() - began < 10
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    async with from_url(f"{url_of(sentinel)}?sentinel_password=hush") as transport:
        await transport.emit(Send("q", BODY))


async def test_sentinels_speak_tls_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", "IP:127.0.0.1")
    files = (
        *("tls-ca-cert-file", authority.file, "tls-cert-file", certificate, "tls-key-file", key),
        *("tls-auth-clients", "no", "tls-replication", "yes", "tls-port"),
    )
    of_master, of_sentinel = free_port(), free_port()
    options = [f"--{each}" if n % 2 == 0 else str(each) for n, each in enumerate(files)]
    lines = [f"{files[n]} {files[n + 1]}" for n in range(0, len(files) - 1, 2)]

    with (
        redis_server(*DURABLE, *options, str(of_master)),
        sentinel_server(of_master, *lines, f"tls-port {of_sentinel}"),
    ):
        url = f"rediss+sentinel://127.0.0.1:{of_sentinel}/{SERVICE}?ca_file={authority.file}"
        async with from_url(url) as transport:
            await transport.emit(Send("q", BODY))
            assert (await transport.lag("q")).backlog == 1


class Name:
    """A name for one server, which then is a replica, and for its successor."""

    def __init__(self, path: Path, old: RedisServer, new: RedisServer) -> None:
        self._path, self._old, self._new = path, old, new
        path.symlink_to(old.folder / "redis.sock")

    @property
    def url(self) -> str:
        return f"unix://{self._path}?lease_s=1"

    def move(self) -> None:
        """Let the name lead to the successor, with the connections left as they are."""
        self._path.unlink()
        self._path.symlink_to(self._new.folder / "redis.sock")
        with self._old.client() as administrator:
            administrator.execute_command("REPLICAOF", "127.0.0.1", str(self._new.port))


@pytest.fixture
def name(tmp_path: Path) -> Iterator[Name]:
    options = (
        *(*DURABLE, "--unixsocket", "redis.sock"),
        *("--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0"),
    )
    with redis_server(*options) as old, redis_server(*options) as new:
        yield Name(tmp_path / "redis.sock", old, new)


async def test_what_has_become_a_replica_is_left_for_its_successor(name: Name) -> None:
    async with serving(name.url) as client:
        await greets(client, "Ada")

        name.move()

        await greets(client, "Grace")


async def test_what_is_delayed_there_comes_from_the_successor(name: Name) -> None:
    async with from_url(name.url) as transport, transport.consume("q") as consumer:
        await transport.emit(Send("q", BODY, delay_s=0.01))
        await consumer.receive(1)

        name.move()

        with anyio.fail_after(PATIENCE_S):
            await until_done(lambda: transport.emit(Send("q", BODY, delay_s=0.5)))
            await until_done(lambda: consumer.receive(1))


async def test_a_master_without_enough_replicas_takes_nothing() -> None:
    with redis_server(*DURABLE, "--min-replicas-to-write", "1") as alone:
        async with from_url(alone.url) as transport:
            with pytest.raises(TransportUnavailable) as caught:
                await transport.emit(Send("q", BODY))

    assert str(caught.value) == (
        f"Redis at 127.0.0.1:{alone.port}: fewer replicas follow it than its min-replicas-to-write"
    )


def url_of(sentinel: SentinelServer) -> str:
    return f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"


async def problem(url: str) -> str:
    """Tell what is said of a server that cannot be reached."""
    with pytest.raises(TransportUnavailable) as caught:
        async with from_url(url):
            pass
    return str(caught.value)
