"""The memory transport against a model that is simple enough to be seen to be right."""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyafw.memory import MemoryTransport
from asyafw.testing import ManualClock
from asyafw.transport import Consumer, Delivery, Message, Out, Part, Send
from tests.queue_model import Item, Model

T = TypeVar("T")

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


class MemoryAgainstModel(RuleBasedStateMachine):
    """Does the same to both and compares what can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(QUEUES)
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

        self.model.emit(outs)

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
        self.model.emit(outs)
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
