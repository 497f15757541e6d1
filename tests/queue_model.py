"""What a queue service does, simple enough to be seen to be right."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct

from asyafw.transport import Append, Lag, Message, Out, Part, Send

__all__ = ["Item", "Model", "Parts"]

Parts: TypeAlias = tuple[bytes | None, ...] | None


class Item(Struct, eq=False):
    """A message: `number` is its place in the order of arrival, `attempts` what it counts."""

    queue: str
    number: int
    ready_at: float
    message: Message
    parts: Parts
    attempts: int = 0


class _Join(Struct):
    """What is known of a join; `parts` is None once it was delivered."""

    total: int
    due: float
    number: int
    forget_at: float
    parts: dict[int, bytes] | None


class Model:
    """Everything in plain lists, searched and sorted whenever it is needed.

    A join is forgotten `slack_s` seconds after twice its time-out.
    """

    def __init__(self, queues: Iterable[str], slack_s: float = 0) -> None:
        self.queues = tuple(queues)
        self.now = 0.0
        self.waiting: list[Item] = []
        self.held: list[Item] = []
        self.arrived = dict.fromkeys(self.queues, 0)
        self.logs: defaultdict[str, list[bytes]] = defaultdict(list)
        self._slack_s = slack_s
        self._delayed: list[tuple[float, int, Send]] = []
        self._joins: dict[tuple[str, str], _Join] = {}
        self._scheduled = 0

    def accepts(self, outs: Sequence[Out]) -> bool:
        """Tell whether all parts fit their joins."""
        totals: dict[tuple[str, str], int] = {}
        for out in outs:
            if isinstance(out, Part):
                name = out.queue, out.join
                known = self._known(name)
                total = totals.setdefault(name, known.total if known else out.total)
                if out.total != total or not 0 <= out.index < total:
                    return False
        return True

    def emit(self, outs: Iterable[Out]) -> None:
        for out in outs:
            if isinstance(out, Append):
                self.logs[out.log].append(out.body)
            elif isinstance(out, Part):
                self._add(out)
            elif out.delay_s:
                self._delayed.append((self.now + out.delay_s, self._number(), out))
            else:
                self._put(out.queue, out.message)

    def advance(self, seconds: float) -> None:
        """Let time pass, and put everything on its queue when its time has come."""
        end = self.now + seconds
        while times := [due for queue in self.queues for due, *_ in self._due(queue, end)]:
            self.now = min(times)
            for queue in self.queues:
                self.move(queue)
        self.now = end

    def is_due(self, queue: str) -> bool:
        """Tell whether there is anything that `move` would put on the queue."""
        return bool(self._due(queue, self.now))

    def move(self, queue: str) -> None:
        """Put on the queue whose time has come."""
        for _, number, what in self._due(queue, self.now):
            if isinstance(what, Send):
                self._delayed = [each for each in self._delayed if each[1] != number]
                self._put(queue, what.message)
            else:
                self._complete((queue, what))

    def receive(self, queue: str, limit: int) -> list[Item]:
        waiting = sorted(self.waiting_on(queue), key=lambda item: item.number)
        for item in waiting[:limit]:
            self.take(item)
            item.attempts += 1
        return waiting[:limit]

    def waiting_on(self, queue: str) -> list[Item]:
        return [item for item in self.waiting if item.queue == queue]

    def take(self, item: Item) -> None:
        self.waiting.remove(item)
        self.held.append(item)

    def put_back(self, item: Item, attempts: int) -> None:
        self.held.remove(item)
        item.attempts = attempts
        self.waiting.append(item)

    def lag(self, queue: str) -> Lag:
        ready = [item.ready_at for item in self.waiting_on(queue)]
        return Lag(
            backlog=len(ready),
            in_flight=sum(item.queue == queue for item in self.held),
            delayed=sum(send.queue == queue for _, _, send in self._delayed),
            oldest_s=self.now - min(ready) if ready else None,
            arrived=self.arrived[queue],
        )

    def _put(self, queue: str, message: Message, parts: Parts = None) -> None:
        self.arrived[queue] += 1
        self.waiting.append(Item(queue, self.arrived[queue], self.now, message, parts))

    def _due(self, queue: str, until: float) -> list[tuple[float, int, Send | str]]:
        """What is to be put on the queue by then, in order: messages, and names of joins."""
        due: list[tuple[float, int, Send | str]] = [
            each for each in self._delayed if each[2].queue == queue and each[0] <= until
        ]
        for (of, name), join in self._joins.items():
            if of == queue and join.parts is not None and join.due <= until:
                due.append((join.due, join.number, name))
        return sorted(due, key=lambda each: each[:2])

    def _known(self, name: tuple[str, str]) -> _Join | None:
        join = self._joins.get(name)
        if join is None or (join.parts is None and join.forget_at <= self.now):
            return None
        return join

    def _add(self, part: Part) -> None:
        name = part.queue, part.join
        join = self._known(name)
        if join is None:
            due = self.now + part.timeout_s
            forget_at = due + part.timeout_s + self._slack_s
            join = self._joins[name] = _Join(part.total, due, self._number(), forget_at, {})
        if join.parts is not None:
            join.parts.setdefault(part.index, part.body)
            if len(join.parts) == join.total:
                self._complete(name)

    def _complete(self, name: tuple[str, str]) -> None:
        join = self._joins[name]
        parts, join.parts = join.parts, None
        if parts is not None:
            body = Message(b"", name[1])
            self._put(name[0], body, tuple(parts.get(n) for n in range(join.total)))

    def _number(self) -> int:
        self._scheduled += 1
        return self._scheduled
