"""A message on a queue or in hand."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from msgspec import Struct

from asyafw.transport import Message, Out

__all__ = ["Delivery", "Lease", "Parts"]

Parts: TypeAlias = tuple[bytes | None, ...]


class Delivery(Struct, eq=False):
    """One message, until it is settled or goes back to its queue as a new object.

    `number` is its place in the order of arrival, `ready_at` the time of that.
    It is a Struct, although no value, because one is made for every message: its constructor is C.
    """

    message: Message
    parts: Parts | None
    number: int
    ready_at: float
    attempt: int = 0
    lease: "Lease | None" = None

    async def settle(self, *out: Out) -> bool:
        """Acknowledge and emit in one step, which never waits: not even for room on a full queue.

        If it did, actors that send to each other could wait for each other for ever.

        Raises:
            ValueError: a part does not fit its join; nothing has happened.
        """
        lease = self.lease
        if lease is None or self not in lease.held:
            return False
        if out:
            lease.commit(out)
        del lease.held[self]
        return True

    async def release(self) -> None:
        lease = self.lease
        if lease is not None and self in lease.held:
            del lease.held[self]
            lease.put_back(self, self.attempt - 1)


class Lease:
    """What one consumer has in hand, in the order in which it was delivered."""

    __slots__ = ("commit", "held", "put_back")

    def __init__(
        self,
        commit: Callable[[Sequence[Out]], None],
        put_back: Callable[[Delivery, int], None],
    ) -> None:
        self.commit = commit
        self.put_back = put_back
        self.held: dict[Delivery, None] = {}

    def drop(self) -> None:
        """Put everything back; whoever still settles it is told that it was too late."""
        held, self.held = self.held, {}
        for delivery in held:
            self.put_back(delivery, delivery.attempt)
