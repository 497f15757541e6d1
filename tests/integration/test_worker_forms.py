import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import msgspec
import pytest

from asyafw import App, Batch, Context, Reject, Retry, RetryPolicy, actor
from asyafw.retry import fixed
from asyafw.transport import Message, Send
from tests.integration.running import letters, running, submit_all

AGAIN = RetryPolicy(backoff=fixed(0))


class Photo(msgspec.Struct):
    uri: str
    score: float | None = None


@actor
async def judge(photo: Photo) -> Photo:
    return Photo(photo.uri, score=0.9)


async def test_worker_and_client_meet_at_a_name() -> None:
    app = App([judge], flows={"photos": ["judge"]})

    async with app.worker("memory://meeting"), app.connect("memory://meeting") as client:
        job = await client.submit("photos", Photo("s3://a"))
        result = await job.result(5)

    assert result == Photo("s3://a", score=0.9)


@pytest.mark.parametrize("url", ["memory://packed?codec=msgpack", "memory://text?codec=json"])
async def test_either_codec_carries_a_job(url: str) -> None:
    app = App([judge], flows={"photos": ["judge"]})

    async with app.worker(url), app.connect(url) as client:
        result = await (await client.submit("photos", Photo("s3://a"))).result(5)

    assert result == Photo("s3://a", score=0.9)


async def test_a_message_visits_the_actors_of_its_route() -> None:
    @actor
    async def double(number: int) -> int:
        return number * 2

    @actor
    async def increment(number: int) -> int:
        return number + 1

    async with running(double, increment) as run:
        result = await run.result(5, "double", "increment", "double")

    assert result == 22


async def test_a_plain_function_runs_in_a_thread() -> None:
    @actor
    def where(_: None) -> str:
        return threading.current_thread().name

    async with running(where) as run:
        result = await run.result(None)

    assert result != threading.current_thread().name


async def test_a_plain_function_may_take_the_context() -> None:
    @actor
    def route_on(number: int, ctx: Context) -> int:
        ctx.route.append("last")
        return number + ctx.attempt

    @actor
    async def last(number: int) -> int:
        return number * 10

    async with running(route_on, last) as run:
        result = await run.result(1, "route-on")

    assert result == 20


async def test_the_context_tells_where_a_message_is_and_changes_where_it_goes() -> None:
    seen: list[tuple[str, tuple[str, ...], int, str | None]] = []

    @actor
    async def first(number: int, ctx: Context) -> int:
        seen.append((ctx.route.curr, ctx.route.next, ctx.hops, ctx.headers.get("tenant")))
        ctx.route.prepend("second")
        ctx.headers["tenant"] = "acme"
        return number

    @actor
    async def second(number: int, ctx: Context) -> int:
        seen.append((ctx.route.curr, ctx.route.next, ctx.hops, ctx.headers.get("tenant")))
        ctx.route.stop()
        return number

    @actor
    async def third(number: int) -> int:
        return -number

    async with running(first, second, third) as run:
        result = await run.result(1, "first", "third")

    assert result == 1
    assert seen == [("first", ("third",), 0, None), ("second", ("third",), 1, "acme")]


async def test_the_lifespan_gives_the_state() -> None:
    @actor
    async def read(_: None, ctx: Context) -> str:
        return str(ctx.state["model"])

    left: list[bool] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[dict[str, str], None]:
        yield {"model": "sdxl"}
        left.append(True)

    async with running(read, lifespan=lifespan) as run:
        result = await run.result(None)

    assert result == "sdxl"
    assert left == [True]


async def test_none_ends_the_route_with_the_payload_as_it_was() -> None:
    @actor
    async def look(photo: Photo) -> Photo | None:
        return None if photo.score else photo

    async with running(look, judge) as run:
        result = await run.result(Photo("a", score=0.1), "look", "judge")

    assert result == Photo("a", score=0.1)


@actor
async def tiles(count: int) -> AsyncIterator[dict[str, int]]:
    tile = {"x": -1}
    for x in range(count):
        tile["x"] = x  # the same object every time
        yield tile


@actor
def sync_tiles(count: int) -> Iterator[dict[str, int]]:
    tile = {"x": -1}
    for x in range(count):
        tile["x"] = x
        yield tile


@actor
async def x_of(tile: dict[str, int]) -> int:
    return tile["x"]


@pytest.mark.parametrize("fork", [tiles, sync_tiles], ids=["async", "sync"])
async def test_what_is_yielded_becomes_children_as_it_was_then(fork: Any) -> None:
    async with running(fork, x_of) as run:
        result = await run.result(5)

    assert result == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fork", [tiles, sync_tiles], ids=["async", "sync"])
async def test_children_are_results_where_the_route_ends(fork: Any) -> None:
    async with running(fork) as run:
        result = await run.result(2)

    assert result == [{"x": 0}, {"x": 1}]


async def test_a_generator_that_fails_has_made_no_children() -> None:
    made: list[int] = []

    @actor(retry=AGAIN)
    async def fork(_: None) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise RuntimeError("halfway")

    @actor
    async def child(number: int) -> None:
        made.append(number)

    async with running(fork, child) as run:
        error = await run.error(None)

    assert error == "RuntimeError: halfway"
    assert not made


async def test_a_generator_is_closed_when_it_is_interrupted() -> None:
    closed = anyio.Event()

    @actor(timeout_s=0.05, retry=RetryPolicy(max_attempts=1))
    async def fork(_: None) -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.set()

    async with running(fork) as run:
        error = await run.error(None)

    assert error.startswith("HandlerTimeout: fork ran for")
    assert closed.is_set()


class Model:
    """Counts how often it was loaded and left."""

    loaded = 0
    left = 0

    async def __aenter__(self) -> Self:
        type(self).loaded += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        type(self).left += 1

    async def __call__(self, prompt: str) -> str:
        assert self.loaded > self.left
        return prompt.upper()


async def test_a_class_is_loaded_once_per_worker_and_left_when_that_is_drained() -> None:
    class Loaded(Model):
        pass

    async with running(actor(Loaded)) as run:
        results = [await job.result(5) for job in await submit_all(run, ["a", "b", "c"])]
        during = Loaded.loaded, Loaded.left

    assert results == ["A", "B", "C"]
    assert during == (1, 0)
    assert (Loaded.loaded, Loaded.left) == (1, 1)


async def test_each_worker_has_an_object_of_its_own() -> None:
    class Loaded(Model):
        pass

    app = App([actor(Loaded)])

    async with app.worker("memory://models"), app.worker("memory://models"):
        during = Loaded.loaded

    assert during == 2
    assert Loaded.left == 2


async def test_a_class_that_cannot_be_entered_is_raised_as_it_is_and_what_was_entered_is_left() -> (
    None
):
    class First(Model):
        pass

    class Broken(Model):
        async def __aenter__(self) -> Self:
            raise MemoryError("no room on the GPU")

    app = App([actor(First), actor(Broken)])

    with pytest.raises(MemoryError, match="no room on the GPU"):
        async with app.worker("memory://broken"):
            pytest.fail("it has not started")

    assert (First.loaded, First.left) == (1, 1)


async def test_an_instance_is_an_actor_with_settings() -> None:
    class Scale:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        async def __call__(self, number: int) -> int:
            return number * self.factor

    async with running(actor(name="by-three")(Scale(3)), actor(name="by-ten")(Scale(10))) as run:
        result = await run.result(2)

    assert result == 60


async def test_a_class_may_be_called_in_a_thread() -> None:
    class Where:
        def __call__(self, _: None) -> str:
            return threading.current_thread().name

    async with running(actor(Where)) as run:
        result = await run.result(None)

    assert result != threading.current_thread().name


async def test_each_item_of_a_batch_has_an_outcome_of_its_own() -> None:
    attempts: dict[str, int] = {}

    @actor(batch=Batch(max_size=4, max_wait_s=0.01), retry=AGAIN)
    async def embed(texts: list[str]) -> list[str | Exception]:
        for text in texts:
            attempts[text] = attempts.get(text, 0) + 1
        return [_embedded(text, attempts[text]) for text in texts]

    async with running(embed) as run:
        jobs = await submit_all(run, ["fine", "flaky", "bad", "refused"])
        results = [await job.result(5) for job in jobs[:2]]
        found = {letter.id: letter.error for letter in await run.letters(2)}

    assert results == ["FINE", "FLAKY"]
    errors = [found[job.id] for job in jobs[2:]]
    assert [(e.type, e.message, e.attempts) for e in errors if e] == [
        ("ValueError", "bad", 3),
        ("Reject", "refused", 1),
    ]


def _embedded(text: str, attempt: int) -> str | Exception:
    match text:
        case "flaky" if attempt == 1:
            return Retry("not yet", after_s=0)
        case "bad":
            return ValueError("bad")
        case "refused":
            return Reject("refused")
        case _:
            return text.upper()


async def test_a_batch_may_run_in_a_thread_and_take_the_contexts() -> None:
    @actor(batch=Batch(max_size=3, max_wait_s=5))
    def embed(texts: list[str], ctx: list[Context]) -> list[str]:
        return [f"{text} {len(texts)} {c.headers['n']}" for text, c in zip(texts, ctx, strict=True)]

    async with running(embed) as run:
        jobs = [await run.submit(text, headers={"n": text * 2}) for text in "abc"]
        results = [await job.result(5) for job in jobs]

    assert results == ["a 3 aa", "b 3 bb", "c 3 cc"]


async def test_an_item_of_a_batch_may_end_its_route() -> None:
    @actor(batch=Batch(max_size=2, max_wait_s=5))
    async def sift(numbers: list[int]) -> list[int | None]:
        return [number if number > 0 else None for number in numbers]

    @actor
    async def negate(number: int) -> int:
        return -number

    async with running(sift, negate) as run:
        results = [await job.result(5) for job in await submit_all(run, [3, -3])]

    assert results == [-3, -3]


async def test_a_payload_of_another_type_fails_before_the_handler_runs() -> None:
    ran: list[Any] = []

    @actor
    async def anything(value: Any) -> Any:
        return value

    @actor
    async def count(number: int) -> None:
        ran.append(number)

    async with running(anything, count) as run:
        error = await run.error({"number": "three"})

    assert error.startswith("PayloadError: the payload does not fit count: Expected `int`")
    assert not ran


async def test_what_cannot_be_decoded_is_kept_with_its_bytes() -> None:
    @actor
    async def idle(_: None) -> None:
        pass

    async with running(idle) as run:
        await run.transport.emit(Send("idle", Message(b"\xffno envelope")))
        (letter,) = await letters(run.transport)

    assert letter.error is not None
    assert letter.error.type == "DecodeError"
    assert msgspec.msgpack.decode(letter.payload) == b"\xffno envelope"
