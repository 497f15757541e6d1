"""Connections to Redis: redis-py opens them, and all that one does is bounded in time."""

import asyncio
import os
from typing import Any, cast

import hiredis
import redis.asyncio as aio
from redis import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from asyafw_redis._errors import FOREIGN
from asyafw_redis._options import Options
from asyafw_redis._scripts import Script
from asyafw_redis._tls import context, secured

__all__ = ["Link", "Links"]

# Its stub lacks the type of what it gives.
_pack: Any = hiredis.pack_command  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class Links:
    """Makes connections to where a URL leads; all that they raise is in `_errors.FOREIGN`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        if options.tls:
            context(options)  # raises now, and not only when it is needed
        self._pool: Any = _client(
            options,
            {
                **_common(options, AsyncRetry(NoBackoff(), 0)),
                # redis-py would start a task and a timer for each command: `Link` bounds them all.
                "socket_timeout": None,
            },
            aio.Redis,
            AsyncSentinel,
        ).connection_pool

    def link(self) -> "Link":
        """Make a connection, to be opened by its first use."""
        return Link(self._pool.make_connection(), self._options.timeout_s)

    def client(self) -> Any:
        """Make a client for a thread, with one connection of its own."""
        common = _common(self._options, Retry(NoBackoff(), 0))
        return _client(self._options, common, Redis, Sentinel)

    async def close(self) -> None:
        """Close what only told the way; links are closed by who has them."""
        if self._options.service:
            for sentinel in self._pool.sentinel_manager.sentinels:
                await sentinel.aclose()


class Link:
    """One connection, for one command at a time; after any failure the next use opens another."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        # Its name changed with redis-py 8. Where no reply is due, there is only an end to be read.
        self._can_read = getattr(connection, "can_read", None) or connection.can_read_destructive
        self.number = 0
        """Which connection this is, counted from 1."""

    @property
    def is_open(self) -> bool:
        """Whether a connection is there, as far as this side knows."""
        return bool(self._connection.is_connected)

    async def open(self) -> None:
        """Connect and log in, if that is needed.

        What the server has closed is noticed, so that no command is sent there in vain.
        """
        if self.is_open and await self._is_broken():
            await self.close()
        if not self.is_open:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._connection.connect()
            except BaseException:
                await self.close()
                raise
            self.number += 1

    async def _is_broken(self) -> bool:
        try:
            return bool(await self._can_read())
        except FOREIGN:
            return True

    async def call(self, *command: Any, wait_s: float = 0) -> Any:
        """Send a command through what `open` has opened, and give its reply, texts as bytes.

        `wait_s` is how long the command itself may block in the server.

        Raises:
            ResponseError: the server refused it; the connection stays.
        """
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout_s + wait_s):
                await connection.send_packed_command(_pack(command), check_health=False)
                reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            # What has become a replica tells so for ever; another connection may lead elsewhere.
            if isinstance(error, ReadOnlyError) or str(error).startswith("UNBLOCKED"):
                await self.close()
            raise
        except BaseException:
            # A reply that comes later would be taken for that of another command.
            await self.close()
            raise
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def run(self, script: Script, *arguments: Any) -> Any:
        """Run a script, which the server may have forgotten."""
        try:
            reply = await self.call("EVALSHA", script.sha, 0, *arguments)
        except NoScriptError:
            reply = await self.call("EVAL", script.source, 0, *arguments)
        if _is_of_replica(reply):
            await self.close()  # as where it is the whole reply
        return reply

    async def close(self) -> None:
        """Close the connection at once; a command that waits on it fails."""
        if (writer := getattr(self._connection, "_writer", None)) is not None:
            # Without the farewells of TLS, for which an event loop that ends would not wait.
            writer.transport.abort()
        await self._connection.disconnect(nowait=True)


def _is_of_replica(reply: Any) -> bool:
    if not isinstance(reply, list):
        return False
    answers = cast("list[Any]", reply)  # type: ignore[redundant-cast]  # pyright knows less
    return any(isinstance(each, bytes) and each.startswith(b"READONLY") for each in answers)


def _client(options: Options, common: dict[str, Any], redis: Any, sentinel: Any) -> Any:
    """Make a client, with the classes for an event loop or those for a thread."""
    made: list[Any]
    if options.service:
        login = {"username": options.sentinel_username, "password": options.sentinel_password}
        # So that there is time left for another one, where the first does not answer.
        each_s = options.timeout_s / (len(options.addresses) + 1)
        times = {"socket_timeout": each_s, "socket_connect_timeout": each_s}
        asked = {**common, **login, **times, "db": 0}
        addresses = [(each.host, each.port) for each in options.addresses]
        sentinels = sentinel(addresses, sentinel_kwargs=asked, **common)
        made = [sentinels.master_for(options.service), *sentinels.sentinels]
    elif options.path is not None:
        made = [redis(unix_socket_path=options.path, **common)]
    else:
        (address,) = options.addresses
        made = [redis(host=address.host, port=address.port, **common)]
    if options.tls:
        for pool in (each.connection_pool for each in made):
            pool.connection_class = secured(pool.connection_class, options)
    return made[0]


def _common(options: Options, retry: Any) -> dict[str, Any]:
    return {
        "db": options.db,
        "username": options.username,
        "password": options.password,
        "socket_timeout": options.timeout_s,
        "socket_connect_timeout": options.timeout_s,
        "socket_keepalive": True,
        # A library that sends a command twice makes two of what we have made sure is one.
        "retry": retry,
        "protocol": 2,
        "client_name": f"asyafw-{os.getpid()}",
        **({"ssl": True} if options.tls else {}),
    }
