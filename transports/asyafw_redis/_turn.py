"""Whose turn it is to take what is delivered alone."""

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Suspecting", "Turn"]


class Suspecting(Protocol):
    """A consumer, as far as it has to do with what may kill its worker."""

    @property
    def wants_alone(self) -> bool:
        """Whether there is something for it to take alone, and somebody who waits for that."""
        ...

    def look(self) -> None:
        """Look again for what is to be taken."""
        ...


class Turn:
    """Sees that all consumers of a process have one such message between them, at most.

    If it kills the process, nothing else is to blame; what waits for its turn is not in hand.
    """

    def __init__(self, consumers: Iterable[Suspecting]) -> None:
        self._consumers = consumers
        self._holder: Suspecting | None = None
        self._last: Suspecting | None = None

    def take(self, consumer: Suspecting) -> bool:
        """Tell whether it is a consumer's turn; it is until it passes it on."""
        if self._holder is None and not (self._last is consumer and self._others_wait(consumer)):
            self._holder = consumer
        return self._holder is consumer

    def _others_wait(self, consumer: Suspecting) -> bool:
        return any(each.wants_alone for each in self._consumers if each is not consumer)

    def pass_on(self, consumer: Suspecting) -> None:
        """Let others have their turn, unless it is theirs already."""
        if self._holder is consumer:
            self._holder, self._last = None, consumer
            for each in self._consumers:
                if each.wants_alone:
                    each.look()
