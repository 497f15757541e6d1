"""Messages that gave up: look at them, run them again, or drop them.

They are on the queue `asyafw.events.DEAD_LETTERS`.
To look at one is to receive it and to release it again,
so that two who look at the same time see different ones.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import anyio
from msgspec import MsgspecError, Struct
from msgspec.structs import replace

from asyafw._outcome import UNDECODABLE
from asyafw.envelope import MSGPACK, Codec, Envelope, Failure, decode_envelope, encode_envelope
from asyafw.events import DEAD_LETTERS
from asyafw.exceptions import DecodeError, TransportError
from asyafw.transport import Consumer, Delivery, Message, Out, Send, Transport

__all__ = ["DeadLetter", "Selection", "browse", "discard", "find", "replay"]

# How long to wait for messages that the queue is said to hold; somebody else may be faster.
_PATIENCE_S = 2.0
_AT_ONCE = 100
_RELEASE_S = 5.0

_Decision: TypeAlias = Callable[["DeadLetter"], Sequence[Out] | None]
"""Gives what a letter is settled with; None to hand it back."""


class DeadLetter(Struct, frozen=True):
    """A message that gave up.

    `envelope` is None for bytes that nobody can read; these are in `original` then,
    and the `id` is made of them unless a worker gave them one.
    """

    id: str
    envelope: Envelope | None
    codec: Codec
    original: bytes | None = None

    @property
    def error(self) -> Failure | None:
        """Why it gave up, as far as it is known."""
        return None if self.envelope is None else self.envelope.error

    @property
    def actor(self) -> str | None:
        """The actor that gave it up, and that gets it again."""
        return None if self.envelope is None else self.envelope.route.curr

    @property
    def replayable(self) -> bool:
        """Whether it can be run again: bytes that nobody can read cannot."""
        return self.original is None

    def payload(self) -> Any:
        """Decode the payload; None where it is in a store.

        Raises:
            DecodeError: it cannot be decoded.
        """
        if self.envelope is None or self.original is not None:
            return self.original
        try:
            return self.codec.decode(self.envelope.payload)
        except (MsgspecError, RecursionError, ValueError, OverflowError) as error:
            raise DecodeError(f"the payload cannot be decoded: {error}") from error


class Selection(Struct, frozen=True):
    """Which dead letters: those of these ids, or all; of one actor, or all."""

    ids: frozenset[str] | None = None
    actor: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is among them."""
        wanted = self.ids is None or letter.id in self.ids
        return wanted and self.actor in (None, letter.actor)


async def browse(transport: Transport, limit: int) -> list[DeadLetter]:
    """Look at up to `limit` dead letters, the oldest first.

    Raises:
        TransportError: the transport failed.
    """
    seen: list[DeadLetter] = []

    def look(letter: DeadLetter) -> None:
        seen.append(letter)

    await _go_through(transport, look, most=limit)
    return seen


async def find(transport: Transport, id_: str) -> DeadLetter | None:
    """Look for the dead letter of an id.

    Raises:
        TransportError: the transport failed.
    """
    found: list[DeadLetter] = []

    def look(letter: DeadLetter) -> None:
        if letter.id == id_:
            found.append(letter)

    await _go_through(transport, look, until=lambda: bool(found))
    return found[0] if found else None


async def replay(transport: Transport, selection: Selection) -> tuple[list[str], list[str]]:
    """Send dead letters to their actors again, as at their first attempt there.

    A deadline that has passed is dropped, because with it they would only fail again.
    Gives the ids of those that were sent, and of those that cannot be.

    Raises:
        TransportError: the transport failed; letters that it was about to settle may remain.
    """
    refused: list[str] = []

    def decide(letter: DeadLetter) -> Sequence[Out] | None:
        if letter.envelope is None or not letter.replayable:
            refused.append(letter.id)
            return None
        return (_again(letter.envelope, letter.codec, time.time()),)

    return await _settle(transport, selection, decide, refused), refused


async def discard(transport: Transport, selection: Selection) -> list[str]:
    """Drop dead letters for good, and give their ids.

    Raises:
        TransportError: the transport failed; letters that it was about to settle may remain.
    """
    return await _settle(transport, selection, lambda _letter: (), ())


async def _settle(
    transport: Transport, selection: Selection, decide: _Decision, refused: Collection[str]
) -> list[str]:
    settled: list[str] = []

    def all_found() -> bool:
        return selection.ids is not None and len(settled) + len(refused) >= len(selection.ids)

    def decide_if_wanted(letter: DeadLetter) -> Sequence[Out] | None:
        return decide(letter) if selection.takes(letter) else None

    await _go_through(transport, decide_if_wanted, settled=settled.append, until=all_found)
    return settled


async def _go_through(
    transport: Transport,
    decide: _Decision,
    *,
    most: int | None = None,
    settled: Callable[[str], None] = lambda _id: None,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Receive each dead letter that is there now, once, and settle it or hand it back at the end."""
    left = (await transport.lag(DEAD_LETTERS)).backlog
    left = left if most is None else min(left, most)
    kept: list[Delivery] = []
    async with transport.consume(DEAD_LETTERS) as consumer:
        try:
            while left and not until():
                deliveries = await _receive(consumer, min(left, _AT_ONCE))
                if not deliveries:
                    return
                left -= len(deliveries)
                kept.extend(deliveries)
                for delivery in deliveries:
                    letter = _read(delivery)
                    out = None if until() else decide(letter)
                    if out is None:
                        continue
                    kept.remove(delivery)
                    if await delivery.settle(*out):
                        settled(letter.id)
        finally:
            await _release(kept)


async def _receive(consumer: Consumer, limit: int) -> Sequence[Delivery]:
    with anyio.move_on_after(_PATIENCE_S):
        return await consumer.receive(limit)
    return ()


async def _release(kept: Sequence[Delivery]) -> None:
    """Hand letters back, also when everything around is cancelled or has failed."""
    with anyio.move_on_after(_RELEASE_S, shield=True):
        for delivery in kept:
            try:
                await delivery.release()
            except TransportError:
                return  # closing the consumer hands them back as well


def _read(delivery: Delivery) -> DeadLetter:
    body = delivery.message.body
    try:
        envelope, codec = decode_envelope(body)
    except DecodeError:
        return DeadLetter(hashlib.blake2b(body, digest_size=16).hexdigest(), None, MSGPACK, body)
    original = codec.decode(envelope.payload) if envelope.headers == UNDECODABLE else None
    if not isinstance(original, bytes):
        return DeadLetter(envelope.id, envelope, codec)
    return DeadLetter(envelope.id, envelope, codec, original)


def _again(envelope: Envelope, codec: Codec, now: float) -> Send:
    deadline_at = envelope.deadline_at
    if deadline_at is not None and deadline_at <= now:
        deadline_at = None
    again = replace(envelope, attempt=1, error=None, enqueued_at=now, deadline_at=deadline_at)
    return Send(envelope.route.curr, Message(encode_envelope(again, codec)))
