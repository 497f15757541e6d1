"""How the children of a fan-out part and meet again; pure.

A fan-out gives each child a `Fork`, which says where its siblings meet.
That is the next actor of the route with a `Join`, fan-outs in between having joins of their own.
Where none is ahead, the actor that fanned out *gathers*: it counts the children home,
each of which has told its own result, and then ends the message that they came from.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Raw
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._outcome import (
    Outcome,
    Payload,
    Rules,
    Step,
    addressed,
    ended,
    event_of,
    missing,
    next_envelope,
    part_of,
    told,
)
from asyafw.envelope import (
    Codec,
    Envelope,
    Failure,
    Fork,
    child_id,
    decode_envelope,
    encode_envelope,
)
from asyafw.events import append
from asyafw.exceptions import DecodeError, JobCancelled, JoinFailed, LimitExceeded
from asyafw.transport import Message, Out, Send

__all__ = ["GATHER_TIMEOUT_S", "Meeting", "fanned_out", "gathered", "joined", "met"]

GATHER_TIMEOUT_S = 86_400.0
"""How long the children of a fan-out that nobody joins may take to come home, in seconds."""

_CANCELLED = JobCancelled.__qualname__


def fanned_out(step: Step, rules: Rules, payloads: Sequence[Payload]) -> Outcome:
    """Make a child of each payload, all in one step.

    Raises:
        LimitExceeded: too many children or hops, or too long a route.
        UnknownActor: the route names an actor that the app does not have.
    """
    total = len(payloads)
    if total > rules.limits.children:
        raise LimitExceeded(
            f"{step.actor.name} made more than {rules.limits.children} children; "
            "fan out in two steps, or raise App(limits=Limits(children=...))"
        )
    meets = _meeting_place(step.route.next, rules)
    if not step.route.next or (total == 0 and meets is None):
        return _ended_with(step, payloads)
    parent = next_envelope(step, rules, Payload(Raw(step.codec.null)))
    fork = _fork(step, rules, meets, total)
    out: list[Out] = [
        addressed(_child(parent, step, payload, replace(fork, index=index)), step.codec)
        for index, payload in enumerate(payloads)
    ]
    if total == 0:
        out.append(_empty_join(parent, step.codec, fork))
    if rules.events == "hops":
        out.append(told(step, "hop", next=step.route.next, children=total))
    return Outcome("fanned_out", out)


def _meeting_place(names: Sequence[str], rules: Rules) -> int | None:
    """Find the join that closes a fan-out, as a bracket closes another: its place in `names`."""
    depth = 0
    for place, name in enumerate(names):
        if name in rules.joins:
            if depth == 0:
                return place
            depth -= 1
        if name in rules.forks:
            depth += 1
    return None


def _fork(step: Step, rules: Rules, meets: int | None, total: int) -> Fork:
    envelope, names = step.envelope, step.route.next
    at = None if meets is None else names[meets]
    return Fork(
        join=child_id(envelope.id, envelope.hops, step.actor.name, -1),
        index=0,
        total=total,
        at=at or step.actor.name,
        timeout_s=rules.joins[at].timeout_s if at else GATHER_TIMEOUT_S,
        parent=envelope.parent,
        next=() if meets is None else names[meets + 1 :],
        gather=meets is None,
    )


def _child(parent: Envelope, step: Step, payload: Payload, fork: Fork) -> Envelope:
    envelope = step.envelope
    return replace(
        parent,
        id=child_id(envelope.id, envelope.hops, step.actor.name, fork.index),
        parent=envelope.id,
        payload=payload.raw,
        claim=payload.claim,
        forks=(*envelope.forks, fork),
    )


def _empty_join(parent: Envelope, codec: Codec, fork: Fork) -> Send:
    """Let the join of no children at all begin at once."""
    route = parent.route
    while len(route.next) > len(fork.next):
        route = route.advance()
    empty = replace(parent, route=route, payload=Raw(codec.array([])), joined=True)
    return Send(fork.at, Message(encode_envelope(empty, codec)))


def _ended_with(step: Step, payloads: Sequence[Payload]) -> Outcome:
    """End a message with a list of results; each is told by itself, so that none is too large."""
    envelope = step.envelope
    path = tuple(fork.index for fork in envelope.forks)
    event = event_of(step, "child")
    results: list[Out] = [
        append(
            replace(
                event,
                id=child_id(envelope.id, envelope.hops, step.actor.name, index),
                path=(*path, index),
                payload=payload.raw,
                claim=payload.claim,
            ),
            step.codec,
            envelope.reply,
        )
        for index, payload in enumerate(payloads)
    ]
    return _ended_by_children(step, len(payloads), results)


def _ended_by_children(step: Step, total: int, out: list[Out]) -> Outcome:
    """End a message whose results its children have told."""
    envelope = step.envelope
    if not envelope.forks:
        out.append(told(step, "succeeded", children=total))
        return Outcome("finished", out, ends_job=True)
    if not envelope.forks[-1].gather:  # a join that it has missed
        return ended(step, Payload(Raw(step.codec.null)))
    out += part_of(envelope, step.codec), told(step, "child", children=total)
    return Outcome("finished", out)


class Meeting(NamedTuple):
    """Siblings that have met, and the message that they become, still without its payload.

    A sibling is None if it failed or never came; `Envelope.failures` of the message says why.
    """

    envelope: Envelope
    codec: Codec
    siblings: tuple[Envelope | None, ...]
    gather: bool


def met(
    message: Message, parts: Sequence[bytes | None], actor: Actor[..., object]
) -> Meeting | None:
    """Read the parts of a completed join.

    Gives None if it is not one of siblings: then its only part is a message by itself,
    sent in this way so that it arrives once however often it was sent.

    Raises:
        DecodeError: no part is an envelope.
    """
    siblings: list[Envelope | None] = []
    failures: dict[int, Failure] = {}
    codec: Codec | None = None
    first: Envelope | None = None
    for index, part in enumerate(parts):
        sibling, failure = None, _never_came(actor)
        if part is not None:
            try:
                sibling, codec = decode_envelope(part)
            except DecodeError as error:
                failure = _never_came(actor, f"sent what is {error}")
            else:
                first = first or sibling
                failure = sibling.error or failure
        siblings.append(sibling if sibling is not None and sibling.error is None else None)
        if siblings[-1] is None:
            failures[index] = failure
    if first is None or codec is None:
        raise DecodeError("no part of this join is an envelope")
    if not first.forks or first.forks[-1].join != message.key:
        return None
    fork = first.forks[-1]
    envelope = replace(
        first,
        id=first.parent or first.id,
        parent=fork.parent,
        route=replace(first.route, curr=fork.at, next=fork.next),
        payload=Raw(codec.null),
        claim=None,
        hops=max(sibling.hops for sibling in (first, *siblings) if sibling is not None),
        attempt=1,
        error=None,
        forks=first.forks[:-1],
        joined=True,
        failures=failures,
        turns={},
    )
    return Meeting(envelope, codec, tuple(siblings), fork.gather)


def _never_came(actor: Actor[..., object], reason: str = "did not come in time") -> Failure:
    return Failure(type="JoinTimeout", message=reason, actor=actor.name)


def joined(envelope: Envelope, codec: Codec, items: Sequence[bytes | None]) -> Envelope:
    """Give the message of a meeting its payload: its siblings', null for each that is missing."""
    encoded = [codec.null if item is None else item for item in items]
    return replace(envelope, payload=Raw(codec.array(encoded)))


def gathered(step: Step, total: int) -> Outcome:
    """End a message whose children have all come home, or can no longer be waited for.

    `step.envelope` is that of a `Meeting` of `total` siblings.
    """
    envelope, failures = step.envelope, step.envelope.failures
    if not failures:
        return _ended_by_children(step, total, [])
    cancelled = next((f for f in failures.values() if f.type == _CANCELLED), None)
    failure = cancelled or _some_failed(step, total)
    if envelope.forks:
        return Outcome("failed", missing(step, failure))
    if cancelled:
        return Outcome("cancelled", (told(step, "cancelled"),), ends_job=True)
    return Outcome("failed", (told(step, "failed", error=failure),), ends_job=True)


def _some_failed(step: Step, total: int) -> Failure:
    failures = step.envelope.failures
    first = failures[min(failures)]
    return Failure(
        type=JoinFailed.__qualname__,
        message=f"{len(failures)} of {total} children failed, the first in {first.actor!r}: "
        f"{first.type}: {first.message}",
        actor=step.actor.name,
    )
