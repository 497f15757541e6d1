"""What msgspec makes of a type: as what its values travel, and from what they are decoded; pure."""

from collections.abc import Set as AbstractSet
from enum import Enum, Flag
from math import inf
from re import search
from types import NoneType
from typing import Any, NamedTuple, TypeAlias, get_origin

from msgspec import NODEFAULT, Struct, inspect
from msgspec.inspect import Type

__all__ = [
    "Array",
    "Map",
    "Value",
    "array_of",
    "bounds_of",
    "in_common",
    "is_open",
    "kind_of",
    "kinds_taken",
    "map_of",
    "members_of",
    "takes",
    "text_of",
    "values_of",
]

Value: TypeAlias = str | int | None
"""What an enum or a literal may hold."""

# What a value is called, and what else may come in its place.
# A text of some form has a name of its own, because it is more than a str.
_TEXTS = frozenset({"datetime", "date", "time", "timedelta", "UUID", "Decimal"})
_KINDS: dict[type[Type], tuple[str, frozenset[str]]] = {
    inspect.NoneType: ("None", frozenset()),
    inspect.BoolType: ("bool", frozenset()),
    inspect.IntType: ("int", frozenset()),
    inspect.FloatType: ("float", frozenset({"int"})),
    inspect.StrType: ("str", _TEXTS),
    inspect.BytesType: ("bytes", frozenset()),
    inspect.ByteArrayType: ("bytes", frozenset()),
    inspect.MemoryViewType: ("bytes", frozenset()),
    inspect.DateTimeType: ("datetime", frozenset({"str"})),
    inspect.DateType: ("date", frozenset({"str"})),
    inspect.TimeType: ("time", frozenset({"str"})),
    inspect.TimeDeltaType: ("timedelta", frozenset({"str"})),
    inspect.UUIDType: ("UUID", frozenset({"str", "bytes"})),
    inspect.DecimalType: ("Decimal", frozenset({"str", "int", "float"})),
    inspect.ExtType: ("Ext", frozenset({"datetime"})),
}
_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
_LISTS: dict[type[Type], str] = {
    inspect.SetType: "set[{}]",
    inspect.FrozenSetType: "frozenset[{}]",
    inspect.VarTupleType: "tuple[{}, ...]",
}


def members_of(found: Type) -> list[Type]:
    """Give the members of a union, or the type itself, without what only annotates them."""
    if isinstance(found, inspect.Metadata):
        return members_of(found.type)
    if isinstance(found, inspect.UnionType):
        return [member for each in found.types for member in members_of(each)]
    if isinstance(found, inspect.EnumType) and issubclass(found.cls, Flag):
        return [inspect.IntType()]
    return [found]


def is_open(found: Type) -> bool:
    """Tell if nothing is sure of a type: it is Any, or one that msgspec leaves to the user."""
    if isinstance(found, (inspect.EnumType, inspect.LiteralType)):
        return values_of(found) is None
    return not kind_of(found) and array_of(found) is None and map_of(found) is None


def values_of(found: Type) -> list[Value] | None:
    """Give the values of a type that spells them out."""
    if isinstance(found, inspect.EnumType):
        values: list[Any] = [member.value for member in found.cls]
    elif isinstance(found, inspect.LiteralType):
        values = list(found.values)
    else:
        return None
    return values if {type(value) for value in values} <= {str, int, NoneType} else None


def kind_of(found: Type) -> str:
    """Give the name of a scalar type, by which its values travel; of others an empty one."""
    return _KINDS[type(found)][0] if type(found) in _KINDS else ""


def kinds_taken(found: Type) -> AbstractSet[str]:
    """Give the kinds of values that may be decoded as a type."""
    values = values_of(found)
    if values is not None:
        return {_kind(value) for value in values}
    if type(found) not in _KINDS:
        return frozenset()
    kind, others = _KINDS[type(found)]
    return others | {kind}


def takes(taken: Type, value: Value) -> bool:
    """Tell if a value that is spelled out may be decoded as a type, which is no union."""
    values = values_of(taken)
    if values is not None and not _makes_members(taken):
        return value in values
    if is_open(taken):
        return True
    pattern = getattr(taken, "pattern", None)
    size = len(value) if isinstance(value, str) else value or 0
    return (
        _kind(value) in kinds_taken(taken)
        and in_common((size, size), bounds_of(taken))
        and not (isinstance(value, str) and pattern and not search(pattern, value))
    )


def bounds_of(found: Type) -> tuple[float, float]:
    """Give the smallest and the largest value or length, both of which may count or not."""
    lowest, highest = (
        [bound for name in names if (bound := getattr(found, name, None)) is not None]
        for names in (("gt", "ge", "min_length"), ("lt", "le", "max_length"))
    )
    return max(lowest, default=-inf), min(highest, default=inf)


def in_common(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Tell if two ranges meet."""
    return first[0] <= second[1] and second[0] <= first[1]


class Array(NamedTuple):
    """Items of types by their places and, if `rest` is a type, others of that.

    `bounds` are those of their number.
    """

    places: tuple[Type, ...]
    rest: Type | None
    bounds: tuple[float, float]

    def at(self, index: int) -> Type | None:
        """Give the type of an item, None where none is, or one is not looked at."""
        return self.places[index] if index < len(self.places) else self.rest


def array_of(found: Type, *, giving: bool = False) -> Array | None:
    """Read a type whose values are arrays, as it is encoded (`giving`) or decoded."""
    if isinstance(found, inspect.CollectionType):
        return Array((), found.item_type, bounds_of(found))
    if isinstance(found, inspect.TupleType):
        count = len(found.item_types)
        return Array(found.item_types, None, (count, count))
    if isinstance(found, inspect.NamedTupleType):
        closed = True
    elif isinstance(found, inspect.StructType) and found.array_like:
        closed = found.forbid_unknown_fields
    else:
        return None
    tags = _tag_of(found)
    places = (*tags, *(field.type for field in found.fields))
    needed = [place for place, field in enumerate(found.fields, 1) if giving or field.required]
    most = len(places) if giving or closed else inf
    return Array(places, None, (len(tags) + max(needed, default=0), most))


class Map(NamedTuple):
    """Fields, each with whether it is always given or required, and others of `rest`.

    `rest` is a type of key and one of value, None if there are no others.
    `tag` names the field that tells structs apart; with `closed` no others may come.
    """

    fields: dict[str, tuple[Type, bool]]
    rest: tuple[Type, Type] | None = None
    tag: str | None = None
    closed: bool = False


def map_of(found: Type, *, giving: bool = False) -> Map | None:
    """Read a type whose values are maps, as it is encoded (`giving`) or decoded."""
    if isinstance(found, inspect.DictType):
        return Map({}, (found.key_type, found.value_type))
    records = (inspect.StructType, inspect.TypedDictType, inspect.DataclassType)
    if not isinstance(found, records) or getattr(found, "array_like", False):
        return None
    fields = {
        field.encode_name: (field.type, _is_given(field, found) if giving else field.required)
        for field in found.fields
    }
    for tag in _tag_of(found):
        fields[getattr(found, "tag_field", "")] = tag, True
    return Map(
        fields,
        tag=getattr(found, "tag_field", None),
        closed=getattr(found, "forbid_unknown_fields", False),
    )


def text_of(found: Type) -> str:
    """Write a type as its annotation would be, with its constraints."""
    limits = [
        f"{name}={value!r}"
        for name in _CONSTRAINTS
        if (value := getattr(found, name, None)) is not None
    ]
    return f"{_name(found)} ({', '.join(limits)})" if limits else _name(found)


def _name(found: Type) -> str:  # noqa: PLR0911 — a case for each form of an annotation
    match found:
        case inspect.Metadata():
            return text_of(found.type)
        case inspect.UnionType():
            return " | ".join(map(text_of, found.types))
        case inspect.LiteralType():
            return f"Literal[{', '.join(map(repr, found.values))}]"
        case inspect.TupleType():
            return f"tuple[{', '.join(map(text_of, found.item_types))}]"
        case inspect.CollectionType():
            return _LISTS.get(type(found), "list[{}]").format(text_of(found.item_type))
        case inspect.DictType():
            return f"dict[{text_of(found.key_type)}, {text_of(found.value_type)}]"
        case _:
            cls = getattr(found, "cls", Any)
            return kind_of(found) or str(getattr(cls, "__name__", cls))


def _kind(value: Value) -> str:
    return "None" if value is None else type(value).__name__


def _makes_members(found: Type) -> bool:
    """Tell if an enum has a way to make members of other values."""
    mro = found.cls.__mro__ if isinstance(found, inspect.EnumType) else ()
    return any("_missing_" in vars(cls) for cls in mro if cls is not Enum)


def _tag_of(found: Type) -> list[Type]:
    tag = getattr(found, "tag", None)
    return [] if tag is None else [inspect.LiteralType((tag,))]


def _is_given(field: inspect.Field, record: Any) -> bool:
    """Tell if a field is there in every encoded value."""
    if field.required or isinstance(record, inspect.TypedDictType):
        return field.required
    if field.default is NODEFAULT and field.default_factory is NODEFAULT:
        return False  # the default is UNSET
    cls = get_origin(record.cls) or record.cls
    omits = issubclass(cls, Struct) and cls.__struct_config__.omit_defaults
    return not omits or (
        field.default is NODEFAULT and field.default_factory not in (list, dict, set)
    )
