"""A subscription to a queue, and what it has in hand."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
from msgspec import Struct
from redis.exceptions import NoPermissionError, ResponseError

from asyafw.exceptions import TransportClosed, TransportError
from asyafw_redis._commits import Commits
from asyafw_redis._delivery import Delivery, read_fields
from asyafw_redis._errors import FOREIGN, translated
from asyafw_redis._keeper import Keeper
from asyafw_redis._link import Link
from asyafw_redis._options import Options
from asyafw_redis._scripts import LEAVE, STREAMS
from asyafw_redis._turn import Turn

__all__ = ["Consumer", "Shared"]

_QUEUE, _AGAIN, _ALONE = range(len(STREAMS))
_GROUP = "asyafw"
_LONGEST_BLOCK_S = 2.0

_Page: TypeAlias = list[tuple[int, bytes, list[bytes]]]
"""Entries: which of `STREAMS`, the id, names and values of the fields in turn."""

_logger = logging.getLogger("asyafw.redis")


class Shared(Struct, frozen=True):
    """What the consumers of a transport have in common."""

    options: Options
    commits: Commits
    keeper: Keeper
    turn: Turn


class Consumer:
    """Reads a queue through a connection of its own, and owns what it read until it is settled.

    A task of its own reads, and is never cancelled in the middle of it: Redis would give entries
    to a consumer that does not see them. What comes when nobody waits for it any more goes back.
    `held` has what is in hand, for each of `STREAMS`; the keeper's thread reads it, and sets
    `alone_waits` when there is something to be taken alone.
    """

    def __init__(self, queue: str, name: str, link: Link, shared: Shared) -> None:
        options, commits, keeper, turn = shared.options, shared.commits, shared.keeper, shared.turn
        self.queue = queue
        self.name = name
        self.alone_waits = False
        self.held: tuple[dict[bytes, Delivery], ...] = tuple({} for _ in STREAMS)
        self.alone = self.held[_ALONE]
        self.commits = commits
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._options = options
        # Less than a lease: who is stopped gets no more of what was taken from it for that.
        self._block_s = min(_LONGEST_BLOCK_S, options.lease_s / 2)
        self._keeper = keeper
        self._turn = turn
        self._keys = [f"{options.prefix}:{stream}:{queue}" for stream in STREAMS]
        self._which = {key.encode(): n for n, key in enumerate(self._keys)}
        self._names = [f"{stream}:{queue}" for stream in STREAMS]
        self._ready: deque[Delivery] = deque()
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._wanted: asyncio.Future[None] | None = None
        self._unwanted = False
        self._more_came_back = False
        self._client_id: int | None = None
        self._connection = 0
        self._own_unread = False
        self._closed = False
        self._stopped = anyio.Event()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Take up to `limit` messages, or wait for one.

        Raises:
            TransportClosed: the consumer or its transport was closed, perhaps while this waited.
            TransportError: the connection failed; the next call makes another one.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        ready = self._ready
        while not ready:
            if self._closed:
                raise TransportClosed
            await self._wait(limit)
        return [ready.popleft() for _ in range(min(limit, len(ready)))]

    async def _wait(self, limit: int) -> None:
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[came] = limit
        self._wake()
        try:
            await came
        except BaseException:
            self._waiters.pop(came, None)
            if not self._waiters:
                self._stop_waiting(has_come=not came.cancelled())
            raise

    def _stop_waiting(self, *, has_come: bool) -> None:
        """See that nothing lies here that others could have."""
        if has_come:
            self._unwanted = True
            self._wake()
        else:
            self._unblock()

    def _unblock(self) -> None:
        """Let the reader wait no longer in the server, if we may end that."""
        if self._client_id is not None:
            self._keeper.unblock(self._client_id)

    def _wake(self) -> None:
        if self._wanted is not None:
            self._wanted.set_result(None)
            self._wanted = None

    async def open(self) -> None:
        """Connect, and see that the queue's streams have their group.

        Raises:
            FOREIGN: that is not possible.
        """
        await self._link.open()
        self._connection = self._link.number
        try:
            self._client_id = await self._link.call("CLIENT", "ID")
        except NoPermissionError:
            self._client_id = None
        for key in self._keys:
            try:
                # From "0": a group that begins at "$" misses what came before it.
                await self._link.call("XGROUP", "CREATE", key, _GROUP, "0", "MKSTREAM")
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self) -> None:
        """Read whenever somebody waits, until `stop`; in a task that nobody cancels."""
        try:
            while not self._closed:
                if self._unwanted:
                    self._unwanted = False
                    unwanted = [*self._ready]
                    self._ready.clear()
                    await self._hand_back(unwanted)
                if not self._waiters:
                    self._wanted = asyncio.get_running_loop().create_future()
                    await self._wanted
                    continue
                try:
                    page = await self._page(next(iter(self._waiters.values())))
                except FOREIGN as error:
                    self._give_up(translated(error, self._options))
                    continue
                if page:
                    await self._take(page)
        finally:
            self._stopped.set()

    async def _page(self, limit: int) -> _Page:
        """Read what is new; after the connection was lost first what the lost one may have got."""
        link = self._link
        await link.open()
        if link.number != self._connection:
            await self.open()
            self._own_unread = True
        if self._own_unread:
            if page := await self._unseen(limit):
                return page
            self._own_unread = False
        if self.alone_waits and not self.alone and (page := await self._one_alone()):
            return page
        # Each stream gives up to the limit: after the first surprise the one behind has to wait.
        page = await self._read(limit, (_AGAIN,), 0) if self._more_came_back else []
        page = page or await self._read(limit, (_AGAIN, _QUEUE), self._block_s)
        self._more_came_back = any(which == _AGAIN for which, _, _ in page)
        return page

    async def _one_alone(self) -> _Page:
        page: _Page = []
        if self._turn.take(self):
            try:
                page = await self._read(1, (_ALONE,), 0)
                self.alone_waits = bool(page)
            finally:
                if not page:
                    self._turn.pass_on(self)
        return page

    async def _read(self, limit: int, streams: Sequence[int], block_s: float) -> _Page:
        keys = [self._keys[which] for which in streams]
        block = ("BLOCK", int(block_s * 1000)) if block_s else ()
        try:
            reply = await self._link.call(
                *("XREADGROUP", "GROUP", _GROUP, self.name, "COUNT", limit),
                *(*block, "STREAMS", *keys, *">" * len(keys)),
                wait_s=block_s,
            )
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # Somebody deleted the queue. It begins again.
            await self.open()
            return []
        return self._entries(reply)

    async def _unseen(self, limit: int) -> _Page:
        """Read from the list of what this consumer owns what it does not know that it owns."""
        after = ["0-0"] * len(STREAMS)
        while True:
            # What is settled in the meantime is not taken for something new.
            known = [set(held) for held in self.held]
            reply = await self._link.call(
                *("XREADGROUP", "GROUP", _GROUP, self.name, "COUNT", limit),
                *("STREAMS", *self._keys, *after),
            )
            page = self._entries(reply)
            if not page:
                return []
            if unseen := [each for each in page if each[1] not in known[each[0]]]:
                return unseen
            for which, entry, _ in page:
                after[which] = entry.decode()

    def _entries(self, reply: Any) -> _Page:
        return [
            (self._which[key], entry, fields)
            for key, entries in reply or ()
            for entry, fields in entries
            if fields is not None  # it was deleted by somebody else
        ]

    async def _take(self, page: _Page) -> None:
        deliveries = [self._delivery(*each) for each in page]
        wanted, surplus = self._sorted(deliveries)
        if wanted:
            self._ready.extend(wanted)
            # They are served as of now, and not once their tasks run: no more is read for them.
            waiters, self._waiters = self._waiters, {}
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        await self._hand_back(surplus)

    def _sorted(self, deliveries: list[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        """Tell what those who wait may have from what goes back: one alone, so many in all."""
        limits = (limit for waiter, limit in self._waiters.items() if not waiter.done())
        room = 0 if self._closed else sum(limits)
        first = next(iter(self.alone.values()), None)
        wanted: list[Delivery] = []
        surplus: list[Delivery] = []
        for each in deliveries:
            fits = len(wanted) < room
            if each.held is self.alone:
                fits = fits and each is first and self._turn.take(self)
            (wanted if fits else surplus).append(each)
        return wanted, surplus

    def _delivery(self, which: int, entry: bytes, fields: list[bytes]) -> Delivery:
        message, parts, attempt = read_fields(fields)
        held = self.held[which]
        delivery = Delivery(message, parts, attempt, self._names[which], entry, held, self)
        held[entry] = delivery
        return delivery

    async def _hand_back(self, deliveries: list[Delivery]) -> None:
        released = [self.commits.release(each.stream, each.entry) for each in deliveries]
        for each, done in zip(deliveries, released, strict=True):
            try:
                await done
            except TransportError as error:
                _logger.warning(
                    "a message of %s comes back when its lease is over: %s", self.queue, error
                )
            each.let_go()

    def _give_up(self, error: TransportError) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(type(error)(str(error)))

    def lose(self, lost: Sequence[Sequence[bytes]]) -> None:
        """Note what is not in hand any more, of each stream; may be called from any thread."""
        if any(lost):
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._lose, lost)

    def _lose(self, lost: Sequence[Sequence[bytes]]) -> None:
        was_alone = bool(self.alone)
        for held, entries in zip(self.held, lost, strict=True):
            for entry in entries:
                held.pop(entry, None)
        if was_alone:
            self.take_another()

    @property
    def wants_alone(self) -> bool:
        """Whether there is something to be taken alone, and somebody who waits for a message."""
        return self.alone_waits and bool(self._waiters)

    def take_another(self) -> None:
        """Be told that what was taken alone is not in hand any more."""
        if not self.alone:
            self._turn.pass_on(self)

    def look(self) -> None:
        """Look again for what is to be taken alone, instead of waiting for something else."""
        if not self._closed:
            self._unblock()

    def alone_is_waiting(self, *, waits: bool) -> None:
        """Be told, by another thread, whether there is something to be taken alone."""
        self.alone_waits = waits
        if waits:
            self.look()

    async def stop(self) -> None:
        """Receive nothing more."""
        self._closed = True
        self._give_up(TransportClosed())
        self._wake()
        while not self._stopped.is_set():
            # The server may get this before the command that it is to end.
            self._unblock()
            with anyio.move_on_after(_LONGEST_BLOCK_S / 20):
                await self._stopped.wait()

    async def leave(self, link: Link) -> None:
        """Put what was not settled back on the queue; what nobody has received does not count."""
        unseen = {each.entry for each in self._ready}
        counted = [entry for held in self.held for entry in held if entry not in unseen]
        self.drop()
        arguments = (self.queue, self.name, len(counted), *counted)
        next_ms = await link.run(LEAVE, self._options.prefix, *arguments)
        if next_ms >= 0:
            self._keeper.arm(self.queue, next_ms / 1000)

    def drop(self) -> None:
        """Forget everything: whoever settles it is told that it was too late."""
        self._closed = True
        self._ready.clear()
        for held in self.held:
            held.clear()
        self.take_another()
