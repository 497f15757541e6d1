"""Transports with one defect each."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from typing import Any, Self

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from asyafw.memory import MemoryTransport
from asyafw.transport import (
    Append,
    Consumer,
    Delivery,
    Entry,
    Lag,
    Message,
    Out,
    Part,
    Send,
    Transport,
)
from tests.contract.memory_harness import MemoryHarness


class Wrapped:
    """The memory transport, with a hook wherever a defect can be put in."""

    def __init__(self, inner: MemoryTransport, shared: dict[str, Any]) -> None:
        self.inner = inner
        self.broker = inner._broker
        self.shared = shared

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.inner.__aexit__(*exc_info)

    async def emit(self, *out: Out) -> None:
        await self.inner.emit(*self.outs(out))

    @asynccontextmanager
    async def consume(self, queue: str) -> AsyncGenerator[Consumer, None]:
        async with self.inner.consume(queue) as consumer:
            yield WrappedConsumer(self, consumer, queue)

    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        return self.inner.tail(log, since_s=since_s, after=after)

    async def lag(self, queue: str) -> Lag:
        return await self.inner.lag(queue)

    async def crash(self) -> None:
        await self.inner.crash()

    def outs(self, outs: Iterable[Out]) -> list[Out]:
        """What is emitted, by `emit` or by settling."""
        return [self.out(out) for out in outs]

    def out(self, out: Out) -> Out:
        return out

    async def receive(self, consumer: "WrappedConsumer", limit: int) -> Sequence[Delivery]:
        return await consumer.inner.receive(limit)

    async def settle(self, delivery: "WrappedDelivery", outs: list[Out]) -> bool:
        return await delivery.inner.settle(*outs)

    async def release(self, delivery: "WrappedDelivery") -> None:
        await delivery.inner.release()

    def attempt(self, delivery: Delivery) -> int:
        return delivery.attempt

    def parts(self, delivery: Delivery) -> Sequence[bytes | None] | None:
        return delivery.parts


class WrappedConsumer:
    def __init__(self, transport: Wrapped, inner: Consumer, queue: str) -> None:
        self.transport = transport
        self.inner = inner
        self.queue = queue
        self.ghosts = 0

    async def receive(self, limit: int) -> Sequence[Delivery]:
        received = await self.transport.receive(self, limit)
        return [WrappedDelivery(self.transport, inner, self.queue) for inner in received]


class WrappedDelivery:
    def __init__(self, transport: Wrapped, inner: Delivery, queue: str) -> None:
        self.transport = transport
        self.inner = inner
        self.queue = queue
        self.message = inner.message
        self.attempt = transport.attempt(inner)
        self.parts = transport.parts(inner)

    async def settle(self, *out: Out) -> bool:
        return await self.transport.settle(self, self.transport.outs(out))

    async def release(self) -> None:
        await self.transport.release(self)


class WrappedHarness(MemoryHarness):
    def __init__(self, transport: type[Wrapped], *, patience_s: float) -> None:
        super().__init__()
        self.patience_s = patience_s
        self._transport = transport
        self._shared: dict[str, Any] = {}

    def open(self) -> AbstractAsyncContextManager[Transport]:
        return self._transport(self.service.share(), self._shared)

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, Wrapped)
        await transport.crash()

    async def pass_time(self, seconds: float) -> None:
        await super().pass_time(seconds)
        if self._transport is LeasesLapse and seconds > self.lease_s:
            for queue in self.service._broker.queues.values():
                for lease in tuple(queue.leases):
                    lease.drop()


class LosesKeys(Wrapped):
    def out(self, out: Out) -> Out:
        return replace(out, message=Message(out.message.body)) if isinstance(out, Send) else out


class EmitsOnlyTheFirst(Wrapped):
    async def emit(self, *out: Out) -> None:
        await super().emit(*out[:1])


class DropsWhatNobodyWaitsFor(Wrapped):
    def outs(self, outs: Iterable[Out]) -> list[Out]:
        return [
            out for out in outs if not isinstance(out, Send) or self.broker.queues[out.queue].leases
        ]


class DeliversTwice(Wrapped):
    async def receive(self, consumer: WrappedConsumer, limit: int) -> Sequence[Delivery]:
        received = await super().receive(consumer, limit)
        for delivery in received:
            if not delivery.message.key or not delivery.message.key.startswith("again"):
                again = replace(delivery.message, key="again")
                self.broker.queues[consumer.queue].put(again, None, self.broker.now())
        return received


class AcceptsWhenClosed(Wrapped):
    async def emit(self, *out: Out) -> None:
        if self.inner._open:
            await super().emit(*out)


class IgnoresLimits(Wrapped):
    async def receive(self, consumer: WrappedConsumer, limit: int) -> Sequence[Delivery]:
        return await super().receive(consumer, 10 * limit)


class NeverWaits(Wrapped):
    async def receive(self, consumer: WrappedConsumer, limit: int) -> Sequence[Delivery]:
        await checkpoint()
        if self.broker.queues[consumer.queue]:
            return await super().receive(consumer, limit)
        return ()


class LosesWhatComesToACancelledReceive(Wrapped):
    async def receive(self, consumer: WrappedConsumer, limit: int) -> Sequence[Delivery]:
        try:
            while consumer.ghosts:
                await super().receive(consumer, 1)
                consumer.ghosts -= 1
            return await super().receive(consumer, limit)
        except anyio.get_cancelled_exc_class():
            consumer.ghosts += 1
            raise


class ServesOnlyTheFirst(Wrapped):
    async def receive(self, consumer: WrappedConsumer, limit: int) -> Sequence[Delivery]:
        if self.shared.setdefault(consumer.queue, consumer) is not consumer:
            await anyio.sleep_forever()
        return await super().receive(consumer, limit)


class ForgetsSettles(Wrapped):
    async def settle(self, delivery: WrappedDelivery, outs: list[Out]) -> bool:
        await delivery.inner.release()
        self.broker.commit(outs)
        return True


class SettlesWithoutEmitting(Wrapped):
    async def settle(self, delivery: WrappedDelivery, outs: list[Out]) -> bool:
        return await delivery.inner.settle()


class SettlesWhatWasLost(Wrapped):
    async def settle(self, delivery: WrappedDelivery, outs: list[Out]) -> bool:
        if not await delivery.inner.settle(*outs):
            self.broker.commit(outs)
        return True


class MixesConcurrentSettles(Wrapped):
    async def settle(self, delivery: WrappedDelivery, outs: list[Out]) -> bool:
        self.shared["outs"] = outs
        await checkpoint()
        return await delivery.inner.settle(*self.shared["outs"])


class SettlesOnDelivery(Wrapped):
    async def receive(self, consumer: WrappedConsumer, limit: int) -> Sequence[Delivery]:
        received = await super().receive(consumer, limit)
        for delivery in received:
            await delivery.settle()
        return received

    async def settle(self, delivery: WrappedDelivery, outs: list[Out]) -> bool:
        self.broker.commit(outs)
        return True


class CountsReleases(Wrapped):
    async def release(self, delivery: WrappedDelivery) -> None:
        delivery.inner.attempt += 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # known to be memory's
        await super().release(delivery)


class NeverCounts(Wrapped):
    def attempt(self, delivery: Delivery) -> int:
        return 1


class LeasesLapse(Wrapped):
    """The harness drops the leases as time passes."""


class IgnoresDelays(Wrapped):
    def out(self, out: Out) -> Out:
        return replace(out, delay_s=0) if isinstance(out, Send) else out


class DelaysWhatFollowsADelay(Wrapped):
    def out(self, out: Out) -> Out:
        if not isinstance(out, Send):
            return out
        due = max(self.shared.get("due", 0), self.broker.now() + out.delay_s)
        self.shared["due"] = due
        return replace(out, delay_s=due - self.broker.now())


class LosesDelaysInACrash(Wrapped):
    async def crash(self) -> None:
        await super().crash()
        self.broker.schedule._heap.clear()


class GivesAnUnusedQueueAnAge(Wrapped):
    async def lag(self, queue: str) -> Lag:
        lag = await super().lag(queue)
        return replace(lag, oldest_s=lag.oldest_s or 0.0)


class CountsWhatIsInHandAsWaiting(Wrapped):
    async def lag(self, queue: str) -> Lag:
        lag = await super().lag(queue)
        return replace(lag, backlog=lag.backlog + lag.in_flight)


class DoesNotCountDelays(Wrapped):
    async def lag(self, queue: str) -> Lag:
        return replace(await super().lag(queue), delayed=0)


class TellsNoAge(Wrapped):
    async def lag(self, queue: str) -> Lag:
        lag = await super().lag(queue)
        return replace(lag, oldest_s=lag.oldest_s and 0.0)


class CountsReturnsAsArrivals(Wrapped):
    async def release(self, delivery: WrappedDelivery) -> None:
        self.broker.queues[delivery.queue].arrived += 1
        await super().release(delivery)


class CountsBelowZero(Wrapped):
    async def lag(self, queue: str) -> Lag:
        lag = await super().lag(queue)
        return replace(lag, backlog=lag.backlog - 1)


class CountsArrivalsDown(Wrapped):
    async def lag(self, queue: str) -> Lag:
        lag = await super().lag(queue)
        return replace(lag, arrived=lag.backlog)


class GivesAllEntriesOnePosition(Wrapped):
    async def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncGenerator[Entry, None]:
        async for entry in super().tail(log, since_s=since_s, after=after):
            yield replace(entry, position="0")


class ReadsBackwards(Wrapped):
    async def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncGenerator[Entry, None]:
        tail = super().tail(log, since_s=since_s, after=after)
        while True:
            first, second = await anext(tail), await anext(tail)
            yield second
            yield first


class IgnoresAges(Wrapped):
    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        return super().tail(log, since_s=inf, after=after)


class IgnoresPositions(Wrapped):
    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        return super().tail(log, since_s=inf)


class StopsAtTheEnd(Wrapped):
    async def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncGenerator[Entry, None]:
        tail = self.inner.tail(log, since_s=since_s, after=after)
        while tail._node.next is not None:
            yield await anext(tail)
        await anyio.sleep_forever()


class LetsReadersCompete(Wrapped):
    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        tail: AsyncIterator[Entry] = self.shared.setdefault(
            log, super().tail(log, since_s=since_s, after=after)
        )
        return tail


class HasOneLog(Wrapped):
    def out(self, out: Out) -> Out:
        return replace(out, log="log") if isinstance(out, Append) else out

    def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        return super().tail("log", since_s=since_s, after=after)


class OrdersPartsAsTheyCome(Wrapped):
    def out(self, out: Out) -> Out:
        if not isinstance(out, Part):
            return out
        came: list[int] = self.shared.setdefault(out.join, [])
        if out.index not in came:
            came.append(out.index)
        return replace(out, index=came.index(out.index))


class DeliversEachPart(Wrapped):
    def out(self, out: Out) -> Out:
        return Send(out.queue, Message(b"", out.join)) if isinstance(out, Part) else out


class ForgetsJoins(Wrapped):
    def outs(self, outs: Iterable[Out]) -> list[Out]:
        joins = self.broker.joins._joins
        for name, join in tuple(joins.items()):
            if join.parts is None:
                del joins[name]
        return super().outs(outs)


class RedeliversJoinsWithoutParts(Wrapped):
    def parts(self, delivery: Delivery) -> Sequence[bytes | None] | None:
        return delivery.parts if delivery.attempt == 1 else ()


class LosesPartsInACrash(Wrapped):
    async def crash(self) -> None:
        await super().crash()
        self.broker.joins._joins.clear()


class NeverTimesOut(Wrapped):
    def out(self, out: Out) -> Out:
        return replace(out, timeout_s=inf) if isinstance(out, Part) else out


class TimesOutAtOnce(Wrapped):
    def out(self, out: Out) -> Out:
        return replace(out, timeout_s=out.timeout_s / 1000) if isinstance(out, Part) else out


class JoinsByQueue(Wrapped):
    def out(self, out: Out) -> Out:
        return replace(out, join="join") if isinstance(out, Part) else out
