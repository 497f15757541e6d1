from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from asyafw import (
    App,
    Client,
    Context,
    JobFailed,
    Join,
    Limits,
    Retry,
    RetryPolicy,
    actor,
    fixed,
)
from asyafw._outcome import addressed
from asyafw.blobs import Blobs
from asyafw.envelope import JSON, MSGPACK, Claim, Envelope, decode_envelope, encode_envelope
from asyafw.events import Event
from asyafw.exceptions import BlobError, BlobUnavailable, LimitExceeded
from asyafw.memory import MemoryTransport
from asyafw.transport import Message, Send
from tests.integration.running import PATIENCE_S, Running, events, running

LIMIT = 1_000
LIMITS = Limits(payload_bytes=LIMIT)
LARGE = "x" * 2 * LIMIT
AGAIN = RetryPolicy(backoff=fixed(0))


@actor
async def same(text: str) -> str:
    return text


@actor
async def double(text: str) -> str:
    return text + text


@actor
async def measure(text: str) -> int:
    return len(text)


@actor
async def letters(text: str) -> AsyncIterator[str]:
    """Make a large text of each letter."""
    for letter in text:
        yield letter * 2 * LIMIT


@actor(join=Join())
async def concatenate(texts: list[str]) -> str:
    return "".join(texts)


@actor(name="concatenate", join=Join(partial="pass"))
async def concatenate_some(texts: list[str | None], ctx: Context) -> Any:
    return [text and text[0] for text in texts], {
        place: failure.type for place, failure in ctx.failures.items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    return Blobs(folder.as_uri())


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def take(run: Running, queue: str) -> Message:
    """Take a message off a queue that nobody serves."""
    async with run.transport.consume(queue) as consumer:
        (delivery,) = await consumer.receive(1)
        await delivery.settle()
    return delivery.message


async def end(run: Running, payload: Any, *route: str) -> Event:
    told: list[Event] = await events(await run.submit(payload, *route))
    return told[-1]


class TestTravelling:
    async def test_a_large_payload_travels_as_a_reference(self, blobs: Blobs, folder: Path) -> None:
        async with running(measure, blobs=blobs, limits=LIMITS, remote=["elsewhere"]) as run:
            await run.submit(LARGE, "elsewhere")
            message = await take(run, "elsewhere")

        envelope, _ = decode_envelope(message.body)
        (path,) = stored(folder)
        assert len(message.body) < LIMIT
        assert envelope.payload == msgspec.Raw(MSGPACK.null)
        assert envelope.claim is not None
        assert envelope.claim.size_bytes == len(MSGPACK.encode(LARGE))
        assert path.read_bytes() == MSGPACK.encode(LARGE)

    async def test_it_is_there_again_for_every_actor(self, blobs: Blobs) -> None:
        async with running(same, double, measure, blobs=blobs, limits=LIMITS) as run:
            result = await run.result(LARGE, "same", "double", "same", "measure")

        assert result == 2 * len(LARGE)

    @pytest.mark.parametrize(("letters_", "files"), [(LIMIT - 3, 0), (LIMIT - 2, 1)])
    async def test_what_is_just_small_enough_travels_itself(
        self, blobs: Blobs, folder: Path, letters_: int, files: int
    ) -> None:
        async with running(same, blobs=blobs, limits=LIMITS) as run:
            result = await run.result("x" * letters_)

        assert len(result) == letters_
        assert len(MSGPACK.encode("x" * (LIMIT - 3))) == LIMIT
        assert len(stored(folder)) == files

    async def test_a_large_result_of_a_job_is_fetched_by_its_client(self, blobs: Blobs) -> None:
        async with running(double, blobs=blobs, limits=LIMITS) as run:
            job = await run.submit("x" * (LIMIT - 10))
            result = await job.result(PATIENCE_S)
            told = (await events(job))[-1]

        assert result == "x" * 2 * (LIMIT - 10)
        assert told.claim is not None

    async def test_json_travels_as_json(self, blobs: Blobs, folder: Path) -> None:
        app = App([same, double], blobs=blobs, limits=LIMITS)
        service = MemoryTransport()
        catalogue = replace(app.connect(service).catalogue, codec=JSON)
        async with app.worker(service.share()), Client(service, catalogue) as client:
            job = await client.submit(["double", "same"], LARGE)
            result = await job.result(PATIENCE_S)

        assert result == LARGE + LARGE
        assert {path.read_bytes()[:1] for path in stored(folder)} == {b'"'}

    async def test_a_handler_that_gives_nothing_ends_with_the_reference(self, blobs: Blobs) -> None:
        @actor
        async def store(text: str) -> None:
            del text

        async with running(store, blobs=blobs, limits=LIMITS) as run:
            job = await run.submit(LARGE)
            result = await job.result(PATIENCE_S)

        assert result == LARGE

    async def test_a_message_is_retried_with_its_reference(self, blobs: Blobs) -> None:
        claims: list[Claim | None] = []

        @actor(retry=AGAIN)
        async def flaky(text: str, ctx: Context) -> str:
            claims.append(ctx.envelope.claim)
            if ctx.attempt == 1:
                raise Retry(after_s=0)
            return text

        async with running(flaky, blobs=blobs, limits=LIMITS) as run:
            result = await run.result(LARGE)

        assert result == LARGE
        assert claims[0] is not None
        assert claims[0] == claims[1]

    async def test_a_message_that_is_submitted_once_may_be_large(self, blobs: Blobs) -> None:
        async with running(measure, blobs=blobs, limits=LIMITS) as run:
            jobs = [await run.submit(LARGE, idempotency_key="k") for _ in range(2)]
            results = [await job.result(PATIENCE_S) for job in jobs]

        assert results == [len(LARGE)] * 2
        assert run.outcomes("measure") == {"finished": 1}


class TestFanningOut:
    async def test_large_children_meet(self, blobs: Blobs) -> None:
        async with running(letters, same, concatenate, measure, blobs=blobs, limits=LIMITS) as run:
            result = await run.result("abc", "letters", "same", "concatenate", "measure")

        assert result == 3 * 2 * LIMIT

    async def test_large_results_of_children_are_a_list(self, blobs: Blobs) -> None:
        async with running(letters, same, blobs=blobs, limits=LIMITS) as run:
            at_their_end = await run.result("ab", "letters", "same")
            at_once = await run.result("ab", "letters")

        assert at_their_end == at_once == ["a" * 2 * LIMIT, "b" * 2 * LIMIT]

    async def test_a_join_of_large_siblings_is_retried_by_reference(self, blobs: Blobs) -> None:
        seen: list[Envelope] = []

        @actor(name="concatenate", join=Join(), retry=AGAIN)
        async def concatenate_later(texts: list[str], ctx: Context) -> int:
            seen.append(ctx.envelope)
            if ctx.attempt == 1:
                raise OSError("busy")
            return len("".join(texts))

        async with running(letters, concatenate_later, blobs=blobs, limits=LIMITS) as run:
            result = await run.result("abc")

        first, again = seen
        assert result == 3 * 2 * LIMIT
        assert len(first.payload) > LIMIT
        assert (len(again.payload), again.joined) == (1, True)
        assert again.claim is not None

    async def test_a_join_of_large_siblings_is_buried_by_reference(self, blobs: Blobs) -> None:
        @actor(name="concatenate", join=Join())
        async def refuse(texts: list[str]) -> str:
            raise LimitExceeded(f"{len(texts)} are too many")

        async with running(letters, refuse, blobs=blobs, limits=LIMITS) as run:
            await end(run, "ab")
            (letter,) = await run.letters()

        assert letter.claim is not None
        assert MSGPACK.decode(await blobs.get(letter.claim)) == ["a" * 2 * LIMIT, "b" * 2 * LIMIT]

    async def test_a_join_that_cannot_reach_the_store_is_retried_whole(self, folder: Path) -> None:
        store = Shaky(folder)

        @actor(name="concatenate", join=Join(), retry=AGAIN)
        async def concatenate_later(texts: list[str], ctx: Context) -> int:
            if ctx.attempt == 1:
                store.failing_puts = 1
                raise OSError("busy")
            return len("".join(texts))

        async with running(letters, concatenate_later, blobs=store, limits=LIMITS) as run:
            assert await run.result("abc") == 3 * 2 * LIMIT


class TestWithoutAStore:
    async def test_a_large_payload_is_refused_where_it_is_submitted(self) -> None:
        async with running(measure, limits=LIMITS) as run:
            with pytest.raises(
                LimitExceeded, match=r"the payload has 2003 bytes, more than the 10"
            ):
                await run.submit(LARGE)

    async def test_a_large_result_fails_its_message_at_once(self) -> None:
        async with running(double, measure, limits=LIMITS) as run:
            job = await run.submit("x" * (LIMIT - 10))
            with pytest.raises(JobFailed) as raised:
                await job.result(PATIENCE_S)
            (letter,) = await run.letters()

        assert raised.value.error.type == "LimitExceeded"
        assert "set App(blobs=...)" in raised.value.error.message
        assert raised.value.error.attempts == 1
        assert MSGPACK.decode(letter.payload) == "x" * (LIMIT - 10)

    async def test_a_reference_cannot_be_followed(self, blobs: Blobs) -> None:
        with_store = App([measure, same], blobs=blobs, limits=LIMITS)
        async with (
            running(measure, limits=LIMITS, remote=["same"]) as run,
            with_store.connect(run.transport.share()) as client,
        ):
            job = await client.submit(["measure"], LARGE)
            with pytest.raises(JobFailed, match=r"BlobError in measure: .*App\(blobs=...\) is not"):
                await job.result(PATIENCE_S)

    async def test_a_client_cannot_fetch_a_large_result(self, blobs: Blobs) -> None:
        without = App([double], limits=LIMITS)
        async with (
            running(double, blobs=blobs, limits=LIMITS) as run,
            without.connect(run.transport.share()) as client,
        ):
            job = await client.submit(["double"], "x" * (LIMIT - 10))
            with pytest.raises(BlobError, match=r"the result is in a store, and App\(blobs=...\)"):
                await job.result(PATIENCE_S)


class Shaky(Blobs):
    """A store that is away for so many calls."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri())
        self.failing_puts = self.failing_gets = 0

    async def put(self, data: bytes) -> Claim:
        if self.failing_puts:
            self.failing_puts -= 1
            raise BlobUnavailable("the store is away")
        return await super().put(data)

    async def get(self, claim: Claim) -> bytes:
        if self.failing_gets:
            self.failing_gets -= 1
            raise BlobUnavailable("the store is away")
        return await super().get(claim)


class TestAStoreThatFails:
    @pytest.mark.parametrize("damage", ["changed", "gone"])
    async def test_a_damaged_payload_fails_its_message(
        self, blobs: Blobs, folder: Path, damage: str
    ) -> None:
        async with running(measure, blobs=blobs, limits=LIMITS, remote=["elsewhere"]) as run:
            job = await run.submit(LARGE, "elsewhere", "measure")
            message = await take(run, "elsewhere")
            harm(folder, damage)
            await run.transport.emit(send_on(message))

            with pytest.raises(JobFailed, match="BlobError in measure: blob "):
                await job.result(PATIENCE_S)
            (letter,) = await run.letters()

        assert letter.claim == decode_envelope(message.body)[0].claim, "it can be replayed"

    @pytest.mark.parametrize("damage", ["changed", "gone"])
    async def test_a_damaged_result_is_refused_by_the_client(
        self, blobs: Blobs, folder: Path, damage: str
    ) -> None:
        async with running(double, blobs=blobs, limits=LIMITS) as run:
            job = await run.submit("x" * (LIMIT - 10))
            told = (await events(job))[-1]
            harm(folder, damage)

            with pytest.raises(BlobError):
                await job.result(PATIENCE_S)

        assert told.kind == "succeeded"
        assert told.payload is not UNSET

    async def test_a_store_that_is_away_for_a_while_is_asked_again(self, folder: Path) -> None:
        store = Shaky(folder)
        runs: list[int] = []

        @actor(name="double", retry=AGAIN)
        async def double_again(text: str, ctx: Context) -> str:
            runs.append(ctx.attempt)
            store.failing_puts = 1 if len(runs) == 1 else 0
            return text + text

        async with running(double_again, blobs=store, limits=LIMITS) as run:
            job = await run.submit(LARGE)
            store.failing_gets = 1
            result = await job.result(PATIENCE_S)

        assert result == LARGE + LARGE
        assert runs == [2, 3], "before the first run the payload could not be fetched"

    async def test_a_join_waits_for_a_store_that_is_away(self, folder: Path) -> None:
        store = Shaky(folder)
        store.failing_gets = 1

        async with running(letters, concatenate, blobs=store, limits=LIMITS) as run:
            result = await run.result("ab")

        assert result == "a" * 2 * LIMIT + "b" * 2 * LIMIT
        assert run.outcomes("concatenate") == {"finished": 1}


def send_on(message: Message) -> Send:
    """Hand a message on by hand, as `elsewhere` would."""
    envelope, codec = decode_envelope(message.body)
    onward = replace(envelope, route=envelope.route.advance())
    return Send(onward.route.curr, Message(encode_envelope(onward, codec)))


def harm(folder: Path, damage: str) -> None:
    """Change, or lose, all that is stored."""
    for path in stored(folder):
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"y" * path.stat().st_size)


@pytest.mark.parametrize("damage", ["changed", "gone"])
@pytest.mark.parametrize("partial", ["fail", "pass"])
async def test_a_join_of_a_sibling_that_cannot_be_fetched_ends(
    tmp_path: Path, damage: str, partial: Literal["fail", "pass"]
) -> None:
    @actor(name="concatenate", join=Join(partial=partial))
    async def counting(texts: list[str | None]) -> int:
        return len([text for text in texts if text is not None])

    blobs = Blobs(tmp_path.as_uri())
    async with running(letters, counting, blobs=blobs, limits=LIMITS, remote=["elsewhere"]) as run:
        job = await run.submit("ab", "letters", "elsewhere", "concatenate")
        children = [await take(run, "elsewhere") for _ in range(2)]
        harm(tmp_path, damage)

        for child in children:
            envelope, codec = decode_envelope(child.body)
            onward = replace(envelope, route=envelope.route.advance())
            await run.transport.emit(addressed(onward, codec))

        if partial == "pass":
            assert await job.result(1) == 0
        else:
            with pytest.raises(JobFailed, match="JoinFailed"):
                await job.result(1)


async def test_a_large_join_that_gives_nothing_ends_with_a_reference(tmp_path: Path) -> None:
    @actor(name="concatenate", join=Join())
    async def nothing(texts: list[str]) -> None:
        del texts

    async with running(letters, nothing, blobs=Blobs(tmp_path.as_uri()), limits=LIMITS) as run:
        told = (await events(await run.submit("ab")))[-1]

    assert told.claim is not None
