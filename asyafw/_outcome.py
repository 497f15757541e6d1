"""From a handler's result or error to what its delivery is settled with; pure.

Every function gives the `Outcome` whose `out` goes into one `Delivery.settle`.
"""

import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Raw, Struct

from asyafw._actor import Actor, Join
from asyafw.envelope import (
    MSGPACK,
    Claim,
    Codec,
    Envelope,
    Failure,
    Fork,
    Limits,
    Route,
    child_id,
    encode_envelope,
    new_id,
)
from asyafw.events import DEAD_LETTERS, Event, Kind, append
from asyafw.exceptions import JobCancelled, LimitExceeded, Retry, UnknownActor
from asyafw.transport import Append, Message, Out, Part, Send

__all__ = [
    "GATHER_TIMEOUT_S",
    "UNDECODABLE",
    "Outcome",
    "Payload",
    "Rules",
    "Step",
    "cancelled",
    "ended",
    "failed",
    "failure_of",
    "fanned_out",
    "handed_on",
    "retried",
    "undecodable",
]

GATHER_TIMEOUT_S = 86_400.0
"""How long the children of a fan-out that nobody joins may take to come home, in seconds."""

UNDECODABLE = {"content-type": "application/octet-stream"}
"""The headers of a dead letter whose payload is the bytes of a message that is no envelope."""

_TRACEBACK_CHARS = 16_384


class Rules(Struct, frozen=True):
    """What holds for all messages of an app.

    `joins` are the actors that join; `forks` those that fan out;
    `known` all names that a route may hold, empty where that is not known.
    With ``events="jobs"`` only the begin and the end of jobs and children are told, not their hops.
    """

    joins: Mapping[str, Join]
    forks: Collection[str] = frozenset()
    known: Collection[str] = frozenset()
    limits: Limits = Limits()
    events: Literal["hops", "jobs"] = "hops"


class Payload(NamedTuple):
    """An encoded payload, or the claim for one; `raw` is null then."""

    raw: Raw
    claim: Claim | None = None


class Step(NamedTuple):
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


class Outcome(NamedTuple):
    """What becomes of a message; `label` is its name in the metrics."""

    label: str
    out: Sequence[Out]
    ends_job: bool = False


def handed_on(step: Step, rules: Rules, payload: Payload) -> Outcome:
    """Pass a result to the next actor of the route, or end the message with it.

    Raises:
        LimitExceeded: too many hops, or too long a route.
        UnknownActor: the route names an actor that the app does not have.
    """
    route = step.route
    if not route.next:
        return ended(step, rules, payload)
    envelope = _next_envelope(step, rules, payload)
    out = _address(envelope, step.codec, rules)
    if rules.events == "jobs":
        return Outcome("forwarded", (out,))
    return Outcome("forwarded", (out, _told(step, "hop", next=route.next)))


def ended(step: Step, rules: Rules, payload: Payload) -> Outcome:
    """End the message with a result: its job's, or its part in a fan-out."""
    envelope = step.envelope
    if not envelope.forks:
        done = _told(step, "succeeded", payload=payload.raw, claim=payload.claim)
        return Outcome("finished", (done,), ends_job=True)
    fork = envelope.forks[-1]
    missed = Failure(
        type="JoinMissed",
        message=f"ended its route at {step.actor.name!r}, before the join at {fork.at!r}",
        actor=step.actor.name,
        attempts=step.attempt,
    )
    part = _part(envelope, step.codec, error=None if fork.gather else missed)
    return Outcome(
        "finished", (part, _told(step, "child", payload=payload.raw, claim=payload.claim))
    )


def fanned_out(step: Step, rules: Rules, payloads: Sequence[Payload]) -> Outcome:
    """Make a child of each payload, all in one step.

    Raises:
        LimitExceeded: too many children or hops, or too long a route.
        UnknownActor: the route names an actor that the app does not have.
    """
    envelope, codec, route = step.envelope, step.codec, step.route
    total = len(payloads)
    if total > rules.limits.children:
        raise LimitExceeded(
            f"{step.actor.name} made more than {rules.limits.children} children; "
            "fan out in two steps, or raise App(limits=Limits(children=...))"
        )
    at = _meeting(route.next, rules)
    if not route.next or (total == 0 and at is None):
        return _fanned_out_to_nobody(step, payloads)
    parent = _next_envelope(step, rules, Payload(Raw(codec.null)))
    fork = Fork(
        join=child_id(envelope.id, envelope.hops, step.actor.name, -1),
        index=0,
        total=total,
        at=at or step.actor.name,
        timeout_s=rules.joins[at].timeout_s if at else GATHER_TIMEOUT_S,
        next=route.next[route.next.index(at) + 1 :] if at else (),
        gather=at is None,
    )
    out: list[Out] = [
        _address(_child(parent, step, payload, _with_index(fork, index)), codec, rules)
        for index, payload in enumerate(payloads)
    ]
    if total == 0:
        empty = _child(parent, step, Payload(Raw(codec.null)), fork)
        out.append(_part(empty, codec))
    if rules.events == "hops":
        out.append(_told(step, "hop", next=route.next, children=total))
    return Outcome("fanned_out", out)


def retried(step: Step, error: Retry) -> Outcome:
    """Run the message again after the delay that `error` holds, as it came."""
    delay_s = error.after_s or 0.0
    attempt = step.attempt + 1 if error.counted else step.attempt
    again = _replace(step.envelope, attempt=attempt, enqueued_at=step.now + delay_s)
    body = encode_envelope(again, step.codec)
    failure = failure_of(error.__cause__ or error, step, with_traceback=False)
    return Outcome(
        "retried" if error.counted else "postponed",
        (
            Send(step.actor.name, Message(body), delay_s),
            _told(step, "retried", error=failure),
        ),
    )


def failed(step: Step, rules: Rules, error: BaseException) -> Outcome:
    """Give up: to the recovery route if the actor has one, else to the dead letters."""
    failure = failure_of(error, step)
    envelope, codec = step.envelope, step.codec
    recovery = step.actor.on_exhausted
    recoverable = not isinstance(error, TimeoutError) or step.now < (envelope.deadline_at or step.now + 1)
    if recovery and recoverable and envelope.hops < rules.limits.hops:
        onward = step._replace(route=envelope.route.replace(*recovery), headers=envelope.headers)
        recovering = _next_envelope(onward, rules, Payload(envelope.payload, envelope.claim))
        recovering = _replace(recovering, error=failure)
        told = _told(step, "hop", next=recovery, error=failure)
        return Outcome("recovered", (_address(recovering, codec, rules), told))
    letter = _replace(envelope, error=failure, attempt=step.attempt, enqueued_at=step.now)
    buried = Send(DEAD_LETTERS, Message(encode_envelope(letter, codec)))
    if not envelope.forks:
        return Outcome("failed", (buried, _told(step, "failed", error=failure)), ends_job=True)
    part = _part(envelope, codec, error=failure)
    return Outcome("failed", (buried, part, _told(step, "child", error=failure)))


def cancelled(step: Step) -> Outcome:
    """Drop a message because its job was cancelled."""
    if not step.envelope.forks:
        return Outcome("cancelled", (_told(step, "cancelled"),), ends_job=True)
    failure = failure_of(JobCancelled(step.envelope.job), step, with_traceback=False)
    part = _part(step.envelope, step.codec, error=failure)
    return Outcome("cancelled", (part, _told(step, "child", error=failure)))


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
        error=Failure(type=_type_name(error), message=str(error), actor=actor),
    )
    return Outcome("undecodable", (Send(DEAD_LETTERS, Message(MSGPACK.encode(letter))),))


def failure_of(error: BaseException, step: Step, *, with_traceback: bool = True) -> Failure:
    """Record an exception as it travels."""
    lines = traceback.format_exception(error) if with_traceback else ()
    return Failure(
        type=_type_name(error),
        message=str(error),
        actor=step.actor.name,
        attempts=step.attempt,
        traceback="".join(lines)[-_TRACEBACK_CHARS:],
    )


def _type_name(error: BaseException) -> str:
    cls = type(error)
    own = cls.__module__ in ("builtins", "asyafw.exceptions")
    return cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}"


def _next_envelope(step: Step, rules: Rules, payload: Payload) -> Envelope:
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
    return Envelope(
        id=envelope.id,
        job=envelope.job,
        route=route.advance(),
        payload=payload.raw,
        v=envelope.v,
        parent=envelope.parent,
        headers=step.headers,
        flow=envelope.flow,
        created_at=envelope.created_at,
        enqueued_at=step.now,
        deadline_at=envelope.deadline_at,
        hops=hops,
        reply=envelope.reply,
        forks=envelope.forks,
        claim=payload.claim,
        extra=envelope.extra,
    )


def _child(parent: Envelope, step: Step, payload: Payload, fork: Fork) -> Envelope:
    envelope = step.envelope
    return _replace(
        parent,
        id=child_id(envelope.id, envelope.hops, step.actor.name, fork.index),
        parent=envelope.id,
        payload=payload.raw,
        claim=payload.claim,
        forks=(*envelope.forks, fork),
    )
