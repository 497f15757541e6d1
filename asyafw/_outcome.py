"""From a handler's result or error to what its delivery is settled with; pure.

Every function gives the `Outcome` whose `out` goes into one `Delivery.settle`.
How the children of a fan-out part and meet again is in `_forks`.
"""

import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

from msgspec import Raw, Struct
from msgspec.structs import replace

from asyafw._actor import Actor, Join
from asyafw.envelope import (
    MSGPACK,
    Claim,
    Codec,
    Envelope,
    Failure,
    Limits,
    Route,
    encode_envelope,
    is_header,
    new_id,
)
from asyafw.events import DEAD_LETTERS, Event, Kind, append
from asyafw.exceptions import (
    JobCancelled,
    LimitExceeded,
    ResultTypeError,
    Retry,
    UnknownActor,
    message_of,
)
from asyafw.transport import Append, Message, Out, Part, Send

__all__ = [
    "UNDECODABLE",
    "Outcome",
    "Payload",
    "Rules",
    "Step",
    "addressed",
    "cancelled",
    "ended",
    "event_of",
    "failed",
    "failure_of",
    "handed_on",
    "missing",
    "next_envelope",
    "part_of",
    "retried",
    "told",
    "undecodable",
]

UNDECODABLE = {"content-type": "application/octet-stream"}
"""The headers of a dead letter whose payload is the bytes of a message that is no envelope."""

_TRACE = ("traceparent", "tracestate")
# An exception may quote all of a payload, and travels in events and dead letters.
_MESSAGE_CHARS = 4_096
_TRACEBACK_CHARS = 16_384


class Rules(Struct, frozen=True):
    """What holds for all messages of an app.

    `joins` are the actors that join; `forks` those that fan out;
    `known` all names that a route may hold, empty where that is not known.
    With ``events="jobs"`` the begin and the end of jobs and children are told, and what goes wrong
    in between, but no hop that goes well.
    """

    joins: Mapping[str, Join] = {}
    forks: Collection[str] = frozenset()
    known: Collection[str] = frozenset()
    limits: Limits = Limits()
    events: Literal["hops", "jobs"] = "hops"


class Payload(Struct, frozen=True):
    """An encoded payload, or the claim for one; `raw` is null then."""

    raw: Raw
    claim: Claim | None = None


class Step(Struct, frozen=True):
    """One run of a handler for one message, over at `now`.

    `route` and `headers` are as the handler left them; `attempt` counts crashes too.
    """

    envelope: Envelope
    codec: Codec
    actor: Actor[..., object]
    route: Route
    headers: dict[str, str]
    attempt: int
    started_at: float
    now: float


class Outcome(Struct, frozen=True):
    """What becomes of a message; `label` is its name in the metrics."""

    label: str
    out: Sequence[Out]
    ends_job: bool = False


def handed_on(step: Step, rules: Rules, payload: Payload) -> Outcome:
    """Pass a result to the next actor of the route, or end the message with it.

    Raises:
        LimitExceeded: too many hops, or too long a route.
        ResultTypeError: the handler set a header that is not text.
        UnknownActor: the route names an actor that the app does not have.
    """
    route = step.route
    if not route.next:
        return ended(step, payload)
    out = addressed(next_envelope(step, rules, payload), step.codec)
    if rules.events == "jobs":
        return Outcome("forwarded", (out,))
    return Outcome("forwarded", (out, told(step, "hop", next=route.next)))


def ended(step: Step, payload: Payload) -> Outcome:
    """End the message with a result: its job's, or its part in a fan-out."""
    envelope = step.envelope
    if not envelope.forks:
        done = told(step, "succeeded", payload=payload.raw, claim=payload.claim)
        return Outcome("finished", (done,), ends_job=True)
    fork = envelope.forks[-1]
    if fork.gather:
        out = told(step, "child", payload=payload.raw, claim=payload.claim)
        return Outcome("finished", (part_of(envelope, step.codec), out))
    missed = Failure(
        type="JoinMissed",
        message=f"ended its route at {step.actor.name!r}, before the join at {fork.at!r}",
        actor=step.actor.name,
        attempts=step.attempt,
    )
    part = part_of(envelope, step.codec, error=missed)
    return Outcome("finished", (part, told(step, "missing", error=missed)))


def retried(step: Step, error: Retry) -> Outcome:
    """Run the message again after the delay that `error` holds, as it came.

    Only a trace that began with this run goes on in the next.
    """
    delay_s = error.after_s or 0.0
    begun = {name: step.headers[name] for name in _TRACE if name in step.headers}
    again = replace(
        step.envelope,
        attempt=step.attempt + 1 if error.counted else step.attempt,
        enqueued_at=step.now + delay_s,
        headers=begun | step.envelope.headers,
    )
    body = encode_envelope(again, step.codec)
    failure = failure_of(error.__cause__ or error, step, with_traceback=False)
    return Outcome(
        "retried" if error.counted else "postponed",
        (
            Send(step.actor.name, Message(body), delay_s),
            told(step, "retried", error=failure),
        ),
    )


def failed(step: Step, rules: Rules, error: BaseException) -> Outcome:
    """Give up: to the recovery route if the actor has one, else to the dead letters."""
    failure = failure_of(error, step)
    return _recovered(step, rules, failure) or _buried(step, failure)


def _recovered(step: Step, rules: Rules, failure: Failure) -> Outcome | None:
    envelope, recovery = step.envelope, step.actor.on_exhausted
    expired = envelope.deadline_at is not None and step.now >= envelope.deadline_at
    if not recovery or expired:
        return None
    onward = replace(step, route=envelope.route.replace(*recovery), headers=envelope.headers)
    try:
        recovering = next_envelope(onward, rules, Payload(envelope.payload, envelope.claim))
    except (LimitExceeded, UnknownActor):
        return None
    out = addressed(replace(recovering, error=failure), step.codec)
    return Outcome("recovered", (out, told(step, "hop", next=recovery, error=failure)))


def _buried(step: Step, failure: Failure) -> Outcome:
    envelope, codec = step.envelope, step.codec
    letter = replace(envelope, error=failure, attempt=step.attempt, enqueued_at=step.now)
    buried = Send(DEAD_LETTERS, Message(encode_envelope(letter, codec)))
    if not envelope.forks:
        return Outcome("failed", (buried, told(step, "failed", error=failure)), ends_job=True)
    return Outcome("failed", (buried, *missing(step, failure)))


def cancelled(step: Step) -> Outcome:
    """Drop a message because its job was cancelled."""
    if not step.envelope.forks:
        return Outcome("cancelled", (told(step, "cancelled"),), ends_job=True)
    failure = failure_of(JobCancelled(step.envelope.job), step, with_traceback=False)
    return Outcome("cancelled", missing(step, failure))


def missing(step: Step, failure: Failure) -> tuple[Out, Out]:
    """Tell those who wait for a child that it does not come."""
    envelope = step.envelope
    kind: Kind = "child" if envelope.forks[-1].gather else "missing"
    return part_of(envelope, step.codec, error=failure), told(step, kind, error=failure)


def undecodable(body: bytes, actor: str, error: BaseException, now: float) -> Outcome:
    """Keep a message that is no envelope among the dead letters, with its original bytes."""
    letter = Envelope(
        id=new_id(),
        job="",
        route=Route(actor),
        payload=Raw(MSGPACK.encode(body)),
        headers=UNDECODABLE,
        created_at=now,
        enqueued_at=now,
        error=Failure(type=_type_name(error), message=_message(error), actor=actor),
    )
    return Outcome("undecodable", (Send(DEAD_LETTERS, Message(MSGPACK.encode(letter))),))


def failure_of(error: BaseException, step: Step, *, with_traceback: bool = True) -> Failure:
    """Record an exception as it travels."""
    lines = traceback.format_exception(error) if with_traceback else ()
    return Failure(
        type=_type_name(error),
        message=_message(error),
        actor=step.actor.name,
        attempts=step.attempt,
        traceback=_encodable("".join(lines)[-_TRACEBACK_CHARS:]),
    )


def _message(error: BaseException) -> str:
    return _encodable(message_of(error)[:_MESSAGE_CHARS])


def _encodable(text: str) -> str:
    """Escape what no encoding has: halves of surrogate pairs, as names of files may hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _type_name(error: BaseException) -> str:
    cls = type(error)
    own = cls.__module__ in ("builtins", "asyafw.exceptions")
    return cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}"


def next_envelope(step: Step, rules: Rules, payload: Payload) -> Envelope:
    """Make the message as the next actor of the route gets it.

    Raises:
        LimitExceeded: too many hops, or too long a route.
        ResultTypeError: the handler set a header that is not text.
        UnknownActor: the route names an actor that the app does not have.
    """
    envelope, route = step.envelope, step.route
    hops = envelope.hops + 1
    limits = rules.limits
    if hops > limits.hops:
        raise LimitExceeded(
            f"handed on {limits.hops} times already: does its route end? "
            "App(limits=Limits(hops=...)) raises the bound"
        )
    if len(route.next) + len(route.prev) >= limits.route:
        raise LimitExceeded(f"the route holds more than {limits.route} names")
    name = route.next[0]
    if rules.known and name not in rules.known:
        raise UnknownActor(f"the route goes to {name!r}, which the app does not have")
    if step.headers is not envelope.headers:
        _check_headers(step)
    return replace(
        envelope,
        route=route.advance(),
        payload=payload.raw,
        headers=step.headers,
        enqueued_at=step.now,
        hops=hops,
        attempt=1,
        joined=False,
        failures={},
        claim=payload.claim,
        error=None,
        turns={},
    )


def _check_headers(step: Step) -> None:
    """Refuse what the next worker could not read."""
    headers = cast("Mapping[object, object]", step.headers)
    for name, text in headers.items():
        if not is_header(name, text):
            raise ResultTypeError(
                f"{step.actor.name} set the header {name!r:.80} to {text!r:.80}: "
                "headers map text to text"
            )


def addressed(envelope: Envelope, codec: Codec) -> Send | Part:
    """Put a message on the queue of its actor, or into the join where its siblings meet there."""
    curr, forks = envelope.route.curr, envelope.forks
    if forks and forks[-1].at == curr and not forks[-1].gather:
        # Whatever it recovered from, it comes.
        return part_of(replace(envelope, error=None) if envelope.error else envelope, codec)
    return Send(curr, Message(encode_envelope(envelope, codec)))


def part_of(envelope: Envelope, codec: Codec, error: Failure | None = None) -> Part:
    """Make a child's part in the innermost join that waits for it.

    One that gathers gets no payload: the children's ends have told it.
    """
    fork = envelope.forks[-1]
    if fork.gather or error is not None:
        envelope = replace(envelope, payload=Raw(codec.null), claim=None, error=error)
    return Part(
        fork.at, fork.join, fork.index, fork.total, encode_envelope(envelope, codec), fork.timeout_s
    )


def told(step: Step, kind: Kind, **fields: Any) -> Append:
    """Tell what happened to the job."""
    return append(event_of(step, kind, fields), step.codec, step.envelope.reply)


def event_of(step: Step, kind: Kind, fields: Mapping[str, Any] = {}) -> Event:
    """Describe what happened to the job."""
    envelope = step.envelope
    return Event(
        kind=kind,
        job=envelope.job,
        id=envelope.id,
        at=step.now,
        flow=envelope.flow,
        actor=step.actor.name,
        hop=envelope.hops,
        attempt=step.attempt,
        enqueued_at=envelope.enqueued_at,
        started_at=step.started_at,
        path=tuple([fork.index for fork in envelope.forks]) if envelope.forks else (),
        **fields,
    )
