"""Users of a server: what they must be allowed, and what is said when they are not."""

import logging
import shlex
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from asyafw_redis import from_url

from asyafw.exceptions import ConfigurationError, TransportUnavailable
from asyafw.transport import Append, Message, Send
from tests.integration.whole_job import app, do_everything
from tests.servers.redis import DURABLE, RedisServer, redis_server

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "redis.md"
PATIENCE_S = 10.0
BODY = Message(b"tea")

# What redis-py tries without minding a refusal, and what every user may do.
ALWAYS = {"auth", "hello", "client|setinfo"}


# Rights that are told of where they are used.
OTHERWISE = {
    *("client|id", "client|setname", "client|unblock", "eval", "evalsha", "info", "time"),
    *("get", "set"),  # of rate limits
    *("xread", "xrevrange"),  # of events
}


@pytest.fixture(scope="module", params=["redis-server", "valkey-server"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(*DURABLE, program=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def rule() -> list[str]:
    """The rights that the documentation gives to the user."""
    _, command = PAGE.read_text().split("redis-cli -p 6390 ACL SETUSER asyafw ")
    return shlex.split(command.partition("\n```")[0].replace("\\\n", ""))


def add_user(server: RedisServer, name: str, *rule: str) -> str:
    """Make a user, and give the URL with its password."""
    server.client().execute_command("ACL", "SETUSER", name, *rule)
    password = next(each[1:] for each in rule if each[0] == ">")
    return f"redis://{name}:{password}@127.0.0.1:{server.port}"


def commands_in(rule: list[str]) -> set[str]:
    return {each[1:] for each in rule if each[0] == "+"}


def commands_of(server: RedisServer) -> dict[str, Any]:
    """Tell which commands the server was given since its counts began, in scripts or without."""
    stats: dict[str, Any] = server.client().info("commandstats")
    return {name.removeprefix("cmdstat_"): about for name, about in stats.items()}


async def test_the_documented_user_may_do_what_is_needed_and_no_more(
    server: RedisServer, rule: list[str]
) -> None:
    url = f"{add_user(server, 'asyafw', *rule)}?lease_s=0.1"
    server.client().config_resetstat()

    await do_everything(app.worker(url), app.connect(url), from_url(url))
    async with from_url(url) as transport, transport.consume("q") as consumer:
        with anyio.move_on_after(0.1):
            await anext(transport.tail("log"))
        await transport.emit(Send("q", BODY))
        (delivery,) = await consumer.receive(1)
        await eventually(lambda: "xclaim" in commands_of(server))
        await delivery.settle()

    counted = commands_of(server)
    assert counted.keys() - ALWAYS - {"config|resetstat"} == commands_in(rule)
    assert {name for name, about in counted.items() if about["rejected_calls"]} <= ALWAYS


async def test_another_database_needs_the_right_to_select_it(
    server: RedisServer, rule: list[str]
) -> None:
    url = f"{add_user(server, 'elsewhere', *rule)}/1"

    with pytest.raises(ConfigurationError, match="'select' command"):
        async with from_url(url):
            pass
    server.client().execute_command("ACL SETUSER elsewhere +select")
    async with from_url(url) as transport:
        await transport.emit(Send("q", BODY))


async def test_a_user_who_may_not_unblock_leaves_a_little_later(
    server: RedisServer, rule: list[str]
) -> None:
    url = add_user(server, "slow", *rule, "-client|id", "-client|unblock")

    async with from_url(url) as transport, transport.consume("slow") as consumer:
        with anyio.move_on_after(0.1):
            await consumer.receive(1)
        await transport.emit(Send("slow", BODY))

        with anyio.fail_after(PATIENCE_S):
            (delivery,) = await consumer.receive(1)
        assert await delivery.settle()
        with anyio.move_on_after(0.1):
            await consumer.receive(1)
        began = time.monotonic()

    assert time.monotonic() - began < 2.5


async def test_a_user_who_may_not_ask_for_the_settings_is_told(
    server: RedisServer, rule: list[str]
) -> None:
    url = add_user(server, "blind", *rule, "-info")

    with pytest.raises(ConfigurationError) as caught:
        async with from_url(url):
            pass

    assert f"Redis at 127.0.0.1:{server.port} does not tell whether it keeps" in str(caught.value)
    assert "the command INFO, or give the option durability=relaxed" in str(caught.value)
    async with from_url(f"{url}?durability=relaxed") as transport:
        await transport.emit(Send("q", BODY))


@pytest.mark.parametrize("lacking", ["client|setname", "evalsha"])
async def test_the_right_that_is_lacking_is_named(
    server: RedisServer, rule: list[str], lacking: str
) -> None:
    url = add_user(server, "partly", *rule, f"-{lacking}")

    with pytest.raises((ConfigurationError, TransportUnavailable)) as caught:
        async with from_url(url) as transport:
            await transport.emit(Send("q", BODY))

    assert "its user may not do that: " in str(caught.value)
    assert f"'{lacking}'" in str(caught.value)


async def test_nobody_takes_a_message_who_might_lose_it(
    server: RedisServer, rule: list[str]
) -> None:
    for right in sorted(commands_in(rule) - OTHERWISE):
        async with from_url(add_user(server, "partly", *rule, f"-{right}")) as transport:
            with pytest.raises(TransportUnavailable) as caught:
                async with transport.consume("q"):
                    pass

        assert str(caught.value) == (
            f"Redis at 127.0.0.1:{server.port}: its user may not do that: "
            f"no right to access keys by {right}; all our keys are asyafw:*"
        )


async def test_what_a_script_may_not_do_is_told(server: RedisServer, rule: list[str]) -> None:
    async with from_url(add_user(server, "reader", *rule, "-xadd")) as transport:
        with pytest.raises(TransportUnavailable, match=r"may not do that: .*(script|'xadd')"):
            await transport.emit(Send("q", BODY))


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 — a thread sets no event
            await anyio.sleep(0.01)


async def test_keys_of_another_prefix_are_refused_where_they_are_used(
    server: RedisServer, rule: list[str]
) -> None:
    url = f"{add_user(server, 'blue', *rule, 'resetkeys', '~blue:*')}?prefix=green&timeout_s=1"
    told = (
        r"its user may not (do that: .*; all our keys are|use any command with the keys) green:\*"
    )

    async with from_url(url) as transport:
        with pytest.raises(TransportUnavailable, match=told):
            await transport.emit(Append("log", b"tea"))
        with pytest.raises(TransportUnavailable, match=told):
            await transport.lag("q")
        with pytest.raises(TransportUnavailable, match=told):
            await anext(transport.tail("log"))
        with pytest.raises(TransportUnavailable, match=told):
            async with transport.consume("q"):
                pass
    with pytest.raises(TransportUnavailable, match=told):
        async with app.worker(url):
            pass
    async with app.connect(url) as client:
        with pytest.raises(TransportUnavailable, match=told):
            await client.submit(["fail"], "tea")


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ("asyafw:hush@", "it does not accept this user and password"),
        ("nobody:hush@", "it does not accept this user and password"),
        (":hush@", "it does not accept this user and password"),
        ("", "it wants a password: redis://USER:PASSWORD@HOST"),
    ],
)
async def test_a_wrong_login_is_told_at_once_and_without_the_password(
    server: RedisServer, rule: list[str], login: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    add_user(server, "asyafw", *rule)
    server.client().execute_command("ACL SETUSER default resetpass >sesame")
    try:
        transport = from_url(f"redis://{login}127.0.0.1:{server.port}?timeout_s=60")

        with pytest.raises(ConfigurationError) as caught, anyio.fail_after(PATIENCE_S):
            async with transport:
                pass
    finally:
        server.client(password="sesame").execute_command("ACL SETUSER default nopass")

    assert str(caught.value) == f"Redis at 127.0.0.1:{server.port}: {told}"
    everything = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "hush" not in everything + repr(transport) + repr(caught.value)


async def test_a_password_that_nobody_asked_for_is_told(server: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="it has no password for this user: leave it out"):
        async with from_url(f"redis://:hush@127.0.0.1:{server.port}"):
            pass


async def test_a_user_whose_password_changes_goes_on_until_its_connections_end(
    server: RedisServer, rule: list[str]
) -> None:
    url = add_user(server, "changing", *rule)

    async with from_url(url) as transport:
        await transport.emit(Send("changing", BODY))
        server.client().execute_command("ACL SETUSER changing resetpass >another")
        server.client().execute_command("CLIENT KILL USER changing")

        with pytest.raises(TransportUnavailable):
            await transport.lag("changing")  # it may be told of the end of its connection
        with pytest.raises(TransportUnavailable, match="does not accept this user and password"):
            await transport.lag("changing")
        server.client().execute_command("ACL", "SETUSER", "changing", *rule)
        assert (await transport.lag("changing")).backlog == 1
