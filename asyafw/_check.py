"""Whether an app's actors fit together: their names, and their types from hop to hop; pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import Any, TypeAlias

from asyafw._actor import Actor
from asyafw._compatibility import mismatch
from asyafw._signature import without
from asyafw._spelling import did_you_mean
from asyafw.envelope import check_name
from asyafw.exceptions import InvalidName

__all__ = ["problems"]

_Actors: TypeAlias = Mapping[str, Actor[..., Any]]
_Flows: TypeAlias = Mapping[str, Sequence[str]]

_REMOTE = "if another app serves it, say so by App(remote=[...])"


def problems(actors: _Actors, flows: _Flows, known: Collection[str]) -> list[str]:
    """Find what does not fit, in one sentence each.

    Looked at are the flows and the routes that actors declare by ``may_route_to``
    and ``on_exhausted``. `known` are all names that a route may hold;
    of those that are not among `actors`, because other apps serve them, the types are not known.
    """
    found = [
        *_flow_problems(flows, actors),
        *_unknown_names(actors, flows, {*known, *actors}),
        *_hop_problems(actors, flows),
        *_recovery_problems(actors),
    ]
    return list(dict.fromkeys(found))


def _flow_problems(flows: _Flows, actors: _Actors) -> Iterator[str]:
    for flow, route in flows.items():
        try:
            check_name(flow)
        except InvalidName as error:
            yield f"flow {flow!r}: {error}"
        if isinstance(route, str):
            yield f"flow {flow!r} is the text {route!r}: write [{route!r}]"
        elif not route:
            yield f"flow {flow!r} is empty: it leads to at least one actor"
        for name in _unopened_joins(route, actors):
            yield f"flow {flow!r}: {name!r} joins, but nothing before it fans out for it"


def _unopened_joins(route: Sequence[str], actors: _Actors) -> Iterator[str]:
    """Match joins with the fan-outs before them, as closing brackets with opening ones."""
    depth = 0
    for name in route:
        actor = actors.get(name)
        if actor is None or any(_may_fan_out(other, actors) for other in actor.may_route_to):
            return  # whether it fans out is seen when it runs
        if actor.join and depth == 0:
            yield name
        elif actor.join:
            depth -= 1
        depth += actor.signature.yields


def _may_fan_out(name: str, actors: _Actors) -> bool:
    return name not in actors or actors[name].signature.yields


def _routes(actors: _Actors, flows: _Flows) -> Iterator[tuple[str, Sequence[str]]]:
    """Give every route that is written down somewhere, with where."""
    for flow, route in flows.items():
        yield f"flow {flow!r}", () if isinstance(route, str) else route
    for name, actor in actors.items():
        for other in actor.may_route_to:
            yield f"may_route_to of {name!r}", (name, other)
        yield f"on_exhausted of {name!r}", actor.on_exhausted


def _unknown_names(actors: _Actors, flows: _Flows, known: set[str]) -> Iterator[str]:
    for where, route in _routes(actors, flows):
        for name in route:
            if name not in known:
                hint = did_you_mean(name, known) or _REMOTE
                yield f"{where}: the app has no actor {name!r}; {hint}"


def _hop_problems(actors: _Actors, flows: _Flows) -> Iterator[str]:
    """Compare what is given with what is taken, once for each pair of actors."""
    hops: dict[tuple[str, str], str] = {}
    for where, route in _routes(actors, flows):
        for hop in pairwise(route):
            hops.setdefault(hop, where)
    for (giver, taker), where in hops.items():
        if giver in actors and taker in actors:
            problem = _hop_problem(actors[giver], actors[taker])
            if problem:
                yield f"{where}: {problem}"


def _hop_problem(giver: Actor[..., Any], taker: Actor[..., Any]) -> str | None:
    # Whoever gives None ends the route, so that nobody takes it.
    given = without(giver.output_type, NoneType)
    if given in (None, NoneType):
        return f"{giver.name!r} only gives None, which ends the route before {taker.name!r}"
    problem = mismatch(given, taker.input_type)
    return problem and f"{giver.name!r} gives what {taker.name!r} does not take: {problem}"


def _recovery_problems(actors: _Actors) -> Iterator[str]:
    """Compare what an actor took, and could not handle, with what its recovery route takes."""
    for name, actor in actors.items():
        first = actors.get(actor.on_exhausted[0]) if actor.on_exhausted else None
        if first is None:
            continue
        taken = actor.input_type
        if actor.join:  # siblings go on as they met, with None for those that never came
            taken = list.__class_getitem__(taken | None)
        problem = mismatch(taken, first.input_type)
        if problem:
            yield (
                f"on_exhausted of {name!r}: {first.name!r} does not take "
                f"what {name!r} takes: {problem}"
            )
