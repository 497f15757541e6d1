"""Processes that use one Redis, as a test sees them: it harms their connections and moves time."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any, Final, Literal, TypeAlias

import anyio
import redis
from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import checkpoint
from asyafw_redis import _commits, _consumer, from_url
from asyafw_redis._consumer import Consumer
from asyafw_redis._link import Link
from asyafw_redis._transport import RedisTransport
from msgspec import Struct

from asyafw.exceptions import TransportError, TransportUnavailable
from asyafw.transport import Entry, Lag, Message, Out
from tests.chaos.proxy import Connection, Proxy

__all__ = ["PATIENCE_S", "Peer", "Pending", "Receiving", "Subscriber", "Trouble"]

PATIENCE_S: Final = 5.0
"""How long anything may take that takes no time."""

# Long enough for a request to have left, and for a reply not to be here.
_CHECKPOINTS = 20
_NEVER_S = 1e6
_MOST_ROUNDS = 100
_START = {b"0-0", "0-0"}
_GROUP = "asyafw"

Trouble: TypeAlias = Literal["request lost", "reply lost"] | None
"""What becomes of a command: the server never gets it, or its reply is lost, and the connection."""


class Pending(Struct):
    """What Redis says that a consumer owns, untouched for `idle_s` seconds."""

    message: Message
    parts: tuple[bytes | None, ...] | None
    idle_s: float


class Receiving:
    """A call of `receive`, in a task of its own, which has an end in any case."""

    def __init__(self) -> None:
        self.deliveries: Sequence[Any] = ()
        self.error: TransportError | None = None
        self.is_over = False
        self._scope: CancelScope | None = None

    async def run(self, consumer: Consumer, limit: int) -> None:
        """Receive, and note what came of it."""
        try:
            with CancelScope() as self._scope:
                self.deliveries = await consumer.receive(limit)
        except TransportError as error:
            self.error = error
        finally:
            self.is_over = True

    def cancel(self) -> None:
        """Cancel the call, wherever it is."""
        assert self._scope is not None
        self._scope.cancel()


class Subscriber:
    """A consumer of a queue, and the calls of its `receive` that wait."""

    def __init__(
        self,
        peer: "Peer",
        queue: str,
        consumer: Consumer,
        context: AbstractAsyncContextManager[Any],
    ) -> None:
        self.peer = peer
        self.queue = queue
        self.consumer = consumer
        self.calls: list[Receiving] = []
        self.context = context

    def __repr__(self) -> str:
        return f"{self.consumer.name.rpartition('-')[2]} of {self.queue} of {self.peer}"

    @property
    def is_idle(self) -> bool:
        """Whether it reads nothing, and has nothing that nobody has received."""
        return self.consumer._wanted is not None and not self.consumer._ready

    @property
    def may_take_alone(self) -> bool:
        """Whether it looks for what is to be delivered alone, as far as it knows."""
        consumer, turn = self.consumer, self.consumer._turn
        if turn._holder is consumer:
            return not consumer.alone
        is_last = turn._last is consumer and turn._others_wait(consumer)
        return consumer.alone_waits and turn._holder is None and not is_last

    def is_blocked(self, raw: redis.Redis) -> bool:
        """Tell whether it waits for new messages, as far as Redis knows."""
        own: Any = self.consumer._client_id
        clients = _clients(raw, client_id=[own])
        return any("b" in client["flags"] for client in clients)

    def pending(self, raw: redis.Redis) -> list[Pending]:
        """Ask Redis what it owns."""
        found: list[Pending] = []
        for key in self.consumer._keys:
            reply: Any = raw.xpending_range(key, _GROUP, "-", "+", 1000, self.consumer.name)
            for each in reply:
                entry: Any = raw.xrange(key, each["message_id"], each["message_id"])
                fields = entry[0][1]
                message = Message(fields.get(b"b", b""), _text(fields.get(b"k")))
                parts = _parts(fields[b"p"]) if b"p" in fields else None
                found.append(Pending(message, parts, each["time_since_delivered"] / 1000))
        return found


class Peer:
    """A transport as the only one of its process, behind a proxy of its own.

    Leases and delays are so long that nothing happens by itself: time passes when the test says so.
    """

    def __init__(self, portal: BlockingPortal, proxy: Proxy, options: str) -> None:
        self._portal = portal
        self._proxy = proxy
        self.transport: RedisTransport = from_url(f"redis://127.0.0.1:{proxy.port}?{options}")  # type: ignore[assignment]
        # Its thread does not look after anything by itself, either.
        self.keeper = self.transport._keeper
        self.keeper._round_s = _NEVER_S
        self.is_shaken = False
        self.subscribers: list[Subscriber] = []
        self._tails: dict[str, tuple[Any, int]] = {}
        self._tasks: TaskGroup
        self._life = portal.wrap_async_context_manager(self._live())
        self._life.__enter__()
        self._keeping = self.transport._links.client()

    def __repr__(self) -> str:
        return f"peer at {self._proxy.port}"

    @asynccontextmanager
    async def _live(self) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as self._tasks, self.transport:
            yield

    def close(self) -> None:
        """Close the transport, with all its consumers."""
        self._life.__exit__(None, None, None)
        for subscriber in self.subscribers:
            self._portal.call(subscriber.context.__aexit__, None, None, None)
        self._keeping.close()

    def crash(self) -> None:
        """Let the process end without a word."""
        self._portal.call(self.transport.crash)
        self.close()

    def subscribe(self, queue: str) -> Subscriber:
        """Open a consumer."""
        context = self.transport.consume(queue)
        consumer: Any = self.call(context.__aenter__)
        subscriber = Subscriber(self, queue, consumer, context)
        self.subscribers.append(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber, trouble: Trouble = None) -> None:
        """Close a consumer; `trouble` is that of the command which puts back what it has."""
        self.subscribers.remove(subscriber)
        leave = partial(subscriber.context.__aexit__, None, None, None)
        self._portal.call(self._in_trouble, trouble, self.transport._asking, leave)
        self._portal.call(self._until, lambda: all(call.is_over for call in subscriber.calls))

    def receive(self, subscriber: Subscriber, limit: int, trouble: Trouble = None) -> Receiving:
        """Begin to receive; with trouble, wait until all is over."""
        call = Receiving()

        async def receive() -> None:
            self._tasks.start_soon(call.run, subscriber.consumer, limit)
            if trouble:
                await self._until(lambda: call.is_over and subscriber.is_idle)

        self._portal.call(self._in_trouble, trouble, subscriber.consumer._link, receive)
        return call

    def call(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Call something that takes no time, once more if that was in vain after a `cut`."""
        for _ in range(2):
            try:
                return self._portal.call(self._bounded, function, *arguments)
            except TransportUnavailable:
                if not self.is_shaken:
                    raise
        return self._portal.call(self._bounded, function, *arguments)

    def commit(
        self, trouble: Trouble, *steps: Callable[[], Awaitable[bool | None]]
    ) -> list[bool | Exception | None]:
        """Settle, release and emit in one batch, whose command has trouble."""
        results: list[bool | Exception | None] = [None] * len(steps)

        async def run(n: int) -> None:
            try:
                results[n] = await steps[n]()
            except (TransportUnavailable, ValueError) as error:
                results[n] = error

        async def run_all() -> None:
            async with anyio.create_task_group() as tasks:
                for n in range(len(steps)):
                    tasks.start_soon(run, n)

        for _ in range(3):
            self._portal.call(self._in_trouble, trouble, self.transport._commits._link, run_all)
            in_vain = any(isinstance(result, TransportUnavailable) for result in results)
            if trouble or not (in_vain and self.is_shaken):
                break
        return results

    def hurry(self, checkpoints: int, step: Callable[[], Awaitable[Any]]) -> None:
        """Begin with something, and be cancelled in the midst of it."""

        async def begin() -> None:
            with suppress(TransportUnavailable):
                await step()

        async def hurry() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(begin)
                for _ in range(checkpoints):
                    await checkpoint()
                tasks.cancel_scope.cancel()

        self.call(hurry)

    def cancel(self, receiving: Receiving, *outs: Out, checkpoints: int = 0) -> None:
        """Cancel a call, while something is being emitted."""

        async def cancel() -> None:
            async with anyio.create_task_group() as tasks:
                if outs:
                    tasks.start_soon(self.transport.emit, *outs)
                for _ in range(checkpoints):
                    await checkpoint()
                receiving.cancel()

        self.call(cancel)

    def lag(self, queue: str) -> Lag:
        """Measure a queue."""
        lag: Lag = self.call(self.transport.lag, queue)
        return lag

    def has_read(self, log: str) -> int:
        """Tell how many entries of a log were read."""
        return self._tails.get(log, (None, 0))[1]

    def read(self, log: str) -> tuple[Entry, int]:
        """Give the next entry of a log, which there is, and its number."""
        tail, number = self._tails.get(log) or (self.transport.tail(log, since_s=3000), 0)
        self._tails[log] = tail, number + 1
        entry: Entry = self.call(tail.__anext__)
        return entry, number

    def keep(self) -> dict[str, int]:
        """Look after all queues, as the keeper's thread does; tell which, of how many.

        It goes on until its sweeps have come to the end, as the rounds of the thread would.
        """
        kept: dict[str, int] = {}
        for _ in range(_MOST_ROUNDS):
            rounds = self.keeper._everything()
            try:
                self.keeper._keep(self._keeping, rounds)
            except redis.ConnectionError:
                if not self.is_shaken:
                    raise
                continue
            kept |= {each.queue: len(each.consumers) for each in rounds}
            if all(set(cursors) <= _START for cursors in self.keeper._consumers.values()):
                return kept
        raise AssertionError("a sweep comes to an end")

    def keep_unheard(self, raw: redis.Redis, script: str) -> dict[str, int]:
        """As `keep`, but of what the server answers nothing is ever known."""
        rounds = self.keeper._everything()
        answers: Any = [(0, (), (), 1)] if rounds else ()
        while any(swept for _, _, _, swept, *_ in answers):
            arguments = self.keeper._arguments(rounds)
            answers = raw.eval(script, 0, self.transport._options.prefix, *arguments)
        for each in rounds:
            self.keeper.arm(each.queue, _NEVER_S)
        return {each.queue: len(each.consumers) for each in rounds}

    def cut(self, raw: redis.Redis) -> None:
        """Cut all connections, and wait until the server knows."""
        self.is_shaken = True
        cut = self._portal.call(self._cut)
        latest = monotonic() + PATIENCE_S
        while any(int(each["addr"].rpartition(":")[2]) in cut for each in _clients(raw)):
            assert monotonic() < latest, "Redis does not see that its clients have gone"

    def _cut(self) -> set[int]:
        ports: set[int] = set()
        for connection in self._proxy.connections:
            if connection._server.transport is not None:
                ports.add(connection._server.transport.get_extra_info("sockname")[1])
            connection.cut()
        return ports

    async def _until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 — nobody tells
                await anyio.sleep(0.0005)

    async def _bounded(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        with anyio.fail_after(PATIENCE_S):
            return await function(*arguments)

    async def _in_trouble(
        self, trouble: Trouble, link: Link, function: Callable[[], Awaitable[Any]]
    ) -> None:
        connection = self._behind(link) if trouble else None
        if connection is None:
            if trouble:
                await link.close()
            await self._bounded(function)
            return
        self.is_shaken = True
        if trouble == "reply lost":
            for script in (vars(_commits)["COMMIT"], vars(_consumer)["LEAVE"]):
                # The reply that is lost is not that the script is unknown.
                await link.call("SCRIPT", "LOAD", script.source)
            connection.lose_reply()
            await self._bounded(function)
            return
        connection.swallow("to server")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._bounded, function)
            for _ in range(_CHECKPOINTS):
                await checkpoint()
            connection.cut()

    def _behind(self, link: Link) -> Connection | None:
        """Find the connection of a link, if it has one."""
        if not link.is_open:
            return None
        port = link._connection._writer.get_extra_info("sockname")[1]
        for connection in self._proxy.connections:
            client = connection._client.transport
            if client is not None and client.get_extra_info("peername")[1] == port:
                return connection
        return None


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode()


def _parts(joined: bytes) -> tuple[bytes | None, ...]:
    """Take parts apart: each has its length in front, or minus one if it is missing."""
    parts: list[bytes | None] = []
    while joined:
        size = int.from_bytes(joined[:4], signed=True)
        parts.append(None if size < 0 else joined[4 : 4 + size])
        joined = joined[4 + max(size, 0) :]
    return tuple(parts)


def _clients(raw: Any, **options: Any) -> list[dict[str, str]]:
    """Tell who is connected; the client's own types do not say so."""
    found: list[dict[str, str]] = raw.client_list(**options)
    return found
