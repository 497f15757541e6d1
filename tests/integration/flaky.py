"""A transport whose connection comes and goes."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, Self, TypeAlias

from asyafw.exceptions import TransportUnavailable
from asyafw.memory import MemoryTransport
from asyafw.transport import Consumer, Delivery, Entry, Lag, Message, Out

__all__ = ["Call", "Flaky"]

Call: TypeAlias = Literal["receive", "settle", "emit", "release", "tail", "lag"]


class Flaky:
    """Fails the calls named in `away`, before they do anything; those in `lost`, after they did.

    `failures` counts how often each has failed.
    """

    def __init__(self, transport: MemoryTransport) -> None:
        self.away: set[Call] = set()
        self.lost: set[Call] = set()
        self.failures: dict[Call, int] = {}
        self._transport = transport

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)

    def check(self, call: Call, names: set[Call]) -> None:
        if call in names:
            self.failures[call] = self.failures.get(call, 0) + 1
            raise TransportUnavailable(f"cannot {call}: the service is away")

    async def emit(self, *out: Out) -> None:
        self.check("emit", self.away)
        await self._transport.emit(*out)
        self.check("emit", self.lost)

    @asynccontextmanager
    async def consume(self, queue: str) -> AsyncGenerator[Consumer, None]:
        async with self._transport.consume(queue) as consumer:
            yield _Consumer(consumer, self)

    async def tail(
        self, log: str, *, since_s: float = 0, after: str | None = None
    ) -> AsyncIterator[Entry]:
        async for entry in self._transport.tail(log, since_s=since_s, after=after):
            self.check("tail", self.away)
            yield entry

    async def lag(self, queue: str) -> Lag:
        self.check("lag", self.away)
        return await self._transport.lag(queue)


class _Consumer:
    def __init__(self, consumer: Consumer, flaky: Flaky) -> None:
        self._consumer = consumer
        self._flaky = flaky

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self._flaky.check("receive", self._flaky.away)
        deliveries = await self._consumer.receive(limit)
        try:
            self._flaky.check("receive", self._flaky.away)
        except TransportUnavailable:
            for delivery in deliveries:
                await delivery.release()
            raise
        return [_Delivery(delivery, self._flaky) for delivery in deliveries]


class _Delivery:
    def __init__(self, delivery: Delivery, flaky: Flaky) -> None:
        self._delivery = delivery
        self._flaky = flaky

    @property
    def message(self) -> Message:
        return self._delivery.message

    @property
    def parts(self) -> Sequence[bytes | None] | None:
        return self._delivery.parts

    @property
    def attempt(self) -> int:
        return self._delivery.attempt

    async def settle(self, *out: Out) -> bool:
        self._flaky.check("settle", self._flaky.away)
        settled = await self._delivery.settle(*out)
        self._flaky.check("settle", self._flaky.lost)
        return settled

    async def release(self) -> None:
        self._flaky.check("release", self._flaky.away)
        await self._delivery.release()
