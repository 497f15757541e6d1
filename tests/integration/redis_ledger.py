"""The model of a queue service, and with it which consumer of a Redis owns which message."""

import math
import time
from collections.abc import Iterable, Sequence

from asyafw_redis._delivery import Delivery
from msgspec import Struct

from asyafw.transport import Message, Out
from tests.integration.redis_peers import Pending, Subscriber
from tests.queue_model import Item, Model, Parts

__all__ = ["Hand", "Lease", "Ledger"]

_SUSPICIOUS = 2


class Lease(Struct, eq=False):
    """That a subscriber owns a message, as of `since`.

    It knows of it, and refreshes the lease, unless the reply was lost in which the message came;
    it has given it to who receives, or not yet; it may be dead.
    """

    owner: Subscriber
    since: float
    is_known: bool = True
    is_seen: bool = False
    is_dead: bool = False


class Hand(Struct, eq=False):
    """What was received, with the lease that it had then."""

    delivery: Delivery
    item: Item
    lease: Lease


class Ledger:
    """Follows what happens to messages, and fails when it cannot have happened.

    Which of those that wait a consumer gets is up to Redis: that is seen, not foretold.
    """

    def __init__(self, model: Model, lease_s: float) -> None:
        self.model = model
        self.hands: list[Hand] = []
        self._lease_s = lease_s
        self._owned: dict[Item, Lease] = {}
        self._put_at: dict[Item, float] = {}
        # What a consumer has for who receives next, and which attempt that will be.
        self._ready: dict[Delivery, tuple[Item, Lease, int]] = {}
        # What was put straight on its queue and has never left it: it is taken in order.
        self._in_order: set[Item] = set()
        self._taken: list[Item] = []
        # What was left unsettled twice: it is delivered alone.
        self._alone: set[Item] = set()

    def owns(self, hand: Hand) -> bool:
        """Tell whether it can still be settled: who has died does not."""
        return self._owned.get(hand.item) is hand.lease and not hand.lease.is_dead

    def owned_by(self, subscriber: Subscriber) -> list[tuple[Item, Lease]]:
        return [(item, lease) for item, lease in self._owned.items() if lease.owner is subscriber]

    def emit(self, outs: Sequence[Out]) -> None:
        before = len(self.model.waiting)
        self.model.emit(outs)
        self._in_order.update(self.model.waiting[before:])
        self._note_time()

    def move(self, queue: str) -> None:
        """Note that what is due was put on its queue."""
        self.model.move(queue)
        self._note_time()

    def age_s(self, queue: str, now: float) -> float | None:
        """Tell how long the oldest message has been waiting by the real time, at least."""
        ages = [now - self._put_at[item] for item in self.model.waiting_on(queue)]
        return max(ages, default=None)

    def settle(self, hand: Hand, outs: Sequence[Out]) -> None:
        self.model.held.remove(hand.item)
        del self._owned[hand.item]
        self.emit(outs)

    def release(self, hand: Hand) -> None:
        self._put_back(hand.item, hand.item.attempts - 1)

    def see(self, subscriber: Subscriber, delivery: Delivery) -> None:
        """Note that a consumer has delivered something."""
        self.get_ready(subscriber, delivery)
        item, lease, attempt = self._ready.pop(delivery)
        assert not lease.is_seen, f"{delivery.message} is delivered twice"
        assert delivery.attempt == attempt
        lease.is_seen = True
        hand = Hand(delivery, item, lease)
        self.hands.append(hand)
        if self.owns(hand):
            item.attempts = attempt

    def get_ready(self, subscriber: Subscriber, delivery: Delivery) -> None:
        """Note that a consumer has something for who receives next."""
        if delivery not in self._ready:
            message, parts = delivery.message, delivery.parts
            item, lease = self._find(subscriber, message, parts, is_known=True)
            lease.is_known = True
            self._ready[delivery] = item, lease, item.attempts + 1

    def check_order(self) -> None:
        """Compare what was taken since the last time, by all consumers, with what was left."""
        for queue in self.model.queues:
            taken = [item.number for item in self._taken if item.queue == queue]
            waiting = self.model.waiting_on(queue)
            left = [item.number for item in waiting if item in self._in_order]
            assert max(taken, default=0) < min(left, default=math.inf), "the oldest come first"
        self._taken.clear()

    def mix(self) -> None:
        """Note that what waits may not be in order any more."""
        self._in_order.clear()

    def can_get(self, subscriber: Subscriber) -> bool:
        """Tell whether there is anything for a consumer: if it waits, it is about to get it."""
        may_take_alone = subscriber.may_take_alone
        waiting = self.model.waiting_on(subscriber.queue)
        return (
            bool(subscriber.consumer._ready)
            or any(not lease.is_known for _, lease in self.owned_by(subscriber))
            or any(may_take_alone or item not in self._alone for item in waiting)
        )

    def keep(self, subscribers: Iterable[Subscriber], queues: Iterable[str]) -> None:
        """Note that leases were refreshed, and the queues swept."""
        now = self.model.now
        for subscriber in subscribers:
            for _, lease in self.owned_by(subscriber):
                if lease.is_known and not lease.is_dead:
                    lease.since = now
        for item, lease in tuple(self._owned.items()):
            if item.queue in queues and now - lease.since >= self._lease_s:
                # Nobody can tell whether it was seen.
                self._put_back(item, item.attempts + (not lease.is_seen))

    def leave(self, subscriber: Subscriber) -> None:
        """Note that a consumer has put back what it had."""
        for item, _ in self.owned_by(subscriber):
            self._put_back(item, item.attempts)

    def die(self, subscriber: Subscriber) -> None:
        """Note that a consumer is gone, with what it had."""
        for _, lease in self.owned_by(subscriber):
            lease.is_dead = True

    def compare(self, subscriber: Subscriber, pending: Iterable[Pending], unit_s: float) -> None:
        """Learn from Redis what a consumer owns, some of which it may have without knowing."""
        left = {item for item, _ in self.owned_by(subscriber)}
        for each in pending:
            item, lease = self._find(subscriber, each.message, each.parts, is_known=False)
            since = self.model.now - each.idle_s // unit_s * unit_s
            # Its owner may have read it once more.
            assert since in {lease.since, self.model.now}
            lease.since = since
            left.discard(item)
        for item in left:
            self._hand_back(item)

    def _note_time(self) -> None:
        for item in self.model.waiting:
            self._put_at.setdefault(item, time.time())

    def _find(
        self, subscriber: Subscriber, message: Message, parts: Parts, *, is_known: bool
    ) -> tuple[Item, Lease]:
        for item, lease in self.owned_by(subscriber):
            if (item.message, item.parts) == (message, parts):
                return item, lease
        for item in self.model.waiting_on(subscriber.queue):
            if (item.message, item.parts) == (message, parts):
                self.model.take(item)
                lease = self._owned[item] = Lease(subscriber, self.model.now, is_known)
                if item in self._in_order:
                    self._in_order.remove(item)
                    self._taken.append(item)
                return item, lease
        for item in self._owned:
            if (item.queue, item.message, item.parts) == (subscriber.queue, message, parts):
                self._hand_back(item)
                return self._find(subscriber, message, parts, is_known=is_known)
        raise AssertionError(f"{message} is delivered unexpectedly")

    def _hand_back(self, item: Item) -> None:
        """Note that an owner did not want what it found that it has."""
        lease = self._owned[item]
        assert not lease.is_known, f"{item.message} is lost"
        assert not lease.is_dead, f"{item.message} is lost"
        self._put_back(item, item.attempts)

    def _put_back(self, item: Item, attempts: int) -> None:
        del self._owned[item]
        self.model.put_back(item, attempts)
        self._alone.discard(item)
        if attempts >= _SUSPICIOUS:
            self._alone.add(item)
