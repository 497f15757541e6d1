import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw import Batch, Context, Retry, actor
from asyafw.exceptions import HandlerCancelled, HandlerExited, ResultTypeError
from asyafw.testing import make_context
from asyafw.worker._batches import Batcher


class Call:
    """A handler of batches that records them; `act` decides what becomes of one."""

    def __init__(self, act: Callable[[list[Any]], Any] = lambda items: items) -> None:
        self.batches: list[list[Any]] = []
        self.contexts: list[list[Context]] = []
        self.running = self.most = 0
        self.gate: anyio.Event | None = None
        self.act = act

    async def __call__(self, items: list[Any], contexts: list[Context]) -> Any:
        self.batches.append(items)
        self.contexts.append(contexts)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            return self.act(items)
        finally:
            self.running -= 1


@asynccontextmanager
async def batching(
    call: Any, batch: Batch, *, concurrency: int = 1, timeout_s: float | None = None
) -> AsyncGenerator[Batcher, None]:
    @actor(name="embed", batch=batch, timeout_s=timeout_s)
    async def embed(texts: list[Any]) -> list[Any]:
        return texts

    batcher = Batcher(embed, batch, call)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(concurrency):
                tasks.start_soon(batcher.run)
            yield batcher
            tasks.cancel_scope.cancel()


async def results(batcher: Batcher, *items: Any) -> list[Any]:
    """Hand in items at once, and give the result or the error of each."""
    found: dict[int, Any] = {}

    async def one(index: int, item: Any) -> None:
        try:
            found[index] = await batcher(item, make_context())
        except Exception as error:  # noqa: BLE001 — it is what the test looks at
            found[index] = error

    async with anyio.create_task_group() as tasks:
        for index, item in enumerate(items):
            tasks.start_soon(one, index, item)
    return [found[index] for index in range(len(items))]


NEVER_S = 60


async def test_a_full_batch_does_not_wait() -> None:
    call = Call()

    async with batching(call, Batch(max_size=3, max_wait_s=NEVER_S)) as batcher:
        given = await results(batcher, 1, 2, 3, 4, 5, 6)

    assert given == [1, 2, 3, 4, 5, 6]
    assert call.batches == [[1, 2, 3], [4, 5, 6]]


async def test_a_batch_that_does_not_fill_runs_when_its_wait_is_over() -> None:
    call = Call()

    async with batching(call, Batch(max_size=3, max_wait_s=0.01)) as batcher:
        given = await results(batcher, 1, 2, 3, 4)

    assert given == [1, 2, 3, 4]
    assert call.batches == [[1, 2, 3], [4]]


async def test_without_a_wait_what_is_there_is_taken() -> None:
    call = Call()

    async with batching(call, Batch(max_size=8, max_wait_s=0)) as batcher:
        given = [await results(batcher, n, n + 1) for n in range(3)]

    assert given == [[0, 1], [1, 2], [2, 3]]


async def test_no_more_batches_run_than_the_concurrency_says() -> None:
    call, running = Call(), 0
    call.gate = anyio.Event()

    async with (
        batching(call, Batch(max_size=2, max_wait_s=NEVER_S), concurrency=2) as batcher,
        anyio.create_task_group() as tasks,
    ):
        for number in range(8):
            tasks.start_soon(batcher, number, make_context())
        await anyio.wait_all_tasks_blocked()
        running = call.running
        call.gate.set()

    assert running == call.most == 2
    assert [len(batch) for batch in call.batches] == [2, 2, 2, 2]


async def test_what_fails_together_runs_again_one_by_one() -> None:
    def act(items: list[Any]) -> list[Any]:
        if "bad" in items:
            raise ValueError(f"cannot do {items}")
        return items

    call = Call(act)

    async with batching(call, Batch(max_size=3, max_wait_s=NEVER_S)) as batcher:
        first, second, third = await results(batcher, "a", "bad", "b")

    assert (first, third) == ("a", "b")
    assert isinstance(second, ValueError)
    assert str(second) == "cannot do ['bad']"
    assert call.batches == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]


async def test_a_batch_that_asks_to_be_run_again_is_not_taken_apart() -> None:
    def act(items: list[Any]) -> list[Any]:
        raise Retry("overloaded")

    call = Call(act)

    async with batching(call, Batch(max_size=2, max_wait_s=NEVER_S)) as batcher:
        given = await results(batcher, 1, 2)

    assert [type(error) for error in given] == [Retry, Retry]
    assert call.batches == [[1, 2]]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SystemExit(3), HandlerExited),
        (GeneratorExit(), HandlerExited),
        (asyncio.CancelledError(), HandlerCancelled),
    ],
)
async def test_what_ends_a_program_is_an_error_of_the_item(
    error: BaseException, expected: type[Exception]
) -> None:
    def act(items: list[Any]) -> list[Any]:
        raise error

    async with batching(Call(act), Batch(max_size=2, max_wait_s=NEVER_S)) as batcher:
        given = await results(batcher, 1, 2)
        again = await results(batcher, 3, 4)

    assert [type(found) for found in given + again] == [expected] * 4


async def test_an_exception_in_the_list_is_that_items() -> None:
    def act(items: list[Any]) -> list[Any]:
        return [ValueError(item) if item < 0 else item for item in items]

    async with batching(Call(act), Batch(max_size=3, max_wait_s=NEVER_S)) as batcher:
        first, second, third = await results(batcher, 1, -2, 3)

    assert (first, third) == (1, 3)
    assert isinstance(second, ValueError)


@pytest.mark.parametrize("returned", [[1, 2, 3], [], None, (1, 2), "ab", iter([1, 2])])
async def test_a_list_with_one_result_for_each_is_needed(returned: Any) -> None:
    async with batching(
        Call(lambda items: returned), Batch(max_size=2, max_wait_s=NEVER_S)
    ) as batcher:
        given = await results(batcher, 1, 2)

    assert [type(error) for error in given] == [ResultTypeError] * 2
    assert "got a batch of 1" in str(given[0])


async def test_an_item_that_gave_up_waiting_is_left_out() -> None:
    call = Call()

    async with batching(call, Batch(max_size=3, max_wait_s=NEVER_S)) as batcher:
        with anyio.move_on_after(0.01):
            await batcher("gone", make_context())
        given = await results(batcher, 1, 2)

    assert given == [1, 2]
    assert call.batches == [[1, 2]]


async def test_an_item_that_gives_up_does_not_disturb_the_others() -> None:
    call = Call()
    call.gate = anyio.Event()

    given: list[Any] = []
    still, scope = 0, anyio.CancelScope()
    async with (
        batching(call, Batch(max_size=2, max_wait_s=NEVER_S)) as batcher,
        anyio.create_task_group() as tasks,
    ):

        async def impatient() -> None:
            with scope:
                await batcher("impatient", make_context())

        async def patient() -> None:
            given.append(await batcher("patient", make_context()))

        tasks.start_soon(impatient)
        tasks.start_soon(patient)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        still = call.running
        call.gate.set()

    assert still == 1
    assert given == ["patient"]


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_the_next_one_runs() -> None:
    call = Call()
    call.gate = anyio.Event()

    async with batching(call, Batch(max_size=2, max_wait_s=NEVER_S)) as batcher:
        with anyio.move_on_after(0.01):
            await results(batcher, 1, 2)
        while call.running:
            await checkpoint()
        call.gate.set()
        given = await results(batcher, 3, 4)

    assert given == [3, 4]


async def test_the_timeout_begins_when_the_batch_runs() -> None:
    call = Call()
    waiting, other, before = make_context(), make_context(), 0.0

    async with (
        batching(call, Batch(max_size=2, max_wait_s=NEVER_S), timeout_s=60) as batcher,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(batcher, 1, waiting)
        await anyio.wait_all_tasks_blocked()
        before = waiting.expires_at
        await batcher(2, other)

    assert before == inf
    assert waiting.expires_at == pytest.approx(other.expires_at, abs=0.1)


async def test_who_waits_for_its_turn_alone_is_not_late_meanwhile() -> None:
    seen: list[list[float]] = []
    contexts = [make_context() for _ in range(3)]

    def act(items: list[Any]) -> list[Any]:
        seen.append([ctx.expires_at for ctx in contexts])
        if len(items) > 1:
            raise ValueError("not together")
        return items

    async with (
        batching(Call(act), Batch(max_size=3, max_wait_s=NEVER_S), timeout_s=60) as batcher,
        anyio.create_task_group() as tasks,
    ):
        for index, ctx in enumerate(contexts):
            tasks.start_soon(batcher, index, ctx)

    together, first, second, third = seen
    assert inf not in together
    assert [limit == inf for limit in first] == [False, True, True]
    assert [limit == inf for limit in second] == [False, False, True]
    assert inf not in third


async def test_a_handler_that_cancels_its_task_does_not_end_the_batches() -> None:
    def act(items: list[Any]) -> list[Any]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return items

    async with batching(Call(act), Batch(max_size=1)) as batcher:
        given = [await results(batcher, number) for number in range(3)]

    assert given == [[0], [1], [2]]
