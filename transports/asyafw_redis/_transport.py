"""The transport of `redis://`."""

import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic
from typing import Self
from uuid import uuid4

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup
from redis.exceptions import ResponseError

from asyafw.coordination import Coordinator
from asyafw.exceptions import ConfigurationError, TransportClosed
from asyafw.transport import Lag, Out
from asyafw_redis._commits import Commits
from asyafw_redis._consumer import Consumer, Shared
from asyafw_redis._errors import FOREIGN, translated
from asyafw_redis._gate import check_rights, check_server
from asyafw_redis._keeper import Keeper
from asyafw_redis._limits import RedisCoordinator
from asyafw_redis._link import Link, Links
from asyafw_redis._options import Options
from asyafw_redis._scripts import LAG
from asyafw_redis._tail import Tail
from asyafw_redis._turn import Turn

__all__ = ["RedisTransport"]

_PAUSE_S = 0.1

_logger = logging.getLogger("asyafw.redis")


class RedisTransport:
    """A connection to a Redis, opened once with ``async with``.

    All its emits and settles go through one connection, in batches; a consumer and a reader of a
    log have one each; a thread refreshes leases and moves what is due.
    A message is leased to its consumer for `Options.lease_s` seconds at a time: so long after the
    death of a process, at most, what it had in hand comes again.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._links = Links(options)
        self._keeper = Keeper(self._links, options)
        self._commits = Commits(self._links.link(), options, self._keeper.arm)
        self._coordinator = RedisCoordinator(self._links.link(), options)
        self._asking = self._links.link()
        self._turn = anyio.Lock()
        self._consumers: dict[Consumer, None] = {}
        self._shared = Shared(options, self._commits, self._keeper, Turn(self._consumers))
        self._tails: dict[Tail, Link] = {}
        # Nobody else ever has this name: what is pending under it was in this process' hands.
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._numbers = count(1)
        self._tasks: TaskGroup | None = None
        self._is_open = False

    @property
    def coordinator(self) -> Coordinator:
        """Turns and circuits, shared by all who use this server and prefix."""
        return self._coordinator

    async def __aenter__(self) -> Self:
        """Connect, within `Options.timeout_s` seconds.

        Raises:
            TransportUnavailable: the server cannot be reached.
            ConfigurationError: it refuses access, or could not keep the promise.
        """
        if self._tasks is not None:
            raise ConfigurationError("a Redis transport is opened once; make another one")
        try:
            await check_server(self._asking, self._options)
        except BaseException:
            await self._links.close()
            raise
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._run_commits, name="redis commits")
        self._tasks.start_soon(self._coordinator.run, name="redis limits")
        self._keeper.start()
        self._is_open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with CancelScope(shield=True):
            for consumer in tuple(self._consumers):
                await self._close(consumer)
            self._is_open = False
            await self._commits.close()
            await self._end()
        if self._tasks is not None:
            # Not told of the exception, the group lets it pass as it is.
            await self._tasks.__aexit__(None, None, None)

    async def crash(self) -> None:
        """Behave as if this process had died, for tests: nothing is put back, leases run out."""
        self._is_open = False
        with CancelScope(shield=True):
            for consumer in tuple(self._consumers):
                self._keeper.remove(consumer)
                await consumer.stop()
                consumer.drop()
            self._consumers.clear()
            self._keeper.stop()
            await self._coordinator.close()
            await self._commits.close()

    async def _end(self) -> None:
        self._keeper.stop()
        await anyio.to_thread.run_sync(self._keeper.join)
        for link in self._tails.values():
            await link.close()
        self._tails.clear()
        await self._coordinator.close()
        await self._asking.close()
        await self._links.close()

    async def _run_commits(self) -> None:
        with CancelScope(shield=True):
            await self._commits.run()

    async def emit(self, *out: Out) -> None:
        """Emit `out` in one step; while the server cannot be reached, wait for it for a while.

        Raises:
            TransportError: it is unknown whether the step happened.
            ValueError: a part does not fit its join, or a message is larger than Redis takes.
        """
        self._check_open()
        await self._commits.commit(out)

    @asynccontextmanager
    async def consume(self, queue: str) -> AsyncGenerator[Consumer, None]:
        """Subscribe to a queue.

        Raises:
            TransportError: the server cannot be reached, or refuses it.
        """
        tasks = self._check_open()
        name = f"{self._name}-{next(self._numbers)}"
        link = self._links.link()
        consumer = Consumer(queue, name, link, self._shared)
        await self._open(consumer, link)
        self._consumers[consumer] = None
        self._keeper.add(consumer)
        tasks.start_soon(self._read, consumer, link, name=f"redis reader of {queue}")
        try:
            yield consumer
        finally:
            with CancelScope(shield=True):
                await self._close(consumer)

    async def _open(self, consumer: Consumer, link: Link) -> None:
        """Open a consumer; while the server cannot be reached, wait for it for a while."""
        latest = monotonic() + self._options.timeout_s
        while True:
            try:
                await check_rights(link, self._options)
                await consumer.open()
            except FOREIGN as error:
                await link.close()
                failure = translated(error, self._options)
                if isinstance(error, ResponseError) or monotonic() >= latest:
                    raise failure from error
                await anyio.sleep(_PAUSE_S)
            except BaseException:
                await link.close()
                raise
            else:
                return

    async def _read(self, consumer: Consumer, link: Link) -> None:
        with CancelScope(shield=True):
            try:
                await consumer.read()
            finally:
                await link.close()

    async def _close(self, consumer: Consumer) -> None:
        if consumer not in self._consumers:
            return
        del self._consumers[consumer]
        await consumer.stop()
        self._keeper.remove(consumer)
        try:
            async with self._turn:
                await self._asking.open()
                await consumer.leave(self._asking)
        except FOREIGN as error:
            _logger.warning(
                "what is in hand of %s comes back when its lease is over: %s",
                consumer.queue,
                translated(error, self._options),
            )

    def tail(self, log: str, *, since_s: float = 0, after: str | None = None) -> Tail:
        """Read a log.

        Raises:
            TransportClosed: now, or when it is read, the transport being closed.
            ValueError: `after` is no position.
        """
        self._check_open()
        return Tail(log, since_s, after, self._options, self._lend)

    def _lend(self, tail: Tail) -> Link:
        self._check_open()
        link = self._tails.get(tail)
        if link is None:
            link = self._tails[tail] = self._links.link()
        return link

    async def lag(self, queue: str) -> Lag:
        """Measure a queue, exactly.

        A delayed message counts as arrived when its time has come, a join when it is complete.
        """
        self._check_open()
        try:
            async with self._turn:
                await self._asking.open()
                found = await self._asking.run(LAG, self._options.prefix, queue)
        except FOREIGN as error:
            raise translated(error, self._options) from error
        backlog, in_flight, delayed, oldest_ms, arrived = found
        oldest_s = None if oldest_ms < 0 else oldest_ms / 1000
        return Lag(backlog, in_flight, delayed, oldest_s, arrived)

    def _check_open(self) -> TaskGroup:
        if self._tasks is None or not self._is_open:
            raise TransportClosed
        return self._tasks
