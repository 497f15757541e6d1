"""Joins: several parts that become one delivery."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from msgspec import Struct

from asyafw.memory._queue import Queue
from asyafw.memory._schedule import Schedule
from asyafw.transport import Message, Out, Part, check_parts, misfit

__all__ = ["Joins"]

_Name: TypeAlias = tuple[str, str]


class _Join(Struct, eq=False):
    """What is known of a join; `parts` is None once it was delivered."""

    total: int
    missing: int
    timeout_s: float
    parts: list[bytes | None] | None


class Joins:
    """The joins of all queues, by queue and name.

    One is known until twice its time-out has passed since its first part, complete or not,
    so that parts which come late are not taken for those of a new join.
    """

    def __init__(self, queues: defaultdict[str, Queue], schedule: Schedule) -> None:
        self._queues = queues
        self._schedule = schedule
        self._joins: dict[_Name, _Join] = {}

    def __len__(self) -> int:
        return len(self._joins)

    def check(self, outs: Sequence[Out]) -> None:
        """Refuse parts that do not fit their join.

        Raises:
            ValueError: an index, total or time-out makes no sense, or `total` is not the first's.
        """
        check_parts(outs)
        for part in outs:
            if isinstance(part, Part):
                known = self._joins.get((part.queue, part.join))
                if known is not None and part.total != known.total:
                    raise misfit(part, known.total)

    def add(self, part: Part, now: float) -> None:
        """Take a part that was checked."""
        name = part.queue, part.join
        join = self._joins.get(name)
        if join is None:
            parts: list[bytes | None] = [None] * part.total
            join = _Join(part.total, part.total, part.timeout_s, parts)
            self._joins[name] = join
            self._schedule.add(now + part.timeout_s, partial(self._time_out, name, join))
        if join.parts is not None and join.parts[part.index] is None:
            join.parts[part.index] = part.body
            join.missing -= 1
            if not join.missing:
                self._deliver(name, join, now)

    def _deliver(self, name: _Name, join: _Join, now: float) -> None:
        parts, join.parts = join.parts, None
        if parts is not None:
            queue, key = name
            self._queues[queue].put(Message(b"", key), tuple(parts), now)

    def _time_out(self, name: _Name, join: _Join, now: float) -> None:
        self._deliver(name, join, now)
        self._schedule.add(now + join.timeout_s, partial(self._forget, name))

    def _forget(self, name: _Name, _now: float) -> None:
        del self._joins[name]
