"""Actors that part and meet again, and what plain recursion makes of a route through them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from asyafw import Actor, Join, actor

# What an actor makes of its payload, or of its siblings' payloads.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "note": lambda value: ["note", value],
    "merge": lambda values: ["merge", *values],
    "weld": lambda values: ["weld", *values],
}
PARTINGS: dict[str, Callable[[Any], Iterator[Any]]] = {
    "none": lambda _: iter(()),
    "two": lambda value: ([index, value] for index in range(2)),
    "some": lambda value: ([index, value] for index in range(len(repr(value)) % 3)),
    "regroup": lambda values: ([index, value] for index, value in enumerate(values)),
}
JOINS = ("merge", "weld", "regroup")


@actor
async def note(value: Any) -> Any:
    return CHANGES["note"](value)


@actor(join=Join())
async def merge(values: list[Any]) -> Any:
    return CHANGES["merge"](values)


@actor(join=Join())
async def weld(values: list[Any]) -> Any:
    return CHANGES["weld"](values)


@actor
async def none(value: Any) -> AsyncIterator[Any]:
    for child in PARTINGS["none"](value):
        yield child


@actor
async def two(value: Any) -> AsyncIterator[Any]:
    for child in PARTINGS["two"](value):
        yield child


@actor
async def some(value: Any) -> AsyncIterator[Any]:
    for child in PARTINGS["some"](value):
        yield child


@actor(join=Join())
async def regroup(values: list[Any]) -> AsyncIterator[Any]:
    for child in PARTINGS["regroup"](values):
        yield child


ACTORS: list[Actor[..., Any]] = [note, merge, weld, none, two, some, regroup]

routes = st.lists(st.sampled_from([each.name for each in ACTORS]), min_size=1, max_size=8)
"""Brackets may be nested, empty, left open, or closed without having been opened."""


def expected(route: Sequence[str], value: Any) -> Any:
    """The result of a job, as a list where the children of a fan-out never meet."""
    if not route:
        return value
    return _visit(route[0], [value] if route[0] in JOINS else value, route[1:])


def _visit(name: str, taken: Any, rest: Sequence[str]) -> Any:
    if name not in PARTINGS:
        return expected(rest, CHANGES[name](taken))
    meets = _closing(rest)
    if meets is None:
        return [expected(rest, child) for child in PARTINGS[name](taken)]
    met = [expected(rest[:meets], child) for child in PARTINGS[name](taken)]
    return _visit(rest[meets], met, rest[meets + 1 :])


def _closing(names: Sequence[str]) -> int | None:
    """The place of the join that closes a bracket opened before `names`."""
    place = 0
    while place < len(names):
        if names[place] in JOINS:
            return place
        if names[place] in PARTINGS:
            place = _end_of_bracket(names, place)
        else:
            place += 1
    return None


def _end_of_bracket(names: Sequence[str], opened: int) -> int:
    """The place behind the bracket that is opened at a place."""
    closed = _closing(names[opened + 1 :])
    if closed is None:
        return len(names)
    place = opened + 1 + closed
    return _end_of_bracket(names, place) if names[place] in PARTINGS else place + 1
