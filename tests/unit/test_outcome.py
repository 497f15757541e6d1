from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from msgspec.structs import replace

from asyafw._actor import Actor, Join, actor
from asyafw._outcome import (
    UNDECODABLE,
    Outcome,
    Payload,
    Rules,
    Step,
    cancelled,
    ended,
    failed,
    handed_on,
    next_envelope,
    retried,
    undecodable,
)
from asyafw.envelope import (
    MSGPACK,
    Codec,
    Envelope,
    Failure,
    Fork,
    Limits,
    Route,
    decode_envelope,
    encode_envelope,
)
from asyafw.events import DEAD_LETTERS, Event
from asyafw.exceptions import (
    DecodeError,
    LimitExceeded,
    Reject,
    ResultTypeError,
    RetriesExhausted,
    Retry,
    UnknownActor,
)
from asyafw.transport import Append, Part, Send
from tests.unit import making
from tests.unit.making import CLAIM, ENVELOPE, both_codecs, events, messages, result

RULES = Rules(known={"judge", "publish", "apologise", "merge"}, joins={"merge": Join()})
# A child of a fan-out whose siblings meet in `merge`, and one of a fan-out that nobody joins.
JOINING = Fork("f1", 1, 3, "merge", 60.0, next=("publish",))
GATHERING = Fork("f2", 2, 4, "split", 90.0, gather=True)


@actor
async def judge(payload: Any) -> Any:
    return payload


@actor(name="judge", on_exhausted=["apologise", "publish"])
async def recovering_judge(payload: Any) -> Any:
    return payload


def step(envelope: Envelope = ENVELOPE, *, by: Actor[..., Any] = judge, **changes: Any) -> Step:
    return making.step(envelope, by, **changes)


def sent(outcome: Outcome) -> Envelope:
    """The one message of an outcome."""
    (message,) = messages(outcome)
    return message


def told(outcome: Outcome) -> Event:
    """The one event of an outcome."""
    (event,) = events(outcome)
    return event


def part(outcome: Outcome) -> Part:
    (found,) = [out for out in outcome.out if isinstance(out, Part)]
    return found


class TestHandingOn:
    def test_a_result_goes_to_the_next_actor_with_all_that_belongs_to_the_message(self) -> None:
        outcome = handed_on(step(), RULES, result())

        (send, _) = outcome.out
        assert isinstance(send, Send)
        assert (send.queue, send.delay_s, send.message.key) == ("publish", 0, None)
        assert (outcome.label, outcome.ends_job) == ("forwarded", False)
        assert sent(outcome) == replace(
            ENVELOPE,
            route=Route("publish", (), ("enhance", "judge")),
            payload=Raw(MSGPACK.encode("photo 2")),
            hops=4,
            attempt=1,
            enqueued_at=12.0,
        )

    def test_what_belongs_to_one_hop_stays_behind(self) -> None:
        failure = Failure("ValueError", "too dark", "enhance")
        came = replace(ENVELOPE, error=failure, joined=True, failures={0: failure}, claim=CLAIM)

        goes = sent(handed_on(step(came), RULES, result()))

        assert (goes.error, goes.joined, goes.failures, goes.claim) == (None, False, {}, None)

    def test_a_result_may_travel_as_a_claim(self) -> None:
        goes = sent(handed_on(step(), RULES, Payload(Raw(MSGPACK.null), CLAIM)))

        assert (goes.claim, goes.payload) == (CLAIM, Raw(MSGPACK.null))

    def test_the_handlers_own_route_and_headers_travel_on(self) -> None:
        changed = step(
            route=ENVELOPE.route.prepend("apologise"), headers={"tenant": "acme", "stage": "judged"}
        )

        goes = sent(handed_on(changed, RULES, result()))

        assert goes.route == Route("apologise", ("publish",), ("enhance", "judge"))
        assert goes.headers == {"tenant": "acme", "stage": "judged"}

    @both_codecs
    def test_a_message_keeps_its_codec(self, codec: Codec) -> None:
        came = replace(ENVELOPE, payload=Raw(codec.encode("photo")), extra={})

        outcome = handed_on(step(came, codec=codec), RULES, result(codec=codec))

        (send, append) = outcome.out
        assert isinstance(send, Send)
        assert decode_envelope(send.message.body)[1] is codec
        assert told(outcome).kind == "hop"
        assert isinstance(append, Append)
        assert codec.decode(append.body)["job"] == "j1"

    def test_a_hop_is_told_with_its_times(self) -> None:
        outcome = handed_on(step(), RULES, result())

        assert told(outcome) == Event(
            kind="hop",
            job="j1",
            id="m1",
            at=12.0,
            flow="photos",
            actor="judge",
            hop=3,
            attempt=2,
            enqueued_at=2.0,
            started_at=10.0,
            next=("publish",),
        )
        assert [out.log for out in outcome.out if isinstance(out, Append)] == ["replies"]

    def test_a_hop_is_not_told_where_only_jobs_are(self) -> None:
        outcome = handed_on(step(), replace(RULES, events="jobs"), result())

        assert [type(out) for out in outcome.out] == [Send]

    def test_children_go_into_the_join_where_they_meet(self) -> None:
        came = replace(
            ENVELOPE, route=Route("judge", ("merge", "publish")), forks=(GATHERING, JOINING)
        )

        found = part(handed_on(step(came), RULES, result()))

        assert found == Part("merge", "f1", 1, 3, found.body, 60.0)
        sibling, _ = decode_envelope(found.body)
        assert (sibling.payload, sibling.route.curr) == (Raw(MSGPACK.encode("photo 2")), "merge")
        assert sibling.forks == (GATHERING, JOINING)

    def test_children_that_nobody_joins_pass_by_a_join_of_that_name(self) -> None:
        gathering = replace(GATHERING, at="publish")

        outcome = handed_on(step(replace(ENVELOPE, forks=(gathering,))), RULES, result())

        assert [type(out) for out in outcome.out] == [Send, Append]

    def test_as_many_hops_as_the_limit_says_are_made(self) -> None:
        rules = replace(RULES, limits=Limits(hops=4))
        last = replace(ENVELOPE, hops=3)

        assert sent(handed_on(step(last), rules, result())).hops == 4
        with pytest.raises(
            LimitExceeded, match=r"^handed on 4 times already: does its route end\?"
        ):
            handed_on(step(replace(last, hops=4)), rules, result())

    def test_a_route_holds_as_many_names_as_the_limit_says(self) -> None:
        full = step(route=ENVELOPE.route.replace(*["publish"] * 3))

        assert next_envelope(full, replace(RULES, limits=Limits(route=5)), result()).hops == 4
        with pytest.raises(LimitExceeded, match="the route holds more than 4 names"):
            next_envelope(full, replace(RULES, limits=Limits(route=4)), result())

    def test_a_route_to_an_unknown_actor_is_refused(self) -> None:
        astray = step(route=ENVELOPE.route.prepend("polish"))

        with pytest.raises(UnknownActor, match="the route goes to 'polish', which the app does"):
            handed_on(astray, RULES, result())
        assert sent(handed_on(astray, Rules(), result())).route.curr == "polish"

    @pytest.mark.parametrize("headers", [{"score": 0.5}, {"tenant": None}, {5: "five"}])
    def test_a_header_that_no_worker_could_read_is_refused(self, headers: Any) -> None:
        with pytest.raises(ResultTypeError, match="judge set the header"):
            handed_on(step(headers=headers), RULES, result())


class TestEnding:
    def test_a_message_at_the_end_of_its_route_ends_its_job(self) -> None:
        came = replace(ENVELOPE, route=Route("judge"))

        outcome = handed_on(step(came), RULES, result())

        (event,) = outcome.out
        assert isinstance(event, Append)
        assert (outcome.label, outcome.ends_job) == ("finished", True)
        assert (told(outcome).kind, told(outcome).payload) == ("succeeded", result().raw)

    def test_the_end_of_a_job_is_told_in_any_case(self) -> None:
        came = replace(ENVELOPE, route=Route("judge"))

        outcome = handed_on(step(came), replace(RULES, events="jobs"), result())

        assert told(outcome).kind == "succeeded"

    def test_a_result_may_be_a_claim(self) -> None:
        outcome = ended(step(), Payload(Raw(MSGPACK.null), CLAIM))

        assert told(outcome).claim == CLAIM

    def test_a_child_that_nobody_joins_tells_its_result_and_comes_home(self) -> None:
        came = replace(ENVELOPE, forks=(replace(GATHERING, index=0), GATHERING))

        outcome = ended(step(came), result())

        home, _ = decode_envelope(part(outcome).body)
        assert part(outcome) == Part("split", "f2", 2, 4, part(outcome).body, 90.0)
        assert (home.payload, home.error) == (Raw(MSGPACK.null), None)
        assert (told(outcome).kind, told(outcome).path) == ("child", (0, 2))
        assert told(outcome).payload == result().raw
        assert (outcome.label, outcome.ends_job) == ("finished", False)

    def test_a_child_that_ends_before_its_join_is_missed_there(self) -> None:
        came = replace(ENVELOPE, forks=(JOINING,), claim=CLAIM)

        outcome = ended(step(came), result())

        missed, _ = decode_envelope(part(outcome).body)
        assert missed.error == Failure(
            "JoinMissed", "ended its route at 'judge', before the join at 'merge'", "judge", 2
        )
        assert (missed.payload, missed.claim) == (Raw(MSGPACK.null), None)
        assert (told(outcome).kind, told(outcome).error) == ("missing", missed.error)
        assert told(outcome).payload is UNSET
        assert not outcome.ends_job


class TestRetrying:
    def test_a_message_runs_again_as_it_came(self) -> None:
        changed = step(route=ENVELOPE.route.stop(), headers={"half": "done"})

        outcome = retried(changed, Retry("busy", after_s=30))

        (send, _) = outcome.out
        assert isinstance(send, Send)
        assert (send.queue, send.delay_s) == ("judge", 30)
        assert sent(outcome) == replace(ENVELOPE, attempt=3, enqueued_at=42.0)
        assert (outcome.label, outcome.ends_job) == ("retried", False)

    def test_an_attempt_may_not_count(self) -> None:
        outcome = retried(step(), Retry("busy", after_s=30, counted=False))

        assert sent(outcome) == replace(ENVELOPE, attempt=2, enqueued_at=42.0)
        assert outcome.label == "postponed"

    def test_crashes_count_as_attempts(self) -> None:
        twice_crashed = step(attempt=4)

        assert sent(retried(twice_crashed, Retry())).attempt == 5
        assert sent(retried(twice_crashed, Retry(counted=False))).attempt == 4

    def test_a_retry_without_a_delay_is_at_once(self) -> None:
        (send, _) = retried(step(), Retry()).out

        assert isinstance(send, Send)
        assert send.delay_s == 0

    def test_a_join_runs_again_with_all_that_its_siblings_brought(self) -> None:
        failure = Failure("ValueError", "too dark", "enhance")
        met = replace(ENVELOPE, joined=True, failures={1: failure}, forks=(JOINING,))

        again = sent(retried(step(met), Retry()))

        assert (again.joined, again.failures, again.forks) == (True, {1: failure}, (JOINING,))

    def test_a_join_runs_again_as_a_message_of_its_own(self) -> None:
        met = replace(ENVELOPE, route=Route("merge"), joined=True, forks=(JOINING,))

        @actor(name="merge", join=Join())
        async def merge(items: list[Any]) -> Any:
            return items

        (send, _) = retried(step(met, by=merge), Retry()).out

        assert isinstance(send, Send), "it has met its siblings already"

    def test_the_reason_is_told_without_its_traceback(self) -> None:
        error = Retry("no route to host", after_s=30)
        error.__cause__ = OSError("no route to host")

        event = told(retried(step(), error))

        assert event.kind == "retried"
        assert event.error == Failure("OSError", "no route to host", "judge", 2)

    def test_a_handlers_own_retry_is_its_own_reason(self) -> None:
        assert told(retried(step(), Retry("busy"))).error == Failure("Retry", "busy", "judge", 2)


def thrown(error: Exception) -> Exception:
    """Give an exception its traceback."""
    with pytest.raises(type(error)) as raised:
        raise error
    return raised.value


class TestGivingUp:
    def test_a_dead_letter_is_the_whole_message_and_its_error(self) -> None:
        changed = step(route=ENVELOPE.route.stop(), headers={"half": "done"}, attempt=3)

        outcome = failed(changed, RULES, thrown(ValueError("too dark")))

        (send, append) = outcome.out
        assert isinstance(send, Send)
        assert (send.queue, send.delay_s) == (DEAD_LETTERS, 0)
        letter = sent(outcome)
        assert letter.error is not None
        assert letter == replace(ENVELOPE, attempt=3, enqueued_at=12.0, error=letter.error)
        assert letter.error.traceback.startswith("Traceback (most recent call last):")
        assert letter.error.traceback.endswith("ValueError: too dark\n")
        assert replace(letter.error, traceback="") == Failure("ValueError", "too dark", "judge", 3)
        assert (outcome.label, outcome.ends_job) == ("failed", True)
        assert isinstance(append, Append)

    def test_the_failure_of_the_job_is_told_with_it(self) -> None:
        outcome = failed(step(), RULES, thrown(ValueError("too dark")))

        assert told(outcome).kind == "failed"
        assert told(outcome).error == sent(outcome).error

    def test_a_dead_letter_keeps_the_claim_of_its_payload(self) -> None:
        letter = sent(failed(step(replace(ENVELOPE, claim=CLAIM)), RULES, ValueError()))

        assert letter.claim == CLAIM

    @pytest.mark.parametrize("error", [ValueError("x"), RetriesExhausted("x")])
    def test_errors_of_python_and_asyafw_have_short_names(self, error: Exception) -> None:
        letter = sent(failed(step(), RULES, error))

        assert letter.error is not None
        assert letter.error.type == type(error).__name__

    def test_errors_of_others_have_their_modules_name(self) -> None:
        class TooDark(Exception):
            pass

        letter = sent(failed(step(), RULES, TooDark()))

        assert letter.error is not None
        assert letter.error.type == f"{__name__}.{TooDark.__qualname__}"

    def test_long_errors_are_cut(self) -> None:
        error = sent(failed(step(), RULES, thrown(ValueError("x" * 100_000)))).error

        assert error is not None
        assert error.message == "x" * 4_096
        assert error.traceback == "x" * 16_383 + "\n"

    @both_codecs
    @given(text=st.text(st.characters()))
    def test_whatever_an_exception_says_can_travel(self, codec: Codec, text: str) -> None:
        came = replace(ENVELOPE, payload=Raw(codec.encode("photo")), extra={})

        letter = sent(failed(step(came, codec=codec), RULES, thrown(ValueError(text))))

        assert letter.error is not None
        assert letter.error.message == text.encode("utf-8", "backslashreplace").decode()

    def test_an_exception_that_cannot_say_what_it_is_can_travel(self) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise KeyError("reason")

        letter = sent(failed(step(), RULES, thrown(Mute())))

        assert letter.error is not None
        assert letter.error.message == "it does not say why: its __str__ fails"

    def test_a_child_that_failed_is_missed_where_its_siblings_meet(self) -> None:
        outcome = failed(step(replace(ENVELOPE, forks=(JOINING,))), RULES, Reject("no face"))

        (letter, missed, event) = outcome.out
        assert isinstance(letter, Send)
        assert isinstance(missed, Part)
        assert isinstance(event, Append)
        assert (letter.queue, missed.queue) == (DEAD_LETTERS, "merge")
        assert (outcome.label, outcome.ends_job) == ("failed", False)
        sibling, _ = decode_envelope(missed.body)
        assert sibling.error is not None
        assert (sibling.error.type, sibling.payload) == ("Reject", Raw(MSGPACK.null))
        assert (told(outcome).kind, told(outcome).error) == ("missing", sibling.error)

    def test_a_child_that_failed_comes_home_as_a_failure(self) -> None:
        outcome = failed(step(replace(ENVELOPE, forks=(GATHERING,))), RULES, Reject("no face"))

        assert part(outcome).queue == "split"
        assert (told(outcome).kind, told(outcome).path) == ("child", (2,))
        assert told(outcome).error is not None


class TestRecovering:
    def test_a_message_that_gave_up_takes_the_recovery_route(self) -> None:
        changed = step(by=recovering_judge, route=Route("judge"), headers={"half": "done"})

        outcome = failed(changed, RULES, thrown(ValueError("too dark")))

        (send, _) = outcome.out
        assert isinstance(send, Send)
        assert send.queue == "apologise"
        recovering = sent(outcome)
        assert recovering.error is not None
        assert recovering.error.type == "ValueError"
        assert recovering == replace(
            ENVELOPE,
            route=Route("apologise", ("publish",), ("enhance", "judge")),
            hops=4,
            attempt=1,
            enqueued_at=12.0,
            error=recovering.error,
        )
        assert (outcome.label, outcome.ends_job) == ("recovered", False)

    @pytest.mark.parametrize("events", ["hops", "jobs"])
    def test_a_recovery_is_told_with_its_reason(self, events: Any) -> None:
        rules = replace(RULES, events=events)

        outcome = failed(step(by=recovering_judge), rules, ValueError("too dark"))

        assert (told(outcome).kind, told(outcome).next) == ("hop", ("apologise", "publish"))
        assert told(outcome).error == Failure(
            "ValueError", "too dark", "judge", 2, "ValueError: too dark\n"
        )

    def test_a_claimed_payload_recovers_too(self) -> None:
        came = replace(ENVELOPE, claim=CLAIM)

        assert sent(failed(step(came, by=recovering_judge), RULES, ValueError())).claim == CLAIM

    @pytest.mark.parametrize(
        ("envelope", "rules"),
        [
            (ENVELOPE, replace(RULES, limits=Limits(hops=3))),
            (ENVELOPE, replace(RULES, known={"judge"})),
            (replace(ENVELOPE, deadline_at=12.0), RULES),
        ],
        ids=["too many hops", "an unknown actor", "past the deadline"],
    )
    def test_what_cannot_recover_is_buried_with_its_first_error(
        self, envelope: Envelope, rules: Rules
    ) -> None:
        outcome = failed(step(envelope, by=recovering_judge), rules, ValueError("too dark"))

        letter = sent(outcome)
        assert outcome.label == "failed"
        assert letter.error is not None
        assert (letter.error.type, letter.route) == ("ValueError", ENVELOPE.route)

    def test_a_message_without_a_deadline_can_always_recover(self) -> None:
        came = replace(ENVELOPE, deadline_at=None)

        assert failed(step(came, by=recovering_judge), RULES, ValueError()).label == "recovered"

    def test_a_child_may_recover_straight_into_its_join(self) -> None:
        @actor(name="judge", on_exhausted=["merge"])
        async def lenient_judge(payload: Any) -> Any:
            return payload

        came = replace(ENVELOPE, forks=(JOINING,))

        outcome = failed(step(came, by=lenient_judge), RULES, ValueError("too dark"))

        sibling, _ = decode_envelope(part(outcome).body)
        assert (sibling.error, sibling.payload) == (None, ENVELOPE.payload)
        assert told(outcome).error is not None


class TestCancelling:
    def test_a_job_ends_where_its_message_is_dropped(self) -> None:
        outcome = cancelled(step())

        (event,) = outcome.out
        assert isinstance(event, Append)
        assert (told(outcome).kind, told(outcome).actor) == ("cancelled", "judge")
        assert (outcome.label, outcome.ends_job) == ("cancelled", True)

    @pytest.mark.parametrize(
        ("fork", "queue", "kind"), [(JOINING, "merge", "missing"), (GATHERING, "split", "child")]
    )
    def test_a_child_that_is_dropped_is_missed(self, fork: Fork, queue: str, kind: str) -> None:
        outcome = cancelled(step(replace(ENVELOPE, forks=(fork,))))

        missed, _ = decode_envelope(part(outcome).body)
        assert part(outcome).queue == queue
        assert missed.error == Failure("JobCancelled", "The job was cancelled.", "judge", 2)
        assert (told(outcome).kind, told(outcome).error) == (kind, missed.error)
        assert (outcome.label, outcome.ends_job) == ("cancelled", False)


class TestUndecodable:
    @given(st.binary())
    def test_bytes_that_are_no_message_are_kept_exactly(self, body: bytes) -> None:
        outcome = undecodable(body, "judge", DecodeError("not an envelope: truncated"), 12.0)

        (send,) = outcome.out
        assert isinstance(send, Send)
        assert (send.queue, outcome.label, outcome.ends_job) == (
            DEAD_LETTERS,
            "undecodable",
            False,
        )
        letter = sent(outcome)
        assert MSGPACK.decode(letter.payload) == body
        assert letter.headers == UNDECODABLE
        assert (letter.job, letter.route) == ("", Route("judge"))
        assert letter.error == Failure("DecodeError", "not an envelope: truncated", "judge")

    def test_each_has_an_id_of_its_own(self) -> None:
        first, second = (sent(undecodable(b"", "judge", DecodeError(), 12.0)) for _ in range(2))

        assert first.id != second.id


@both_codecs
def test_fields_of_later_versions_travel_through_every_outcome(codec: Codec) -> None:
    later = {"later": Raw(codec.encode([1, None]))}
    came = replace(ENVELOPE, payload=Raw(codec.null), extra=later)
    body = encode_envelope(came, codec)
    again = step(decode_envelope(body)[0], codec=codec)

    for outcome in (
        handed_on(again, RULES, result(codec=codec)),
        retried(again, Retry()),
        failed(again, RULES, ValueError()),
        failed(replace(again, actor=recovering_judge), RULES, ValueError()),
    ):
        assert sent(outcome).extra == later
