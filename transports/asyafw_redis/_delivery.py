"""A message in hand."""

import struct
from typing import Protocol, TypeAlias

from msgspec import Struct

from asyafw.transport import Message, Out
from asyafw_redis._commits import Commits

__all__ = ["Delivery", "Holder", "Parts", "read_fields"]

Parts: TypeAlias = tuple[bytes | None, ...]

_LENGTH = struct.Struct(">I")
_MISSING = 0xFFFFFFFF


class Holder(Protocol):
    """The consumer that a message was delivered to."""

    name: str
    commits: Commits
    alone: "dict[bytes, Delivery]"

    def take_another(self) -> None:
        """Be told that what was delivered alone is no longer in hand."""
        ...


class Delivery(Struct, eq=False):
    """An entry in hand: `held` has it for as long as its consumer owns it, as far as we know.

    It is a Struct, although no value, because one is made for every message: its constructor is C.
    """

    message: Message
    parts: Parts | None
    attempt: int
    stream: str
    entry: bytes
    held: "dict[bytes, Delivery]"
    holder: Holder

    async def settle(self, *out: Out) -> bool:
        """Acknowledge and emit in one step of the server.

        Raises:
            TransportError: it is unknown whether the step happened, or the server refuses it.
            ValueError: a part does not fit its join, or a message is larger than Redis takes.
        """
        held, entry, holder = self.held, self.entry, self.holder
        if entry not in held:
            return False
        settled = await holder.commits.commit(out, self.stream, entry, holder.name)
        self.let_go()
        return settled

    async def release(self) -> None:
        if self.entry in self.held:
            await self.holder.commits.release(self.stream, self.entry)
            self.let_go()

    def let_go(self) -> None:
        """Note that it is not in hand any more."""
        self.held.pop(self.entry, None)
        if self.held is self.holder.alone:
            self.holder.take_another()


def read_fields(fields: list[bytes]) -> tuple[Message, Parts | None, int]:
    """Read an entry: the message, the parts if it is a join, and which delivery this is.

    What somebody else has put there is not refused: its reader decides what becomes of it.
    """
    if len(fields) == 2:  # noqa: PLR2004 — the body alone, as most have
        return Message(fields[1]), None, 1
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    key = found.get(b"k")
    message = Message(found.get(b"b", b""), None if key is None else key.decode(errors="replace"))
    try:
        parts = _parts(found[b"p"]) if b"p" in found else None
        return message, parts, int(found.get(b"a", 0)) + 1
    except (ValueError, struct.error):
        return message, None, 1


def _parts(joined: bytes) -> Parts:
    """Take the parts of a join apart, each of which has its length in front."""
    parts: list[bytes | None] = []
    at = 0
    while at < len(joined):
        (size,) = _LENGTH.unpack_from(joined, at)
        at += _LENGTH.size
        if size == _MISSING:
            parts.append(None)
        else:
            parts.append(joined[at : at + size])
            at += size
    return tuple(parts)
