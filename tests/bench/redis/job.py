"""What a contestant is told to do, and what its messages are."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

from msgspec import Struct

__all__ = ["SLOTS", "Item", "Job"]

SLOTS: Final = 100
"""How many handlers a worker may run at a time."""

_TEXT: Final = "x" * 240  # makes an item of about 300 bytes
_AT_ONCE: Final = 500

Item: TypeAlias = dict[str, Any]
"""`number`, `sent_at` (seconds of the machine's monotonic clock) and `text`."""


class Job(Struct, frozen=True):
    """One run of one contestant.

    Messages begin at the first of `steps`, each of which has a handler and, if possible, a queue
    of its own. Every handler tells the meter, the last one after waiting for `pause_s` seconds.
    `count` messages are sent, one `every_s` seconds, or as fast as possible if that is zero;
    the first `warm_up` that handlers see are not measured.
    """

    url: str
    steps: tuple[str, ...]
    variant: str = ""
    count: int = 0
    warm_up: int = 0
    every_s: float = 0
    pause_s: float = 0
    is_profiled: bool = False

    def following(self, step: str) -> str | None:
        """Name the step behind this one."""
        later = self.steps[self.steps.index(step) + 1 :]
        return later[0] if later else None

    async def batches(self) -> AsyncIterator[list[Item]]:
        """Make the items to send, when it is their time."""
        size = 1 if self.every_s else _AT_ONCE
        began_at = time.monotonic()
        for begin in range(0, self.count, size):
            await asyncio.sleep(max(0.0, began_at + begin * self.every_s - time.monotonic()))
            yield [_item(number) for number in range(begin, min(begin + size, self.count))]


def _item(number: int) -> Item:
    return {"number": number, "sent_at": time.monotonic(), "text": _TEXT}
