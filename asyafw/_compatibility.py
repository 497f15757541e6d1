"""Whether what one type encodes to decodes as another; pure.

The rules are those of msgspec's strict decoding of msgpack.
Types that have values in common fit, unless something that they spell out cannot:
a str may be a date or one of an enum's values, and any int may be at least 3;
but each member of a union, each value of an enum and each field must be taken.
"""

from types import UnionType
from typing import Any, NamedTuple, TypeAlias, Union, get_args, get_origin

from msgspec import inspect, msgpack
from msgspec.inspect import Type

from asyafw._wire import (
    Array,
    Map,
    array_of,
    bounds_of,
    in_common,
    is_open,
    kind_of,
    kinds_taken,
    map_of,
    members_of,
    takes,
    text_of,
    values_of,
)

__all__ = ["mismatch"]

_UNREADABLE = (TypeError, NameError, AttributeError, ValueError, RecursionError)


class _Problem(NamedTuple):
    """What does not fit, and where; without a path it is the whole."""

    path: tuple[str, ...] = ()
    text: str = ""

    def inside(self, step: str) -> "_Problem":
        return _Problem((step, *self.path), self.text)

    def sentence(self) -> str:
        if not self.path:
            return self.text.removeprefix(": ")
        steps = [step if step.startswith("[") else f".{step}" for step in self.path]
        noun = "item" if steps[-1].startswith("[") else "field"
        return f"{noun} `{''.join(steps).removeprefix('.')}`{self.text}"


# By the identities of two types, which are kept so that no others get these.
_Known: TypeAlias = dict[tuple[int, int], tuple[Type, Type, _Problem | None]]


def mismatch(gives: Any, takes: Any) -> str | None:
    """Tell why values of the type `gives` do not decode as `takes`, None if nothing is against it.

    The sentence begins with the path of the first field that does not fit:
    ``field `photo.score`: float | None, but float is taken``.
    """
    undecodable = _undecodable(takes)
    if undecodable:
        return undecodable
    known: _Known = {}
    taken = _read(takes)
    problems = (_problem(given, taken, known) for given in map(_read, _encodable(gives)))
    return next((problem.sentence() for problem in problems if problem), None)


def _undecodable(annotation: Any) -> str | None:
    try:
        msgpack.Decoder(annotation)
    except _UNREADABLE as error:
        return f"{annotation!r} cannot be decoded: {error}"
    return None


def _encodable(annotation: Any) -> tuple[Any, ...]:
    """Give the members of a union that msgspec encodes but would not decode."""
    if get_origin(annotation) in (Union, UnionType) and _undecodable(annotation):
        return get_args(annotation)
    return (annotation,)


def _read(annotation: Any) -> Type:
    """Read a type; one that cannot be read may be anything."""
    try:
        return inspect.type_info(annotation)
    except _UNREADABLE:
        return inspect.AnyType()


def _problem(given: Type, taken: Type, known: _Known) -> _Problem | None:
    pair = id(given), id(taken)
    if pair not in known:
        # A type that contains itself fits if the rest of it does.
        known[pair] = given, taken, None
        found = _first_problem(given, taken, known)
        known[pair] = given, taken, found if not found or found.path else _differs(given, taken)
    return known[pair][2]


def _differs(given: Type, taken: Type) -> _Problem:
    return _Problem(text=f": {text_of(given)}, but {text_of(taken)} is taken")


def _first_problem(given: Type, taken: Type, known: _Known) -> _Problem | None:
    taken_members = members_of(taken)
    if any(map(is_open, taken_members)):
        return None
    problems = (_with_any(member, taken_members, known) for member in members_of(given))
    return next(filter(None, problems), None)


def _with_any(given: Type, taken_members: list[Type], known: _Known) -> _Problem | None:
    """Compare what is no union with the members of one."""
    if is_open(given):
        return None
    values = values_of(given)
    if values is not None:
        fits = all(any(takes(member, value) for member in taken_members) for value in values)
        return None if fits else _Problem()
    several = sum(map_of(member) is not None for member in taken_members) > 1
    problems = [_with_one(given, member, known, tagged=several) for member in taken_members]
    named = (problem for problem in problems if problem and problem.path)
    return None if None in problems else next(named, _Problem())


def _with_one(given: Type, taken: Type, known: _Known, *, tagged: bool) -> _Problem | None:
    """Compare what is no union; a problem of the whole has no text yet.

    Where a map may be decoded as several structs, it must be `tagged`.
    """
    if (array := array_of(given, giving=True)) is not None:
        wanted = array_of(taken)
        return _Problem() if wanted is None else _in_array(array, wanted, known)
    if (fields := map_of(given, giving=True)) is not None:
        needed = map_of(taken)
        if needed is None or not _tag_fits(fields, needed, known, tagged=tagged):
            return _Problem()
        return _in_map(fields, needed, known)
    fits = (
        kind_of(given) in kinds_taken(taken)
        and in_common(bounds_of(given), bounds_of(taken))
        and _zones_fit(given, taken)
    )
    return None if fits else _Problem()


def _zones_fit(given: Type, taken: Type) -> bool:
    zoned, wanted = getattr(given, "tz", None), getattr(taken, "tz", None)
    if isinstance(given, inspect.DateTimeType) and isinstance(taken, inspect.StrType):
        return not zoned  # with a zone it travels as a timestamp
    return None in (zoned, wanted) or zoned == wanted


def _may_fit(given: Type, taken: Type, known: _Known) -> bool:
    """Tell if some values may be decoded, by a look at their outside."""
    for mine in members_of(given):
        values = values_of(mine)
        if values is None:
            problem = _problem(mine, taken, known)
            if problem is None or problem.path:
                return True
        elif any(takes(theirs, value) for value in values for theirs in members_of(taken)):
            return True
    return False


def _in_array(given: Array, taken: Array, known: _Known) -> _Problem | None:
    if not in_common(given.bounds, taken.bounds):
        return _Problem()
    for index in range(max(len(given.places), len(taken.places))):
        mine, theirs = given.at(index), taken.at(index)
        if mine is None or theirs is None:
            continue
        problem = None
        if index < len(given.places):
            problem = _problem(mine, theirs, known)
        elif index < taken.bounds[0] and not _may_fit(mine, theirs, known):
            problem = _differs(mine, theirs)
        if problem:
            return problem.inside(f"[{index}]")
    if given.rest and taken.rest and (problem := _problem(given.rest, taken.rest, known)):
        return problem.inside("[]")
    return None


def _tag_fits(given: Map, taken: Map, known: _Known, *, tagged: bool) -> bool:
    if taken.tag is None:
        return True
    wanted, _ = taken.fields[taken.tag]
    if taken.tag in given.fields:
        return _may_fit(given.fields[taken.tag][0], wanted, known)
    return not tagged or (given.rest is not None and _may_fit(given.rest[1], wanted, known))


def _in_map(given: Map, taken: Map, known: _Known) -> _Problem | None:
    for name in taken.fields:
        if name != taken.tag and (problem := _in_field(given, name, taken, known)):
            return problem.inside(name)
    return _in_others(given, taken, known)


def _in_field(given: Map, name: str, taken: Map, known: _Known) -> _Problem | None:
    theirs, required = taken.fields[name]
    if name in given.fields:
        mine, always = given.fields[name]
        if required and not always:
            return _Problem(text=" may be missing")
        return _problem(mine, theirs, known)
    if not required:
        return None
    if given.rest is None:
        return _Problem(text=" is missing")
    mine = given.rest[1]
    return None if _may_fit(mine, theirs, known) else _differs(mine, theirs)


def _in_others(given: Map, taken: Map, known: _Known) -> _Problem | None:
    """Look at what is given and has no field of its own."""
    for name, (mine, _) in given.fields.items():
        if name not in taken.fields and (problem := _in_other(name, mine, taken, known)):
            return problem.inside(name)
    if given.rest is None:
        return None
    key, value = taken.rest or (inspect.StrType(), inspect.AnyType())
    if problem := _problem(given.rest[0], key, known):
        return problem.inside("[key]")
    problem = _problem(given.rest[1], value, known)
    return problem.inside("[...]") if problem else None


def _in_other(name: str, mine: Type, taken: Map, known: _Known) -> _Problem | None:
    if taken.rest is None:
        return _Problem(text=" is not taken") if taken.closed else None
    key, value = taken.rest
    if not any(takes(member, name) for member in members_of(key)):
        return _Problem(text=" is not taken")
    return _problem(mine, value, known)
