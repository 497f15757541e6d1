"""The Redis transport against a model, with lost replies, lost leases and lost processes."""

import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha1
from itertools import count
from types import ModuleType
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asyafw_redis import _commits, _consumer, _keeper, _transport
from asyafw_redis._scripts import Script
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct
from msgspec.structs import replace

from asyafw.exceptions import TransportClosed, TransportUnavailable
from asyafw.transport import Append, Message, Out, Part, Send, check_parts
from tests.chaos.proxy import Proxy, proxying
from tests.integration.redis_ledger import Hand, Ledger
from tests.integration.redis_peers import PATIENCE_S, Peer, Subscriber, Trouble
from tests.queue_model import Model
from tests.servers.redis import DURABLE, RedisServer, redis_server

T = TypeVar("T")

# A unit of time is so long that what really passes is nothing beside it.
UNIT_S = 1000
LEASE, DELAY, TIMEOUT, FORGOTTEN = 2, 3, 4, 60 / UNIT_S
QUEUES = ("a", "a:b")
JOINS = {"x": 2, "b:x": 3, "one": 1}
LOGS = ("l", "m")
MOST_SUBSCRIBERS = 5
MOST_ROUNDS = 100

queues = st.sampled_from(QUEUES)
keys = st.sampled_from([None, None, "", "k", "ключ\0\n"])
bodies = st.sampled_from([b"", b"\xff\xff\xff\xff", b"\0\r\n$"])
sends = st.builds(
    Send, queues, st.builds(Message, bodies, keys), st.sampled_from([0, 0, 0, DELAY * UNIT_S])
)
logs = st.sampled_from(LOGS)
appends = st.builds(Append, logs, bodies)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    join = draw(st.sampled_from(sorted(JOINS)))
    total = JOINS[join] + draw(st.sampled_from([0] * 9 + [1]))
    index = draw(st.integers(0, total - 1)) if draw(st.integers(0, 19)) else total
    return Part(draw(queues), join, index, total, draw(bodies), TIMEOUT * UNIT_S)


outs = st.lists(sends | sends | parts() | parts() | appends, min_size=1, max_size=3)


def three(each: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    return st.lists(each, min_size=3, max_size=3)


# So many of what came back are looked at for the oldest.
BURST = 100

# What to choose from depends on Redis, but what Hypothesis draws must not.
picks = st.integers(0, 999)
limits = st.integers(1, 3)
booleans = st.booleans()
checkpoints = st.integers(0, 8)
TROUBLES: list[Trouble] = [*([None] * 6), "request lost", "reply lost"]
troubles = st.sampled_from(TROUBLES)

# Time passes for all that Redis keeps of one prefix.
ADVANCE = """
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind, ms = redis.call('TYPE', key).ok, tonumber(ARGV[2])
  if kind == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -ms, member)
    end
  elseif kind == 'hash' then
    if redis.call('HEXISTS', key, 'forget') == 1 then
      redis.call('HINCRBY', key, 'forget', -ms)
    end
    local left = redis.call('PTTL', key)
    if left >= 0 then
      redis.call('PEXPIRE', key, left - ms)
    end
  elseif kind == 'stream' and #redis.call('XINFO', 'GROUPS', key) > 0 then
    for _, each in ipairs(redis.call('XPENDING', key, 'asyafw', '-', '+', 1000)) do
      redis.call('XCLAIM', key, 'asyafw', each[2], 0, each[1], 'IDLE', each[3] + ms, 'JUSTID')
    end
  end
end
"""


# How often what is done, with what.
DEEDS: dict[str, tuple[int, dict[str, st.SearchStrategy[Any]]]] = {
    "emit": (6, {"pick": picks, "outs": outs, "trouble": troubles}),
    "receive": (12, {"pick": picks, "limit": limits}),
    "receive_in_trouble": (2, {"pick": picks, "limit": limits, "trouble": troubles.filter(bool)}),
    "cancel": (2, {"pick": picks, "outs": st.lists(sends, max_size=2), "checkpoints": checkpoints}),
    "settle": (5, {"pick": picks, "outs": outs, "trouble": troubles}),
    "settle_twice": (1, {"pick": picks, "outs": outs, "checkpoints": checkpoints}),
    "settle_together": (2, {"picks": three(picks), "several": three(outs), "trouble": troubles}),
    "release": (2, {"pick": picks, "trouble": troubles}),
    "pass_time": (2, {"units": st.integers(1, 5)}),
    "keep": (2, {"pick": picks, "is_heard": booleans}),
    "sweep": (3, {"pick": picks}),
    "measure": (1, {"queue": queues}),
    "read_log": (1, {"pick": picks, "log": logs}),
    "subscribe": (2, {"pick": picks, "queue": queues}),
    "unsubscribe": (1, {"pick": picks, "trouble": troubles}),
    "reopen": (1, {"slot": st.integers(0, 1), "is_crash": booleans}),
    "cut": (1, {"pick": picks}),
    "forget_scripts": (1, {}),
}
deeds = st.sampled_from([name for name in DEEDS for _ in range(DEEDS[name][0])]).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(DEEDS[name][1]))
)


class Service(Struct):
    """What many machines share: a server, a loop in a thread of its own, and proxies."""

    server: RedisServer
    portal: BlockingPortal
    proxies: Sequence[Proxy]


class RedisAgainstModel(RuleBasedStateMachine):
    """Does the same to both and compares what can be seen."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.raw = service.server.client()
        self.prefix = uuid4().hex[:8]
        self.model = Model(QUEUES, FORGOTTEN * UNIT_S)
        self.ledger = Ledger(self.model, LEASE * UNIT_S)
        self.peers: list[Peer] = []
        self.numbers = count()
        self.is_measured_always = False

    @property
    def subscribers(self) -> list[Subscriber]:
        return [each for peer in self.peers for each in peer.subscribers]

    def hand(self, pick: int) -> Hand | None:
        """Choose something that was received, mostly what can still be settled."""
        hands = self.ledger.hands
        owned = [hand for hand in hands if self.ledger.owns(hand)]
        return choose(owned if pick % 4 else hands, pick)

    def open(self, slot: int) -> Peer:
        options = f"prefix={self.prefix}&lease_s={LEASE * UNIT_S}"
        return Peer(self.service.portal, self.service.proxies[slot], options)

    @initialize(is_measured_always=booleans)
    def begin(self, is_measured_always: bool) -> None:  # noqa: FBT001 — Hypothesis calls it
        self.is_measured_always = is_measured_always
        self.peers = [self.open(0), self.open(1)]
        for slot, queue in ((0, "a"), (0, "a:b"), (1, "a")):
            self.peers[slot].subscribe(queue)

    def teardown(self) -> None:
        try:
            # With an exception on its way there is nothing more to be learnt.
            if self.peers and sys.exc_info()[0] is None:
                self.drain()
        finally:
            for peer in self.peers:
                peer.close()
            if keys := self.raw.keys(f"{self.prefix}:*"):
                self.raw.delete(*keys)
            self.raw.close()

    # What the rules share.

    def settle_down(self) -> None:
        """Wait until those who receive have got what there is, and note it."""
        self.service.portal.call(self._settle_down)
        self.compare_owners()
        self.ledger.check_order()

    async def _settle_down(self) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not self.all_rest():  # noqa: ASYNC110 — a server tells nobody
                await anyio.sleep(0.0005)

    def all_rest(self) -> bool:
        """Note what everybody has got, and tell whether all have come to rest."""
        return all([self.rests(each) for each in self.subscribers])  # noqa: C419 — not lazily

    def rests(self, subscriber: Subscriber) -> bool:
        """Note what a consumer has got, and tell whether it has come to rest."""
        for call in [call for call in subscriber.calls if call.is_over]:
            subscriber.calls.remove(call)
            assert call.error is None or subscriber.peer.is_shaken, call.error
            for delivery in call.deliveries:
                self.ledger.see(subscriber, delivery)
        for delivery in tuple(subscriber.consumer._ready):
            self.ledger.get_ready(subscriber, delivery)
        if subscriber.calls:
            # Once more it has to see what it owns, which makes its leases new.
            is_behind = subscriber.peer.is_shaken and not subscriber.is_blocked(self.raw)
            return not is_behind and not self.ledger.can_get(subscriber)
        # It keeps nothing that others could have.
        return subscriber.is_idle

    def numbered(self, outs: Sequence[Out]) -> list[Out]:
        """Make all bodies distinct."""
        made: list[Out] = []
        for out in outs:
            number = b"%d|" % next(self.numbers)
            if isinstance(out, Send):
                body = number + out.message.body
                made.append(replace(out, message=replace(out.message, body=body)))
            else:
                made.append(replace(out, body=number + out.body))
        return made

    def compare_owners(self) -> None:
        """Learn what those own whose connections were lost."""
        for subscriber in self.subscribers:
            if subscriber.peer.is_shaken:
                self.ledger.compare(subscriber, subscriber.pending(self.raw), UNIT_S)

    def pass_time(self, units: int) -> None:
        self.compare_owners()
        self.raw.eval(ADVANCE, 0, self.prefix, units * UNIT_S * 1000)
        self.model.now += units * UNIT_S

    def finish(self, result: Any, hand: Hand | None, outs: Sequence[Out], trouble: Trouble) -> None:
        """Note the result of settling, or, without a hand, of emitting."""
        is_accepted = self.model.accepts(outs)
        if isinstance(result, TransportUnavailable):
            assert trouble
            if trouble == "request lost":
                return
        elif hand is not None and not self.ledger.owns(hand):
            assert result is False or (isinstance(result, ValueError) and not is_accepted)
        elif is_accepted:
            assert result is (None if hand is None else True)
        else:
            assert isinstance(result, ValueError)
        if is_accepted and hand is None:
            self.ledger.emit(outs)
        elif is_accepted and hand is not None and self.ledger.owns(hand):
            self.ledger.settle(hand, outs)

    # The deeds.

    @rule(deed=deeds)
    def do(self, deed: tuple[str, dict[str, Any]]) -> None:
        name, arguments = deed
        getattr(self, name)(**arguments)

    def emit(self, pick: int, outs: Sequence[Out], trouble: Trouble) -> None:
        peer = self.peers[pick % 2]
        outs = self.numbered(outs)
        trouble = trouble if is_sent(None, outs) else None

        (result,) = peer.commit(trouble, partial(peer.transport.emit, *outs))

        self.finish(result, None, outs, trouble)
        self.settle_down()

    def receive(self, pick: int, limit: int) -> None:
        if subscriber := choose(self.subscribers, pick):
            subscriber.calls.append(subscriber.peer.receive(subscriber, limit))

            self.settle_down()

    def receive_in_trouble(self, pick: int, limit: int, trouble: Trouble) -> None:
        able = [each for each in self.subscribers if self.ledger.can_get(each) and not each.calls]
        if subscriber := choose(able, pick):
            subscriber.calls.append(subscriber.peer.receive(subscriber, limit, trouble))

            self.compare_owners()
            self.settle_down()

    def cancel(self, pick: int, outs: Sequence[Out], checkpoints: int) -> None:
        calls = [(each.peer, call) for each in self.subscribers for call in each.calls]
        if chosen := choose(calls, pick):
            peer, call = chosen
            outs = self.numbered(outs)

            peer.cancel(call, *outs, checkpoints=checkpoints)

            self.ledger.emit(outs)
            # What nobody waits for any more goes back.
            self.ledger.mix()
            self.settle_down()

    def settle(self, pick: int, outs: Sequence[Out], trouble: Trouble) -> None:
        if hand := self.hand(pick):
            outs = self.numbered(outs)
            trouble = trouble if is_sent(hand, outs) else None

            (result,) = hand.lease.owner.peer.commit(trouble, partial(hand.delivery.settle, *outs))

            self.finish(result, hand, outs, trouble)
            self.settle_down()

    def settle_twice(self, pick: int, outs: Sequence[Out], checkpoints: int) -> None:
        hand = self.hand(pick)
        if hand and self.model.accepts(outs):
            outs = self.numbered(outs)
            settle = partial(hand.delivery.settle, *outs)

            hand.lease.owner.peer.hurry(checkpoints, settle)
            hand.lease.owner.peer.call(settle)

            # Once, whichever of them did it.
            if self.ledger.owns(hand):
                self.ledger.settle(hand, outs)
            self.settle_down()

    def settle_together(
        self, picks: Sequence[int], several: Sequence[Sequence[Out]], trouble: Trouble
    ) -> None:
        if first := self.hand(picks[0]):
            peer = first.lease.owner.peer
            of_peer = [hand for hand in self.ledger.hands if hand.lease.owner.peer is peer]
            hands = [first, *(of_peer[pick % len(of_peer)] for pick in picks[1:])]
            steps = [(hand, self.numbered(o)) for hand, o in zip(hands, several, strict=True)]
            trouble = trouble if all(is_sent(*step) for step in steps) else None

            results = peer.commit(
                trouble, *(partial(hand.delivery.settle, *outs) for hand, outs in steps)
            )

            for result, step in zip(results, steps, strict=True):
                self.finish(result, *step, trouble)
            self.settle_down()

    def release(self, pick: int, trouble: Trouble) -> None:
        if hand := self.hand(pick):
            trouble = trouble if is_sent(hand, ()) else None

            (result,) = hand.lease.owner.peer.commit(trouble, hand.delivery.release)

            assert result is None or trouble
            if self.ledger.owns(hand) and not (result and trouble == "request lost"):
                self.ledger.release(hand)
            self.settle_down()

    def keep(self, pick: int, is_heard: bool) -> None:  # noqa: FBT001 — Hypothesis calls it
        peer = self.peers[pick % 2]
        self.compare_owners()

        kept = (
            peer.keep() if is_heard else peer.keep_unheard(self.raw, vars(_keeper)["KEEP"].source)
        )

        self.kept_by(peer, kept)

    def sweep(self, pick: int) -> None:
        """Let leases be over, and notice it."""
        self.pass_time(LEASE)
        self.keep(pick, is_heard=True)

    def kept_by(self, peer: Peer, kept: Mapping[str, int]) -> None:
        """Note that a peer has looked after queues, with so many consumers each."""
        self.ledger.keep(peer.subscribers, [queue for queue in kept if kept[queue]])
        for queue in kept:
            self.wait_until_moved(queue)
            self.ledger.move(queue)
        self.settle_down()

    def wait_until_moved(self, queue: str) -> None:
        """What is due is moved in bursts, the next of which a thread begins at once."""
        latest = time.monotonic() + PATIENCE_S
        sets = [f"{self.prefix}:{kind}:{queue}" for kind in ("delayed", "joins")]
        while any(self.raw.zcount(key, "-inf", time.time() * 1000 - 1) for key in sets):
            assert time.monotonic() < latest

    def measure(self, queue: str) -> None:
        if self.model.is_due(queue):
            self.move(queue)

        age_s = self.ledger.age_s(queue, time.time())
        lag, expected = self.peers[0].lag(queue), self.model.lag(queue)

        assert replace(lag, oldest_s=None) == replace(expected, oldest_s=None)
        if age_s is None:
            assert lag.oldest_s is None
        else:
            assert lag.oldest_s is not None
            # No more are looked at, of which Redis knows the age in whole milliseconds.
            assert lag.backlog > BURST or lag.oldest_s > age_s - 0.002

    @invariant()
    def lag_is_always_the_same(self) -> None:
        if self.is_measured_always:
            for queue in QUEUES:
                self.measure(queue)

    def move(self, queue: str) -> None:
        """Let Redis put what is due on its queue, as it does before it measures."""
        self.peers[0].lag(queue)
        self.ledger.move(queue)
        self.settle_down()

    def read_log(self, pick: int, log: str) -> None:
        peer = self.peers[pick % 2]
        if peer.has_read(log) < len(self.model.logs[log]):
            entry, number = peer.read(log)

            assert entry.body == self.model.logs[log][number]

    def subscribe(self, pick: int, queue: str) -> None:
        if len(self.subscribers) < MOST_SUBSCRIBERS:
            self.peers[pick % 2].subscribe(queue)
            self.settle_down()

    def unsubscribe(self, pick: int, trouble: Trouble) -> None:
        if subscriber := choose(self.subscribers, pick):
            subscriber.peer.unsubscribe(subscriber, trouble)

            self.bury(subscriber, is_certain=False)
            self.move(subscriber.queue)

    def reopen(self, slot: int, is_crash: bool) -> None:  # noqa: FBT001 — Hypothesis calls it
        peer = self.peers[slot]
        self.compare_owners()

        peer.crash() if is_crash else peer.close()

        for subscriber in peer.subscribers:
            self.bury(subscriber, is_certain=is_crash)
        self.peers[slot] = self.open(slot)
        if not is_crash:
            for queue in QUEUES:
                self.move(queue)
        self.settle_down()

    def bury(self, subscriber: Subscriber, *, is_certain: bool) -> None:
        """Note what has become of a consumer that was closed, or crashed for certain."""
        for call in subscriber.calls:
            # It may have got what a consumer that was closed before it had put back.
            assert call.deliveries or isinstance(call.error, TransportClosed)
            for delivery in call.deliveries:
                self.ledger.see(subscriber, delivery)
        pending = subscriber.pending(self.raw)
        if pending or is_certain:
            assert subscriber.peer.is_shaken or is_certain
            self.ledger.compare(subscriber, pending, UNIT_S)
            self.ledger.die(subscriber)
        else:
            self.ledger.leave(subscriber)

    def cut(self, pick: int) -> None:
        self.peers[pick % 2].cut(self.raw)
        self.settle_down()

    def forget_scripts(self) -> None:
        self.raw.script_flush()

    # The end.

    def drain(self) -> None:
        """Let all leases and delays end, and settle everything."""
        self.pass_time(20)
        peer = self.open(2)
        self.peers.append(peer)
        for queue in QUEUES:
            peer.subscribe(queue)
        for _ in range(MOST_ROUNDS):
            self.kept_by(peer, peer.keep())
            for queue in QUEUES:
                self.measure(queue)
            if not self.model.waiting and not self.model.held:
                break
            for subscriber in peer.subscribers:
                if self.ledger.can_get(subscriber):
                    subscriber.calls.append(peer.receive(subscriber, 10))
                    self.settle_down()
            for hand in self.ledger.hands:
                assert hand.lease.owner.peer.call(hand.delivery.settle) is self.ledger.owns(hand)
                if self.ledger.owns(hand):
                    self.ledger.settle(hand, ())
            self.settle_down()

        assert not self.model.waiting
        assert not self.model.held
        for log, bodies in self.model.logs.items():
            assert [peer.read(log)[0].body for _ in bodies] == bodies
        for key in self.raw.keys(f"{self.prefix}:*"):
            kind, name = key.decode().removeprefix(f"{self.prefix}:").partition(":")[::2]
            assert kind in {"queue", "again", "alone", "log", "join"}, f"{kind} {name} is left"
            if kind in {"queue", "again", "alone"}:
                assert self.raw.xlen(key) == 0


def choose(options: Sequence[T], pick: int) -> T | None:
    """Choose one of those that there are."""
    return options[pick % len(options)] if options else None


def is_sent(hand: Hand | None, outs: Sequence[Out]) -> bool:
    """Tell whether anything is asked of the server."""
    try:
        check_parts(outs)
    except ValueError:
        return False
    return hand is None or hand.delivery.entry in hand.delivery.held


@contextmanager
def serving(server: RedisServer) -> Generator[Service, None, None]:
    with start_blocking_portal() as portal, ExitStack() as stack:
        proxies = [
            stack.enter_context(
                portal.wrap_async_context_manager(proxying("127.0.0.1", server.port))
            )
            for _ in range(3)
        ]
        yield Service(server, portal, proxies)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with redis_server(*DURABLE) as server, serving(server) as service:
        yield service


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def changed(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Change the scripts."""
    sources: list[tuple[ModuleType, str]]
    sources = [(_commits, "COMMIT"), (_keeper, "KEEP"), (_consumer, "LEAVE"), (_transport, "LAG")]
    found = False
    for module, name in sources:
        source = vars(module)[name].source
        found = found or old in source
        other = source.replace(old, new)
        script = Script(other, sha1(other.encode(), usedforsecurity=False).hexdigest())
        monkeypatch.setattr(module, name, script)
    assert found


def run(service: Service, settings: settings) -> None:
    machine: Any = lambda: RedisAgainstModel(service)  # noqa: E731 — Hypothesis wants a class
    run_state_machine_as_test(machine, settings=settings)


def test_redis_does_as_the_model_does(service: Service) -> None:
    run(service, SETTINGS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            "if redis.call('XACK', stream, GROUP, id) == 0 then\n    return 0\n  end",
            "redis.call('XACK', stream, GROUP, id)",
            id="settles what is lost",
        ),
        pytest.param("'a', attempts", "'a', 0", id="forgets attempts"),
        pytest.param(
            "put_back(string.match(name, ':(.+)'), id, fields, 0)", "", id="loses what is released"
        ),
    ],
)
def test_the_model_finds_what_is_wrong(
    service: Service, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    changed(monkeypatch, old, new)
    once = settings(SETTINGS, phases=[Phase.generate], derandomize=True, database=None)

    with pytest.raises((AssertionError, FlakyFailure)):
        run(service, settings(once, max_examples=200, report_multiple_bugs=False))
