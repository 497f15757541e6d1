"""The memory transport against a model that is simple enough to be seen to be right."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeAlias, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from asyafw.memory import MemoryTransport
from asyafw.testing import ManualClock
from asyafw.transport import Consumer, Delivery, Lag, Message, Out, Part, Send

T = TypeVar("T")
Parts: TypeAlias = tuple[bytes | None, ...] | None

QUEUES: tuple[str, ...] = ("a", "b")
TOTAL, TIMEOUT_S = 2, 4

queues = st.sampled_from(QUEUES)
sends = st.builds(Send, queues, st.builds(Message, st.binary(max_size=2)), st.sampled_from([0, 3]))
parts = st.builds(
    Part,
    queues,
    st.sampled_from(["x", "y"]),
    st.integers(0, TOTAL - 1),
    st.just(TOTAL),
    st.binary(max_size=2),
    st.just(float(TIMEOUT_S)),
)
outs = st.lists(sends | parts, max_size=3)


class Item(Struct, eq=False):
    """A message as the model knows it."""

    queue: str
    number: int
    ready_at: float
    message: Message
    parts: Parts
    attempts: int = 0


class Model:
    """Everything in plain lists, searched and sorted whenever it is needed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[Item] = []
        self.held: list[Item] = []
        self.arrived = dict.fromkeys(QUEUES, 0)
        self.delayed = dict.fromkeys(QUEUES, 0)
        self.joins: dict[tuple[str, str], dict[int, bytes] | None] = {}
        self.later: list[tuple[float, int, Callable[[], None]]] = []
        self.scheduled = 0

    def at(self, due: float, action: Callable[[], None]) -> None:
        self.scheduled += 1
        self.later.append((due, self.scheduled, action))

    def put(self, queue: str, message: Message, parts: Parts = None) -> None:
        self.arrived[queue] += 1
        self.waiting.append(Item(queue, self.arrived[queue], self.now, message, parts))

    def emit(self, out: Out) -> None:
        if isinstance(out, Send) and out.delay_s:
            self.delayed[out.queue] += 1
            self.at(self.now + out.delay_s, lambda: self.mature(out))
        elif isinstance(out, Send):
            self.put(out.queue, out.message)
        elif isinstance(out, Part):
            self.join(out)

    def mature(self, send: Send) -> None:
        self.delayed[send.queue] -= 1
        self.put(send.queue, send.message)

    def join(self, part: Part) -> None:
        name = part.queue, part.join
        if name not in self.joins:
            self.joins[name] = {}
            self.at(self.now + TIMEOUT_S, lambda: self.complete(name))
            self.at(self.now + 2 * TIMEOUT_S, lambda: self.forget(name))
        known = self.joins[name]
        if known is not None:
            known.setdefault(part.index, part.body)
            if len(known) == TOTAL:
                self.complete(name)

    def complete(self, name: tuple[str, str]) -> None:
        known = self.joins[name]
        self.joins[name] = None
        if known is not None:
            self.put(name[0], Message(b"", name[1]), tuple(known.get(n) for n in range(TOTAL)))

    def forget(self, name: tuple[str, str]) -> None:
        del self.joins[name]

    def advance(self, seconds: int) -> None:
        end = self.now + seconds
        while due := [entry for entry in self.later if entry[0] <= end]:
            first = min(due, key=lambda entry: entry[:2])
            self.later.remove(first)
            self.now = first[0]
            first[2]()
        self.now = end

    def receive(self, queue: str, limit: int) -> list[Item]:
        waiting = sorted((i for i in self.waiting if i.queue == queue), key=lambda i: i.number)
        for item in waiting[:limit]:
            self.waiting.remove(item)
            self.held.append(item)
            item.attempts += 1
        return waiting[:limit]

    def put_back(self, item: Item, attempts: int) -> None:
        self.held.remove(item)
        item.attempts = attempts
        self.waiting.append(item)

    def lag(self, queue: str) -> Lag:
        ready = [item.ready_at for item in self.waiting if item.queue == queue]
        return Lag(
            backlog=len(ready),
            in_flight=sum(item.queue == queue for item in self.held),
            delayed=self.delayed[queue],
            oldest_s=self.now - min(ready) if ready else None,
            arrived=self.arrived[queue],
        )


class MemoryAgainstModel(RuleBasedStateMachine):
    """Does the same to both and compares what can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = ManualClock(start=0)
        self.service = MemoryTransport(self.clock)
        self.transport = self.service
        self.consumers: dict[str, Consumer] = {}
        self.contexts: dict[str, AbstractAsyncContextManager[Consumer]] = {}
        self.in_hand: list[tuple[Delivery, Item]] = []
        self.lost: list[Delivery] = []
        self.loop = asyncio.new_event_loop()
        self.calls: asyncio.Queue[tuple[Coroutine[Any, Any, Any], asyncio.Future[Any]] | None]
        self.calls = asyncio.Queue()
        self.main = self.loop.create_task(self.serve())

    async def serve(self) -> None:
        """Run all calls in one task, because a transport is closed by the task that opened it."""
        async with AsyncExitStack() as self.stack:
            while (call := await self.calls.get()) is not None:
                call[1].set_result(await call[0])

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future: asyncio.Future[T] = self.loop.create_future()
        self.calls.put_nowait((coroutine, future))
        either: set[asyncio.Future[Any]] = {self.main, future}
        self.loop.run_until_complete(asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED))
        if self.main.done():
            self.main.result()
        return future.result()

    def teardown(self) -> None:
        if not self.main.done():
            self.calls.put_nowait(None)
            self.loop.run_until_complete(self.main)
        self.loop.close()

    @initialize()
    def open(self) -> None:
        async def open_() -> None:
            self.transport = await self.stack.enter_async_context(self.service.share())
            for queue in QUEUES:
                await self.open_consumer(queue)

        self.run(open_())

    async def open_consumer(self, queue: str) -> None:
        self.contexts[queue] = self.transport.consume(queue)
        self.consumers[queue] = await self.contexts[queue].__aenter__()

    @rule(outs=outs)
    def emit(self, outs: list[Out]) -> None:
        self.run(self.transport.emit(*outs))

        for out in outs:
            self.model.emit(out)

    @rule(queue=queues, limit=st.integers(1, 3))
    def receive(self, queue: str, limit: int) -> None:
        expected = self.model.receive(queue, limit)
        if not expected:
            return

        received = self.run(asyncio.wait_for(self.consumers[queue].receive(limit), 5))

        assert [(d.message, d.parts, d.attempt) for d in received] == [
            (item.message, item.parts, item.attempts) for item in expected
        ]
        self.in_hand += zip(received, expected, strict=True)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), outs=outs)
    def settle(self, data: st.DataObject, outs: list[Out]) -> None:
        delivery, item = self.in_hand.pop(data.draw(st.integers(0, len(self.in_hand) - 1)))

        assert self.run(delivery.settle(*outs))

        self.model.held.remove(item)
        for out in outs:
            self.model.emit(out)
        self.lost.append(delivery)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        delivery, item = self.in_hand.pop(data.draw(st.integers(0, len(self.in_hand) - 1)))

        self.run(delivery.release())

        self.model.put_back(item, item.attempts - 1)
        self.lost.append(delivery)

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), outs=outs)
    def settle_what_was_lost(self, data: st.DataObject, outs: list[Out]) -> None:
        delivery = data.draw(st.sampled_from(self.lost))

        assert not self.run(delivery.settle(*outs))

        self.run(delivery.release())

    @rule(queue=queues)
    def close_a_consumer(self, queue: str) -> None:
        async def reopen() -> None:
            await self.contexts[queue].__aexit__(None, None, None)
            await self.open_consumer(queue)

        self.run(reopen())

        self.lose(queue)

    @rule()
    def crash(self) -> None:
        self.run(self.transport.crash())
        for queue in QUEUES:
            self.lose(queue)

        self.open()

    def lose(self, queue: str) -> None:
        for delivery, item in self.in_hand:
            if item.queue == queue:
                self.model.put_back(item, item.attempts)
                self.lost.append(delivery)
        self.in_hand = [held for held in self.in_hand if held[1].queue != queue]

    @rule(seconds=st.integers(1, 5))
    def advance(self, seconds: int) -> None:
        self.run(self.clock.advance(seconds))

        self.model.advance(seconds)

    @invariant()
    def lag_is_the_same(self) -> None:
        for queue in QUEUES:
            if self.contexts:
                assert self.run(self.transport.lag(queue)) == self.model.lag(queue)


MemoryAgainstModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestMemoryAgainstModel = MemoryAgainstModel.TestCase
