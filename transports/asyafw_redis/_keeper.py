"""What has to be done in time, whatever the event loop is doing."""

import logging
import random
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import NoScriptError, ResponseError

from asyafw_redis._errors import FOREIGN, translated
from asyafw_redis._link import Links
from asyafw_redis._options import Options
from asyafw_redis._scripts import KEEP, STREAMS, Script

__all__ = ["Keeper", "Kept"]

_LONGEST_ROUND_S = 5.0
_PAUSE_S = 0.25
_FORGET_EVERY = 10
# What falls due within this time is moved together.
_GRAIN_S = 0.002
_START = ("0-0",) * len(STREAMS)

_logger = logging.getLogger("asyafw.redis")


class Kept(Protocol):
    """A consumer, as its keeper sees it."""

    queue: str
    name: str

    @property
    def held(self) -> Iterable[dict[bytes, Any]]:
        """What it has in hand, for each stream of its queue."""
        ...

    def lose(self, lost: Sequence[Sequence[bytes]]) -> None:
        """Be told what is not in hand any more, of each stream."""
        ...

    def alone_is_waiting(self, *, waits: bool) -> None:
        """Be told whether its queue has something that is to be taken alone."""
        ...


class Keeper:
    """Refreshes leases, takes back what nobody refreshes, and moves what is due.

    It has a thread and a connection of its own, so that a handler that blocks the event loop loses
    nothing. All its rounds together are one command of the server a few seconds.
    """

    def __init__(self, links: Links, options: Options) -> None:
        self._options = options
        self._links = links
        self._round_s = min(options.lease_s / 4, _LONGEST_ROUND_S)
        self._consumers: dict[Kept, Sequence[Any]] = {}
        self._due: dict[str, float] = {}
        self._orders: deque[int] = deque()
        self._rounds = count()
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="asyafw-redis", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, consumer: Kept) -> None:
        """Look after a consumer from now on."""
        with self._changed:
            self._consumers[consumer] = _START

    def remove(self, consumer: Kept) -> None:
        """Look no more after a consumer."""
        with self._changed:
            self._consumers.pop(consumer, None)

    def arm(self, queue: str, delay_s: float) -> None:
        """Look into a queue in `delay_s` seconds, if not before."""
        at = monotonic() + delay_s
        with self._changed:
            known = self._due.get(queue)
            if known is None or at < known:
                self._due[queue] = at
                self._changed.notify()

    def unblock(self, client_id: int) -> None:
        """Let a connection that waits for messages wait no longer."""
        with self._changed:
            self._orders.append(client_id)
            self._changed.notify()

    def stop(self) -> None:
        """Let the thread end, once what it is doing is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        client = self._links.client()
        next_round = monotonic() + self._round_s
        failing = False
        try:
            while (at := self._rest(next_round)) is not None:
                try:
                    self._obey(client)
                    if at >= next_round:
                        next_round = at + self._round_s * random.uniform(0.8, 1.0)  # noqa: S311 — no secret
                        self._keep(client, self._everything())
                    elif steps := self._what_is_due(at):
                        self._keep(client, steps)
                    failing = False
                except Exception as error:  # noqa: BLE001 — without this thread all leases are lost
                    self._tell(error, failing=failing)
                    failing = True
                    next_round = monotonic() + min(_PAUSE_S, self._round_s)
                    # Behind the same name there may be another server by now.
                    client.connection_pool.disconnect()
        finally:
            client.close()

    def _tell(self, error: Exception, *, failing: bool) -> None:
        if isinstance(error, FOREIGN):
            level = logging.DEBUG if failing else logging.WARNING
            _logger.log(level, "leases are at risk: %s", translated(error, self._options))
        else:
            _logger.error("leases are at risk", exc_info=error)

    def _rest(self, next_round: float) -> float | None:
        """Wait until there is something to do, and give the time; None when it is over."""
        with self._changed:
            while not self._stopping:
                now = monotonic()
                at = min([next_round, *self._due.values()])
                if self._orders or at <= now:
                    return now
                self._changed.wait(max(at - now, _GRAIN_S))
            return None

    def _obey(self, client: Any) -> None:
        while self._orders:
            try:
                client.client_unblock(self._orders.popleft())
            except ResponseError as error:
                # Who may not do this waits as long as the command that is to end.
                _logger.debug("%s", translated(error, self._options))

    def _everything(self) -> "list[_Round]":
        with self._changed:
            rounds = {queue: _Round(queue) for queue in self._due}
            for consumer in self._consumers:
                rounds.setdefault(consumer.queue, _Round(consumer.queue)).consumers.append(consumer)
            self._due.clear()
            return list(rounds.values())

    def _what_is_due(self, now: float) -> "list[_Round]":
        with self._changed:
            due = [queue for queue, at in self._due.items() if at <= now + _GRAIN_S]
            for queue in due:
                del self._due[queue]
            return [_Round(queue) for queue in due]

    def _keep(self, client: Any, rounds: "list[_Round]") -> None:
        if not rounds:
            return
        try:
            answers = _run_script(client, KEEP, self._options.prefix, *self._arguments(rounds))
        except Exception:
            for each in rounds:
                self.arm(each.queue, _PAUSE_S)
            raise
        for each, (next_ms, lost, cursors, swept, alone) in zip(rounds, answers, strict=True):
            if next_ms >= 0:
                self.arm(each.queue, next_ms / 1000)
            if swept:
                _logger.warning("%d messages of %s were left and come again", swept, each.queue)
            for consumer, of_streams in zip(each.consumers, lost, strict=True):
                consumer.lose(of_streams)
                consumer.alone_is_waiting(waits=alone > 0)
            with self._changed:
                if each.consumers and each.consumers[0] in self._consumers:
                    self._consumers[each.consumers[0]] = cursors

    def _arguments(self, rounds: "list[_Round]") -> list[Any]:
        forgets = next(self._rounds) % _FORGET_EVERY == 0
        arguments: list[Any] = [int(self._options.lease_s * 1000), int(forgets)]
        for each in rounds:
            arguments += (each.queue, len(each.consumers))
            for consumer in each.consumers:
                arguments.append(consumer.name)
                for held in consumer.held:
                    # Copied in one step of the interpreter: the event loop goes on meanwhile.
                    entries = list(held)
                    arguments += (len(entries), *entries)
            if each.consumers:
                arguments += self._consumers.get(each.consumers[0], _START)
        return arguments


class _Round:
    """What is to be done for one queue."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.consumers: list[Kept] = []


def _run_script(client: Any, script: Script, *arguments: Any) -> Any:
    try:
        return client.execute_command("EVALSHA", script.sha, 0, *arguments)
    except NoScriptError:
        return client.execute_command("EVAL", script.source, 0, *arguments)
