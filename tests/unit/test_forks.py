import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from msgspec.structs import replace

from asyafw._actor import Actor, Join
from asyafw._forks import GATHER_TIMEOUT_S, Meeting, fanned_out, gathered, joined, met
from asyafw._outcome import Outcome, Payload, Rules, handed_on
from asyafw.envelope import (
    CODECS,
    JSON,
    MSGPACK,
    Codec,
    Envelope,
    Failure,
    Fork,
    Limits,
    Route,
    child_id,
    decode_envelope,
    encode_envelope,
)
from asyafw.events import Event, decode_event
from asyafw.exceptions import DecodeError, LimitExceeded, UnknownActor
from asyafw.transport import Append, Message, Out, Part, Send
from tests import fan_outs
from tests.unit import making
from tests.unit.making import CLAIM, both_codecs, events, messages, result, step

ACTORS = {each.name: each for each in fan_outs.ACTORS}
RULES = Rules(
    joins={each.name: each.join for each in fan_outs.ACTORS if each.join},
    forks={each.name for each in fan_outs.ACTORS if each.signature.yields},
    known=frozenset(ACTORS),
    limits=Limits(hops=1000),
)


class Machine:
    """Runs messages in any order, some of them again, and joins their parts.

    It does what a worker and a transport do that hand on at least once.
    """

    def __init__(self, order: Random, codec: Codec) -> None:
        self.handled: list[Envelope] = []
        self.events: list[Event] = []
        self._order = order
        self._codec = codec
        self._waiting: list[tuple[str, Message, Sequence[bytes | None] | None]] = []
        self._joins: dict[tuple[str, str], list[bytes | None]] = {}

    def run(self, route: Sequence[str], value: Any) -> Any:
        """Give the result of a job."""
        first = Envelope(
            id="j1",
            job="j1",
            route=Route(route[0], tuple(route[1:])),
            payload=Raw(self._codec.encode(value)),
        )
        self._emit([Send(route[0], Message(encode_envelope(first, self._codec)))])
        while self._waiting:
            chosen = self._order.randrange(len(self._waiting))
            queue, message, parts = self._waiting.pop(chosen)
            for _ in range(2 if self._order.random() < 0.1 else 1):
                self._emit(self._handle(ACTORS[queue], message, parts).out)
        return result_of(self.events, self._codec)

    def _emit(self, outs: Sequence[Out]) -> None:
        for out in outs:
            if isinstance(out, Send):
                self._waiting.append((out.queue, out.message, None))
            elif isinstance(out, Append):
                self.events.append(decode_event(out.body))
            else:
                self._join(out)

    def _join(self, part: Part) -> None:
        name = part.queue, part.join
        parts = self._joins.setdefault(name, [None] * part.total)
        assert len(parts) == part.total
        complete = None not in parts
        parts[part.index] = part.body
        if not complete and None not in parts:
            self._waiting.append((part.queue, Message(b"", part.join), tuple(parts)))

    def _handle(
        self, by: Actor[..., Any], message: Message, parts: Sequence[bytes | None] | None
    ) -> Outcome:
        if parts is None:
            envelope, codec = decode_envelope(message.body)
        else:
            meeting = met(message, parts, by)
            assert meeting is not None
            if meeting.gather:
                return gathered(step(meeting.envelope, by, codec=meeting.codec), len(parts))
            codec = meeting.codec
            envelope = joined(meeting.envelope, codec, payloads(meeting))
        self.handled.append(envelope)
        taken = codec.decode(envelope.payload)
        if by.join and not envelope.joined:
            taken = [taken]
        if by.signature.yields:
            children = [result(child, codec) for child in fan_outs.PARTINGS[by.name](taken)]
            return fanned_out(step(envelope, by, codec=codec), RULES, children)
        made = result(fan_outs.CHANGES[by.name](taken), codec)
        return handed_on(step(envelope, by, codec=codec), RULES, made)


def payloads(meeting: Meeting) -> list[bytes | None]:
    return [None if each is None else each.payload for each in meeting.siblings]


def result_of(events: Sequence[Event], codec: Codec) -> Any:
    """Put together what a job gave, from what was told of it and its children."""
    ends = {event.path: event for event in events if event.kind in ("child", "succeeded")}

    def collect(path: tuple[int, ...]) -> Any:
        end = ends[path]
        if end.children is not None:
            return [collect((*path, index)) for index in range(end.children)]
        assert end.payload is not UNSET
        return codec.decode(end.payload)

    return collect(())


orders = st.integers(0, 2**32).map(Random)
codecs = st.sampled_from([*CODECS.values()])
nested = [
    ["two", "two", "merge", "merge"],
    ["two", "none", "merge", "merge", "note"],
    ["none", "two", "merge", "merge", "merge"],
    ["two", "some", "note"],
    ["two", "regroup", "note", "merge", "weld"],
]


class TestLaws:
    @given(fan_outs.routes, orders, codecs)
    @example(nested[0], Random(1), MSGPACK)
    @example(nested[1], Random(1), JSON)
    @example(nested[2], Random(1), MSGPACK)
    @example(nested[3], Random(1), MSGPACK)
    @example(nested[4], Random(1), MSGPACK)
    def test_children_part_and_meet_as_in_plain_recursion(
        self, route: list[str], order: Random, codec: Codec
    ) -> None:
        assert Machine(order, codec).run(route, 0) == fan_outs.expected(route, 0)

    @given(fan_outs.routes, orders)
    def test_a_message_is_the_same_again_once_its_children_have_met(
        self, route: list[str], order: Random
    ) -> None:
        machine = Machine(order, MSGPACK)

        machine.run(route, 0)

        parents = {envelope.id: envelope.parent for envelope in machine.handled}
        for envelope in machine.handled:
            assert envelope.parent == parents[envelope.id]
            if envelope.forks:
                assert envelope.parent is not None
                assert parents[envelope.parent] == envelope.forks[-1].parent
            else:
                assert (envelope.id, envelope.parent) == ("j1", None)

    @given(fan_outs.routes, orders)
    def test_when_a_job_ends_its_result_has_been_told(
        self, route: list[str], order: Random
    ) -> None:
        machine = Machine(order, MSGPACK)

        machine.run(route, 0)

        ends = [place for place, event in enumerate(machine.events) if event.ends_job]
        assert {machine.events[place].kind for place in ends} == {"succeeded"}
        until_then = machine.events[: ends[0] + 1]
        assert result_of(until_then, MSGPACK) == fan_outs.expected(route, 0)

    @given(fan_outs.routes, orders)
    def test_repeated_runs_make_the_same_messages(self, route: list[str], order: Random) -> None:
        machine = Machine(order, MSGPACK)

        machine.run(route, 0)

        seen: dict[tuple[str, int], Envelope] = {}
        for envelope in machine.handled:
            known = seen.setdefault((envelope.id, envelope.hops), envelope)
            assert (envelope.payload, envelope.route) == (known.payload, known.route)

    @given(fan_outs.routes, orders)
    def test_no_hop_is_counted_twice(self, route: list[str], order: Random) -> None:
        machine = Machine(order, MSGPACK)

        machine.run(route, 0)

        assert max(envelope.hops for envelope in machine.handled) < len(route)

    @given(st.lists(st.sampled_from(["note", "merge", "weld", "two"]), min_size=1, max_size=8))
    def test_every_hop_is_counted(self, route: list[str]) -> None:
        machine = Machine(Random(1), MSGPACK)

        machine.run(route, 0)

        assert {event.hop for event in machine.events if event.ends_job} == {len(route) - 1}


ENVELOPE = replace(making.ENVELOPE, route=Route("two", ("note", "merge", "note")))
OUTER = Fork("outer", 2, 3, "weld", 60.0, next=("note",))
OUTER_GATHER = Fork("outer", 2, 3, "some", 60.0, gather=True)


def part(envelope: Envelope, *names: str) -> Outcome:
    """Fan a message out by `two`, to the route that is given."""
    changed = envelope.route.replace(*names) if names else envelope.route
    return fanned_out(
        step(envelope, ACTORS["two"], route=changed), RULES, [result("page 1"), result("page 2")]
    )


class TestParting:
    def test_children_take_the_rest_of_the_route_side_by_side(self) -> None:
        outcome = part(ENVELOPE)

        sends = [out for out in outcome.out if isinstance(out, Send)]
        first, second = messages(outcome)
        assert [send.queue for send in sends] == ["note", "note"]
        assert (outcome.label, outcome.ends_job) == ("fanned_out", False)
        assert first == replace(
            ENVELOPE,
            id=child_id("m1", 3, "two", 0),
            parent="m1",
            route=Route("note", ("merge", "note"), ("two",)),
            payload=Raw(MSGPACK.encode("page 1")),
            hops=4,
            attempt=1,
            enqueued_at=12.0,
            forks=(
                Fork(
                    child_id("m1", 3, "two", -1),
                    index=0,
                    total=2,
                    at="merge",
                    timeout_s=3600.0,
                    parent="m0",
                    next=("note",),
                ),
            ),
        )
        assert second.payload == Raw(MSGPACK.encode("page 2"))
        assert (second.id, second.forks[0].index) == (child_id("m1", 3, "two", 1), 1)

    def test_the_same_run_makes_the_same_children(self) -> None:
        assert part(ENVELOPE) == part(ENVELOPE)

    def test_two_visits_of_one_actor_make_different_children(self) -> None:
        again = replace(ENVELOPE, hops=5)

        ids = {m.id for m in messages(part(ENVELOPE)) + messages(part(again))}
        joins = {m.forks[0].join for m in messages(part(ENVELOPE)) + messages(part(again))}

        assert (len(ids), len(joins)) == (4, 2)

    def test_a_fan_out_is_told_as_one_hop(self) -> None:
        (event,) = events(part(ENVELOPE))

        assert (event.kind, event.next) == ("hop", ("note", "merge", "note"))
        assert (event.id, event.children, event.hop) == ("m1", 2, 3)

    def test_a_fan_out_is_not_told_where_only_jobs_are(self) -> None:
        rules = replace(RULES, events="jobs")

        outcome = fanned_out(step(ENVELOPE, ACTORS["two"]), rules, [result(1)])

        assert events(outcome) == []

    def test_the_join_says_how_long_its_siblings_may_take(self) -> None:
        rules = replace(RULES, joins={"merge": Join(timeout_s=5)})

        (child,) = messages(fanned_out(step(ENVELOPE, ACTORS["two"]), rules, [result(1)]))

        assert child.forks[0].timeout_s == 5

    def test_children_that_go_straight_to_their_join_are_its_parts(self) -> None:
        outcome = part(ENVELOPE, "merge", "note")

        parts = [out for out in outcome.out if isinstance(out, Part)]
        assert [(p.queue, p.index, p.total) for p in parts] == [("merge", 0, 2), ("merge", 1, 2)]

    def test_without_a_join_ahead_the_actor_that_fanned_out_counts_its_children(self) -> None:
        first, _ = messages(part(ENVELOPE, "note"))

        assert first.forks[0] == Fork(
            child_id("m1", 3, "two", -1), 0, 2, "two", GATHER_TIMEOUT_S, parent="m0", gather=True
        )

    def test_of_joins_with_one_name_each_closes_its_own_bracket(self) -> None:
        first, _ = messages(part(ENVELOPE, "two", "merge", "merge", "note"))

        assert first.forks[0].next == ("note",)

    def test_a_child_may_be_a_claim(self) -> None:
        children = [Payload(Raw(MSGPACK.null), CLAIM)]

        (child,) = messages(fanned_out(step(ENVELOPE, ACTORS["two"]), RULES, children))

        assert child.claim == CLAIM

    def test_a_fan_out_has_as_many_children_as_the_limit_says(self) -> None:
        rules = replace(RULES, limits=Limits(children=2))
        by = step(ENVELOPE, ACTORS["two"])

        assert len(messages(fanned_out(by, rules, [result(1)] * 2))) == 2
        with pytest.raises(LimitExceeded, match="two made more than 2 children; fan out in two"):
            fanned_out(by, rules, [result(1)] * 3)

    def test_children_are_bound_by_the_limits_of_every_message(self) -> None:
        with pytest.raises(LimitExceeded, match="handed on 3 times"):
            fanned_out(
                step(ENVELOPE, ACTORS["two"]), replace(RULES, limits=Limits(hops=3)), [result(1)]
            )
        with pytest.raises(UnknownActor, match="'publish'"):
            part(ENVELOPE, "publish")


class TestNoChildren:
    def test_a_join_of_nobody_begins_at_once(self) -> None:
        outcome = fanned_out(step(ENVELOPE, ACTORS["none"]), RULES, [])

        (send, _) = outcome.out
        assert isinstance(send, Send)
        assert send.queue == "merge"
        assert messages(outcome) == [
            replace(
                ENVELOPE,
                route=Route("merge", ("note",), ("two", "note")),
                payload=Raw(MSGPACK.encode([])),
                hops=4,
                attempt=1,
                enqueued_at=12.0,
                joined=True,
            )
        ]
        assert events(outcome)[0].children == 0

    def test_a_join_of_nobody_skips_the_brackets_before_it(self) -> None:
        route = ENVELOPE.route.replace("two", "merge", "merge", "note")

        (empty,) = messages(fanned_out(step(ENVELOPE, ACTORS["none"], route=route), RULES, []))

        assert empty.route == Route("merge", ("note",), ("two", "two", "merge"))

    def test_a_join_of_nobody_is_no_part_of_an_outer_one(self) -> None:
        child = replace(ENVELOPE, forks=(replace(OUTER, at="merge"),))

        (send, _) = fanned_out(step(child, ACTORS["none"]), RULES, []).out

        assert isinstance(send, Send)

    def test_without_a_join_nothing_is_left_to_do(self) -> None:
        route = ENVELOPE.route.replace("note")

        outcome = fanned_out(step(ENVELOPE, ACTORS["none"], route=route), RULES, [])

        (event,) = events(outcome)
        assert (event.kind, event.children, event.payload) == ("succeeded", 0, UNSET)
        assert (outcome.label, outcome.ends_job) == ("finished", True)


class TestEndingWithChildren:
    def test_at_the_end_of_a_route_each_child_is_a_result(self) -> None:
        outcome = fanned_out(
            step(ENVELOPE, ACTORS["two"], route=Route("two")),
            RULES,
            [result("page 1"), Payload(Raw(MSGPACK.null), CLAIM)],
        )

        first, second, end = events(outcome)
        assert [first.kind, second.kind, end.kind] == ["child", "child", "succeeded"]
        assert (first.id, first.path) == (child_id("m1", 3, "two", 0), (0,))
        assert (first.payload, first.claim) == (result("page 1").raw, None)
        assert (second.path, second.claim) == ((1,), CLAIM)
        assert (end.id, end.children, end.payload) == ("m1", 2, UNSET)
        assert (outcome.label, outcome.ends_job, messages(outcome)) == ("finished", True, [])

    def test_the_results_of_a_child_lie_below_it(self) -> None:
        outcome = part(replace(ENVELOPE, route=Route("two"), forks=(OUTER_GATHER,)))

        first, second, end = events(outcome)
        (home,) = messages(outcome)
        assert [first.path, second.path, end.path] == [(2, 0), (2, 1), (2,)]
        assert (end.kind, end.children) == ("child", 2)
        assert (home.error, home.payload) == (None, Raw(MSGPACK.null))
        assert (outcome.label, outcome.ends_job) == ("finished", False)

    def test_a_child_that_ends_so_before_its_join_is_missed_there(self) -> None:
        outcome = part(replace(ENVELOPE, route=Route("two"), forks=(OUTER,)))

        (event,) = events(outcome)
        (missed,) = messages(outcome)
        assert (event.kind, event.children) == ("missing", None)
        assert missed.error is not None
        assert missed.error.type == "JoinMissed"


def siblings(*bodies: bytes | None) -> tuple[Message, list[bytes | None]]:
    return Message(b"", child_id("m1", 3, "two", -1)), list(bodies)


def sibling(index: int, **changes: Any) -> bytes:
    """A child that came to `merge`."""
    child = messages(part(ENVELOPE))[index]
    arrived = replace(child, route=child.route.advance(), hops=child.hops + 1)
    return encode_envelope(replace(arrived, **changes), MSGPACK)


def meet(*bodies: bytes | None) -> Meeting:
    meeting = met(*siblings(*bodies), ACTORS["merge"])
    assert meeting is not None
    return meeting


class TestMeeting:
    def test_siblings_become_the_message_that_they_came_from(self) -> None:
        meeting = meet(sibling(0), sibling(1))

        assert payloads(meeting) == [result("page 1").raw, result("page 2").raw]
        assert (meeting.codec, meeting.gather) == (MSGPACK, False)
        assert meeting.envelope == replace(
            ENVELOPE,
            route=Route("merge", ("note",), ("two", "note")),
            payload=Raw(MSGPACK.null),
            hops=5,
            attempt=1,
            enqueued_at=12.0,
            joined=True,
        )

    def test_outer_brackets_stay_open(self) -> None:
        inner = messages(part(replace(ENVELOPE, forks=(OUTER,))))[0]
        body = encode_envelope(replace(inner, route=inner.route.advance()), MSGPACK)

        meeting = meet(body, body)

        assert (meeting.envelope.forks, meeting.envelope.parent) == ((OUTER,), "m0")

    def test_the_longest_way_counts(self) -> None:
        assert meet(sibling(0), sibling(1, hops=17)).envelope.hops == 17
        assert meet(sibling(0, hops=17), sibling(1)).envelope.hops == 17

    def test_the_headers_are_the_first_siblings(self) -> None:
        meeting = meet(sibling(0, headers={"n": "1"}), sibling(1, headers={"n": "2"}))

        assert meeting.envelope.headers == {"n": "1"}

    def test_who_did_not_come_is_missing(self) -> None:
        failure = Failure("ValueError", "too dark", "note")

        meeting = meet(None, sibling(1, error=failure))

        assert meeting.siblings == (None, None)
        assert meeting.envelope.error is None
        assert meeting.envelope.failures == {
            0: Failure("JoinTimeout", "did not come in time", "merge"),
            1: failure,
        }

    def test_who_sent_nonsense_is_missing(self) -> None:
        meeting = meet(sibling(0), b"nonsense")

        assert meeting.siblings[1] is None
        assert meeting.envelope.failures[1].type == "JoinTimeout"
        assert meeting.envelope.failures[1].message.startswith("sent what is not an envelope")

    @pytest.mark.parametrize("bodies", [(b"nonsense", b"{"), (None, b""), (None,)])
    def test_nonsense_alone_is_no_meeting(self, bodies: tuple[bytes | None, ...]) -> None:
        with pytest.raises(DecodeError, match="no part of this join is an envelope"):
            met(*siblings(*bodies), ACTORS["merge"])

    def test_a_message_that_was_sent_as_a_join_of_one_is_no_sibling(self) -> None:
        alone = encode_envelope(ENVELOPE, MSGPACK)

        assert met(Message(b"", "m1"), [alone], ACTORS["two"]) is None
        assert met(Message(b"", "m1"), [sibling(0)], ACTORS["two"]) is None

    @both_codecs
    @given(items=st.lists(st.none() | st.text() | st.lists(st.integers(0, 9))))
    def test_the_payload_is_the_list_of_the_siblings(self, codec: Codec, items: list[Any]) -> None:
        encoded = [None if item is None else codec.encode(item) for item in items]

        assert codec.decode(joined(ENVELOPE, codec, encoded).payload) == items


def gather(*failures: Failure, forks: tuple[Fork, ...] = ()) -> Outcome:
    """Count three children home, of whom the last have failed."""
    home = replace(
        ENVELOPE, forks=forks, joined=True, failures=dict(enumerate(failures, 3 - len(failures)))
    )
    return gathered(step(home, ACTORS["two"]), 3)


DARK = Failure("ValueError", "too dark", "note")
CANCELLED = Failure("JobCancelled", "The job was cancelled.", "note")


class TestGathering:
    def test_a_job_ends_when_all_children_have_come_home(self) -> None:
        outcome = gather()

        (event,) = events(outcome)
        assert (event.kind, event.children, event.payload) == ("succeeded", 3, UNSET)
        assert (outcome.label, outcome.ends_job) == ("finished", True)

    def test_a_child_ends_when_its_own_have_come_home(self) -> None:
        outcome = gather(forks=(OUTER_GATHER,))

        (event,) = events(outcome)
        (home,) = messages(outcome)
        assert (event.kind, event.path, event.children) == ("child", (2,), 3)
        assert home.error is None

    def test_a_child_that_counts_its_own_home_before_its_join_is_missed_there(self) -> None:
        outcome = gather(forks=(OUTER,))

        (missed,) = messages(outcome)
        assert missed.error is not None
        assert (missed.error.type, missed.error.actor) == ("JoinMissed", "two")
        assert [event.kind for event in events(outcome)] == ["missing"]

    def test_a_job_fails_if_a_child_has(self) -> None:
        outcome = gather(DARK, replace(DARK, message="too small"))

        (event,) = events(outcome)
        assert (event.kind, outcome.label, outcome.ends_job) == ("failed", "failed", True)
        assert event.error == Failure(
            "JoinFailed",
            "2 of 3 children failed, the first in 'note': ValueError: too dark",
            "two",
        )

    @pytest.mark.parametrize(
        ("fork", "kind"), [(OUTER_GATHER, "child"), (OUTER, "missing")], ids=["gather", "join"]
    )
    def test_a_child_fails_if_one_of_its_own_has(self, fork: Fork, kind: str) -> None:
        outcome = gather(DARK, forks=(fork,))

        (event,) = events(outcome)
        (missed,) = messages(outcome)
        assert (event.kind, outcome.label, outcome.ends_job) == (kind, "failed", False)
        assert missed.error is not None
        assert missed.error == event.error
        assert missed.error.type == "JoinFailed"

    def test_a_job_was_cancelled_if_a_child_was(self) -> None:
        outcome = gather(DARK, CANCELLED)

        assert [event.kind for event in events(outcome)] == ["cancelled"]
        assert (outcome.label, outcome.ends_job) == ("cancelled", True)

    def test_a_child_that_was_cancelled_tells_so_upwards(self) -> None:
        outcome = gather(DARK, CANCELLED, forks=(OUTER_GATHER,))

        assert messages(outcome)[0].error == CANCELLED


def test_the_examples_of_recursion_are_what_one_would_write_down() -> None:
    assert fan_outs.expected(["two", "note"], 0) == [["note", [0, 0]], ["note", [1, 0]]]
    assert fan_outs.expected(["two", "none", "weld", "merge"], 0) == ["merge", ["weld"], ["weld"]]
    assert fan_outs.expected(["merge", "two", "two"], 0) == [
        [[0, [0, ["merge", 0]]], [1, [0, ["merge", 0]]]],
        [[0, [1, ["merge", 0]]], [1, [1, ["merge", 0]]]],
    ]
    assert fan_outs.expected(["two", "regroup", "merge"], 0) == [
        "merge",
        [0, [0, 0]],
        [1, [1, 0]],
    ]


@pytest.mark.parametrize("by", [each for each in fan_outs.ACTORS if each.signature.yields])
def test_the_actors_do_what_recursion_expects_of_them(by: Actor[..., Any]) -> None:
    async def children() -> list[Any]:
        return [child async for child in by([5, 6])]

    assert asyncio.run(children()) == [*fan_outs.PARTINGS[by.name]([5, 6])]
