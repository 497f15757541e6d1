"""Messages that gave up: look at them, run them again, or drop them.

They are on the queue `asyafw.events.DEAD_LETTERS`.
To look at one is to receive it and to release it again,
so that two who look at the same time see different ones.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

import anyio
from msgspec import Struct
from msgspec.structs import replace

from asyafw._outcome import UNDECODABLE
from asyafw.envelope import (
    DECODING_ERRORS,
    MSGPACK,
    Codec,
    Envelope,
    Failure,
    decode_envelope,
    encode_envelope,
)
from asyafw.events import DEAD_LETTERS
from asyafw.exceptions import DecodeError, TransportError
from asyafw.transport import Delivery, Message, Out, Send, Transport

__all__ = ["DeadLetter", "Replayed", "Selection", "browse", "discard", "find", "replay"]

# How long to wait for messages that the queue is said to hold; somebody else may be faster.
_PATIENCE_S = 2.0
_AT_ONCE = 100
_RELEASE_S = 5.0


class DeadLetter(Struct, frozen=True, eq=False):
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
        """Whether it can be run again, which bytes that nobody can read cannot."""
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
        except DECODING_ERRORS as error:
            raise DecodeError(f"the payload cannot be decoded: {error}") from error


class Selection(Struct, frozen=True):
    """Which dead letters: those of these ids, or all; of one actor, or all."""

    ids: frozenset[str] | None = None
    actor: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is among them."""
        wanted = self.ids is None or letter.id in self.ids
        return wanted and self.actor in (None, letter.actor)

    def is_complete(self, found: int) -> bool:
        """Tell whether there can be no more of them, once so many are found."""
        return self.ids is not None and found >= len(self.ids)


class Replayed(Struct, frozen=True):
    """The ids of the letters that were sent again, and of those that nobody could read."""

    sent: Sequence[str]
    refused: Sequence[str]


async def browse(transport: Transport, limit: int) -> list[DeadLetter]:
    """Look at up to `limit` dead letters, the oldest first.

    Raises:
        TransportError: the transport failed.
    """
    async with _Letters(transport, limit) as letters:
        return [letter async for letter in letters]


async def find(transport: Transport, letter_id: str) -> DeadLetter | None:
    """Look for the dead letter of an id.

    Raises:
        TransportError: the transport failed.
    """
    async with _Letters(transport) as letters:
        async for letter in letters:
            if letter.id == letter_id:
                return letter
    return None


async def replay(transport: Transport, selection: Selection) -> Replayed:
    """Send dead letters to their actors again, as at their first attempt there.

    A deadline that has passed is dropped, because with it they would only fail again.

    Raises:
        TransportError: the transport failed; some may have been sent.
    """
    sent: list[str] = []
    refused: list[str] = []
    async with _Letters(transport) as letters:
        async for letter in letters:
            if not selection.takes(letter):
                continue
            if letter.envelope is None or not letter.replayable:
                refused.append(letter.id)
            elif await letters.settle(letter, _again(letter.envelope, letter.codec, time.time())):
                sent.append(letter.id)
            if selection.is_complete(len(sent) + len(refused)):
                break
    return Replayed(sent, refused)


async def discard(transport: Transport, selection: Selection) -> list[str]:
    """Drop dead letters for good, and give their ids.

    Raises:
        TransportError: the transport failed; some may have been dropped.
    """
    dropped: list[str] = []
    async with _Letters(transport) as letters:
        async for letter in letters:
            if selection.takes(letter) and await letters.settle(letter):
                dropped.append(letter.id)
            if selection.is_complete(len(dropped)):
                break
    return dropped


class _Letters:
    """The dead letters that are there when it is opened, each once.

    What is not settled is handed back when it is left.
    """

    def __init__(self, transport: Transport, most: int | None = None) -> None:
        self._transport = transport
        self._most = most
        self._held: dict[DeadLetter, Delivery] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._consumer = await self._stack.enter_async_context(
            self._transport.consume(DEAD_LETTERS)
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Also when everything around is cancelled.
        with anyio.move_on_after(_RELEASE_S, shield=True):
            await self._release()
        await self._stack.aclose()

    async def __aiter__(self) -> AsyncIterator[DeadLetter]:
        # Those that come meanwhile are left out: some may be the very ones that were replayed.
        left = (await self._transport.lag(DEAD_LETTERS)).backlog
        left = left if self._most is None else min(left, self._most)
        while left > 0:
            deliveries = await self._receive(min(left, _AT_ONCE))
            if not deliveries:
                return
            left -= len(deliveries)
            letters = [_read(delivery.message.body) for delivery in deliveries]
            self._held.update(zip(letters, deliveries, strict=True))
            for letter in letters:
                yield letter

    async def settle(self, letter: DeadLetter, *out: Out) -> bool:
        """Settle a letter; False if somebody else has it by now."""
        return await self._held.pop(letter).settle(*out)

    async def _receive(self, limit: int) -> Sequence[Delivery]:
        with anyio.move_on_after(_PATIENCE_S):
            return await self._consumer.receive(limit)
        return ()

    async def _release(self) -> None:
        for delivery in self._held.values():
            try:
                await delivery.release()
            except TransportError:
                return  # closing the consumer hands the rest back


def _read(body: bytes) -> DeadLetter:
    try:
        envelope, codec = decode_envelope(body)
    except DecodeError:
        return DeadLetter(hashlib.blake2b(body, digest_size=16).hexdigest(), None, MSGPACK, body)
    original: Any = None
    if envelope.headers == UNDECODABLE:
        with suppress(*DECODING_ERRORS):
            original = codec.decode(envelope.payload)
    is_original = isinstance(original, bytes)
    return DeadLetter(envelope.id, envelope, codec, original if is_original else None)


def _again(envelope: Envelope, codec: Codec, now: float) -> Send:
    deadline_at = envelope.deadline_at
    if deadline_at is not None and deadline_at <= now:
        deadline_at = None
    again = replace(
        envelope, attempt=1, error=None, enqueued_at=now, deadline_at=deadline_at, turns={}
    )
    return Send(envelope.route.curr, Message(encode_envelope(again, codec)))
