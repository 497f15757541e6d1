import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from math import inf
from typing import Any, Self

import anyio
import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint

from asyafw import Context, actor
from asyafw._actor import Actor
from asyafw.events import Event
from asyafw.exceptions import ConfigurationError, HandlerExited, LimitExceeded
from asyafw.middleware import Handler
from asyafw.testing import make_context
from asyafw.worker._calls import open_handler


def keep(_ctx: Context, item: Any) -> Any:
    return repr(item)


async def opened(tried: Actor[..., Any], most: int = 100) -> Handler:
    async with AsyncExitStack() as stack:
        return await open_handler(tried, stack, keep, most)
    raise AssertionError


async def called(tried: Actor[..., Any], payload: Any, most: int = 100) -> Any:
    return await (await opened(tried, most))(payload, make_context())


async def plain(number: int) -> int:
    return number + 1


async def with_context(number: int, ctx: Context) -> int:
    return number + ctx.attempt


def in_thread(number: int) -> int:
    return number + 1


def in_thread_with_context(number: int, ctx: Context) -> int:
    return number + ctx.attempt


class Model:
    async def __call__(self, number: int) -> int:
        return number + 1


@pytest.mark.parametrize(
    "handler", [plain, with_context, in_thread, in_thread_with_context, Model, Model()]
)
async def test_a_handler_of_any_form_is_called_with_what_it_takes(handler: Any) -> None:
    result = await called(actor(name="tried")(handler), 1)

    assert result == 2


async def yields(count: int) -> AsyncIterator[list[int]]:
    items: list[int] = []
    for number in range(count):
        items.append(number)
        yield items


async def yields_with_context(count: int, ctx: Context) -> AsyncIterator[list[int]]:
    async for items in yields(count + ctx.attempt - 1):
        yield items


def yields_in_thread(count: int) -> Iterator[list[int]]:
    items: list[int] = []
    for number in range(count):
        items.append(number)
        yield items


GENERATORS = pytest.mark.parametrize("handler", [yields, yields_with_context, yields_in_thread])


@GENERATORS
async def test_what_is_yielded_is_kept_as_it_was_then(handler: Any) -> None:
    result = await called(actor(name="tried")(handler), 3)

    assert result == ["[0]", "[0, 1]", "[0, 1, 2]"]


@GENERATORS
async def test_no_more_is_yielded_than_a_fan_out_may_make(handler: Any) -> None:
    result = await called(actor(name="tried")(handler), 5, 5)
    with pytest.raises(LimitExceeded, match="yields more than 5 children"):
        await called(actor(name="tried")(handler), 6, 5)

    assert len(result) == 5


async def test_a_generator_is_closed_when_it_yields_too_much() -> None:
    closed: list[bool] = []

    @actor
    async def tried(_: int) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with pytest.raises(LimitExceeded):
        await called(tried, 1)

    assert closed == [True]


NAME: ContextVar[str] = ContextVar("NAME")


async def test_a_thread_sees_the_context_variables() -> None:
    @actor
    def tried(_: int) -> str:
        return NAME.get()

    NAME.set("seen")

    assert await called(tried, 1) == "seen"


async def test_a_thread_may_call_back_into_the_event_loop() -> None:
    told: list[Event] = []

    @actor
    def tried(number: int, ctx: Context) -> int:
        from_thread.run(ctx.progress, 0.5)
        return number

    await (await opened(tried))(1, make_context(told=told))

    assert [event.fraction for event in told] == [0.5]


async def test_a_thread_that_goes_on_keeps_its_place() -> None:
    gates = [threading.Event() for _ in range(2)]
    begun: list[int] = []
    ended: list[int] = []
    early: tuple[list[int], float] = [], 0

    @actor(concurrency=1, timeout_s=60)
    def tried(number: int) -> int:
        begun.append(number)
        gates[number].wait(10)
        ended.append(number)
        return number

    handler, waiting = await opened(tried), make_context()
    waiting.expires_at = 0
    with anyio.move_on_after(0.05):
        await handler(0, make_context())
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            await handler(1, waiting)

        tasks.start_soon(wait)
        tasks.cancel_scope.deadline = anyio.current_time() + 5
        await anyio.wait_all_tasks_blocked()
        early = list(begun), waiting.expires_at
        gates[0].set()
        gates[1].set()

    assert early == ([0], inf), "who waits for a thread is not late"
    assert begun == ended == [0, 1]
    assert waiting.expires_at < inf


async def test_a_thread_that_never_began_leaves_its_place() -> None:
    @actor(concurrency=1)
    def tried(number: int) -> int:
        return number

    handler = await opened(tried)
    for turns in range(8):
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await handler(1, make_context())

            tasks.start_soon(call)
            for _ in range(turns):
                await checkpoint()
            tasks.cancel_scope.cancel()
    with anyio.fail_after(5):
        result = await handler(1, make_context())

    assert result == 1


async def test_an_exit_in_a_thread_is_an_error() -> None:
    @actor
    def tried(_: int) -> None:
        raise GeneratorExit("stop")

    with pytest.raises(HandlerExited, match="GeneratorExit"):
        await called(tried, 1)


async def test_a_class_is_entered_and_left_with_the_stack() -> None:
    seen: list[str] = []

    class Loaded:
        async def __aenter__(self) -> Self:
            seen.append("entered")
            return self

        async def __aexit__(self, *_: object) -> None:
            seen.append("left")

        async def __call__(self, number: int) -> int:
            seen.append("called")
            return number

    async with AsyncExitStack() as stack:
        handler = await open_handler(actor(Loaded), stack, keep, 100)
        await handler(1, make_context())
        await handler(1, make_context())

    assert seen == ["entered", "called", "called", "left"]


class Plain:
    def __call__(self, number: int) -> int:
        return number


def local() -> Any:
    def handler(number: int) -> int:
        return number

    return handler


@pytest.mark.parametrize(
    "handler", [local(), Plain, Plain()], ids=["local function", "class", "instance"]
)
async def test_another_process_needs_a_function_that_it_can_import(handler: Any) -> None:
    tried = actor(name="tried", executor="process")(handler)

    with pytest.raises(ConfigurationError, match="is a function of a module"):
        await opened(tried)
