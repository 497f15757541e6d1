import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from dataclasses import field as dataclass_field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from functools import partial
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NoReturn,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec import (
    UNSET,
    Meta,
    MsgspecError,
    Raw,
    Struct,
    UnsetType,
    defstruct,
    field,
    msgpack,
)

from asyafw._compatibility import mismatch

T = TypeVar("T")

PhotoId = NewType("PhotoId", int)
Positive = Annotated[int, Meta(gt=0)]
Zoned = Annotated[datetime, Meta(tz=True)]
Naive = Annotated[datetime, Meta(tz=False)]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Lenient(Enum):
    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> "Lenient | None":
        return cls.RED if isinstance(value, str) else None


class Fraction(Enum):
    HALF = 0.5


class Permission(IntFlag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(Struct, array_like=True):
    x: int
    y: int = 0


class ClosedRow(Struct, array_like=True, forbid_unknown_fields=True):
    x: int
    y: int = 0


class TaggedRow(Struct, array_like=True, tag="row"):
    x: int


class OtherRow(Struct, array_like=True, tag="other"):
    x: int


class Photo(Struct):
    uri: str
    score: float | None = None


class Scored(Struct):
    uri: str
    score: float


class Closed(Struct, forbid_unknown_fields=True):
    uri: str


class Camel(Struct, rename="camel"):
    photo_uri: str


class Renamed(Struct):
    uri: str = field(name="photoUri")


class Sparse(Struct, omit_defaults=True):
    uri: str = ""
    tags: list[str] = []
    id: int = field(default_factory=lambda: 3)


class Uri(Struct):
    uri: str


class Tags(Struct):
    tags: list[str]


class Id(Struct):
    id: int


class Unset(Struct):
    uri: str | UnsetType = UNSET


class Cat(Struct, tag="cat"):
    lives: int


class Dog(Struct, tag="dog"):
    name: str


class Kind(Struct):
    type: str
    lives: int


class Lives(Struct):
    lives: int


class KindOfPet(Struct):
    type: Literal["cat", "bird"]
    lives: int


class Nested(Struct):
    photos: list[Photo]
    best: Photo
    by_tag: dict[str, Photo]


class NestedScored(Struct):
    photos: list[Scored]


class BestScored(Struct):
    best: Scored


class ByTagScored(Struct):
    by_tag: dict[str, Scored]


class Box(Struct, Generic[T]):
    value: T


class SparseBox(Struct, Generic[T], omit_defaults=True):
    value: T | None = None


class Tree(Struct):
    name: str
    children: list["Tree"] = []


class NamedTree(Struct):
    name: str
    children: list["NamedTree"]


class NumberedTree(Struct):
    name: int
    children: list["NumberedTree"]


class Lost(Struct):
    what: "Nowhere"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@dataclass
class Size:
    width: int
    height: int = 0
    depth: int = dataclass_field(default=0, init=False)


class Total(TypedDict):
    uri: str
    score: float


class Partial(TypedDict):
    uri: str
    score: NotRequired[float]


class Custom:
    pass


FITS: list[tuple[Any, Any]] = [
    # Scalars, and what may be read from their texts.
    (None, None),
    (bool, bool),
    (int, int),
    (int, float),
    (int, Decimal),
    (float, Decimal),
    (bytes, bytearray),
    (memoryview, bytes),
    (bytes, UUID),
    (msgpack.Ext, msgpack.Ext),
    (Zoned, msgpack.Ext),
    *((each, str) for each in (date, time, timedelta, UUID, Decimal, datetime, Naive)),
    *((str, each) for each in (date, time, timedelta, UUID, Decimal, datetime)),
    (datetime, Zoned),
    (Zoned, datetime),
    (Naive, Naive),
    # Whatever nothing is known of.
    (Any, int),
    (int, Any),
    (object, int),
    (Raw, Photo),
    (Photo, Raw),
    (Custom, int),
    (int, Custom),
    (list[int], list[Any]),
    (Literal[1], Custom | None),
    (NoReturn, int),
    ("Nowhere", int),
    (Lost, int),
    (Fraction, str),
    (Literal[True], int),
    # Annotations of annotations.
    (PhotoId, int),
    (int, PhotoId),
    (Annotated[int, "any"], Annotated[float, Meta(title="a number")]),
    (Annotated[int | None, Meta(title="maybe")], int | str | None),
    # Unions.
    (float, float | None),
    (int | None, int | str | None),
    (int | str, str | int),
    (Cat | Dog, Dog | Cat),
    (Cat, Dog | Cat | None),
    (Photo | Scored, Photo),
    (Photo | Scored, dict[str, str | float | None]),
    # Values that are spelled out.
    (Literal["a", "b"] | None, str | None),
    (Literal["a"], Literal["a", "b"]),
    (Literal["red"], Colour),
    (Literal["no colour at all"], Lenient),
    (Literal[1], float),
    (Colour, str),
    (Colour, Literal["red", "blue", "green"]),
    (Level, int),
    (str, Colour),
    (str, Lenient),
    (int, Level),
    (int, Permission),
    (Permission, int),
    (Literal[4], Permission),
    # Constraints.
    (int, Positive),
    (Annotated[int, Meta(ge=3)], Annotated[float, Meta(le=3)]),
    (Literal[3], Annotated[int, Meta(ge=3, le=3)]),
    (Literal["abc"], Annotated[str, Meta(pattern="b", max_length=3)]),
    (list[int], Annotated[list[int], Meta(min_length=3)]),
    (tuple[int, int], Annotated[list[int], Meta(min_length=2, max_length=2)]),
    # Arrays.
    (list[int], list[float]),
    (list[int], set[int]),
    (frozenset[int], tuple[int, ...]),
    (tuple[int, str], list[int | str]),
    (Sequence[int], list[int]),
    (list[int | str], tuple[int, str]),
    (list[str], tuple[Literal["a"], Colour, Any]),
    (list[Literal["a", "b"]], tuple[Literal["b"], Any]),
    (list[Any], Row),
    (list[list[int]], tuple[list[str]]),
    (tuple[int], Point),
    (Point, Point),
    (Point, tuple[int, int]),
    (Row, Point),
    (tuple[int, int, str], Row),
    (tuple[int, int], ClosedRow),
    (TaggedRow, TaggedRow | OtherRow),
    (TaggedRow, tuple[str, int]),
    (list[int], ClosedRow),
    # Maps.
    (dict[str, int], dict[str, float]),
    (dict[int, str], dict[int, str]),
    (Mapping[str, int], dict[str, int]),
    (dict, Photo),
    (dict[str, str | float], Scored),
    (dict[str, int], Id),
    (dict[str, int], Unset),
    (dict[Literal["uri"], str], Uri),
    (Photo, dict),
    (Scored, dict[str, str | float]),
    (Scored, dict[Literal["uri", "score"], Any]),
    (Photo, Photo),
    (Scored, Photo),
    (Photo, Uri),
    (Scored, Total | None),
    (Total, Scored),
    (Partial, Photo),
    (Size, Size),
    (Size, dict[str, int]),
    (Camel, Renamed),
    (Sparse, Sparse),
    (Sparse, Id),
    (Uri, Unset),
    (Box[int], Box[float]),
    (Box[int], dict[str, int]),
    (Uri, Closed),
    # Tags.
    (Cat, Cat),
    (Cat, Kind),
    (Lives, Cat),
    (dict[str, int], Cat),
    (Kind, Cat),
    (Kind, Dog | Cat),
    (KindOfPet, Cat | Dog),
    (dict[str, str | int], Cat | Dog),
    (dict[str, str | int], Kind),
    # Types that contain themselves.
    (Tree, Tree),
    (Tree, NamedTree),
    (Tree, dict[str, Any]),
]


@pytest.mark.parametrize(("gives", "takes"), FITS, ids=repr)
def test_what_may_be_decoded_fits(gives: Any, takes: Any) -> None:
    assert mismatch(gives, takes) is None


MISMATCHES: list[tuple[Any, Any, str]] = [
    (int, str, "int, but str is taken"),
    (bool, int, "bool, but int is taken"),
    (float, int, "float, but int is taken"),
    (str, bytes, "str, but bytes is taken"),
    (bytes, str, "bytes, but str is taken"),
    (UUID, bytes, "UUID, but bytes is taken"),
    (UUID, Decimal, "UUID, but Decimal is taken"),
    (date, datetime, "date, but datetime is taken"),
    (Decimal, float, "Decimal, but float is taken"),
    (int, datetime, "int, but datetime is taken"),
    (Zoned, str, "datetime, but str is taken"),
    (Zoned, Naive, "datetime, but datetime is taken"),
    (float | None, float, "float | None, but float is taken"),
    (int | None, str | None, "int | None, but str | None is taken"),
    (Scored | Uri, Scored, "field `score` is missing"),
    (int | list[int], int, "int | list[int], but int is taken"),
    (PhotoId, str, "int, but str is taken"),
    (Annotated[int, Meta(title="a number")], str, "int, but str is taken"),
    (list[Any], int, "list[Any], but int is taken"),
    (Colour, int, "Colour, but int is taken"),
    (Colour, Literal["red"], "Colour, but Literal['red'] is taken"),
    (Literal["a", "c"], Literal["a", "b"], "Literal['a', 'c'], but Literal['a', 'b'] is taken"),
    (Literal[1], Lenient, "Literal[1], but Lenient is taken"),
    (Literal["green"], Colour, "Literal['green'], but Colour is taken"),
    (float, Level, "float, but Level is taken"),
    (None, int, "None, but int is taken"),
    (Literal[-1], Positive, "Literal[-1], but int (gt=0) is taken"),
    (
        Literal["abc"],
        Annotated[str, Meta(pattern="^b")],
        "Literal['abc'], but str (pattern='^b') is taken",
    ),
    (
        Annotated[int, Meta(ge=5)],
        Annotated[int, Meta(le=3)],
        "int (ge=5), but int (le=3) is taken",
    ),
    (
        tuple[int],
        Annotated[list[int], Meta(min_length=2)],
        "tuple[int], but list[int] (min_length=2) is taken",
    ),
    (int, list[int], "int, but list[int] is taken"),
    (list[int], int, "list[int], but int is taken"),
    (list[int], dict[str, int], "list[int], but dict[str, int] is taken"),
    (dict[str, int], set[int], "dict[str, int], but set[int] is taken"),
    (list[int], frozenset[str], "item `[]`: int, but str is taken"),
    (list[list[int]], list[tuple[str, ...]], "item `[][]`: int, but str is taken"),
    (tuple[int, ...], list[str], "item `[]`: int, but str is taken"),
    (tuple[int, int], tuple[int], "tuple[int, int], but tuple[int] is taken"),
    (tuple[int, str], tuple[int, int], "item `[1]`: str, but int is taken"),
    (tuple[int, str], list[int], "item `[1]`: str, but int is taken"),
    (list[str], tuple[int, int], "item `[0]`: str, but int is taken"),
    (
        list[Literal["c"]],
        tuple[Literal["a"]],
        "item `[0]`: Literal['c'], but Literal['a'] is taken",
    ),
    (tuple[int, int, int], Point, "tuple[int, int, int], but Point is taken"),
    (tuple[int, int, int], ClosedRow, "tuple[int, int, int], but ClosedRow is taken"),
    (tuple[()], Row, "tuple[], but Row is taken"),
    (Row, TaggedRow, "item `[0]`: int, but Literal['row'] is taken"),
    (TaggedRow, OtherRow, "item `[0]`: Literal['row'], but Literal['other'] is taken"),
    (Photo, Row, "Photo, but Row is taken"),
    (Row, Photo, "Row, but Photo is taken"),
    (dict[int, str], dict[str, str], "item `[key]`: int, but str is taken"),
    (dict[str, int], dict[str, str], "item `[...]`: int, but str is taken"),
    (dict[int, str], Photo, "item `[key]`: int, but str is taken"),
    (dict[str, int], Photo, "field `uri`: int, but str is taken"),
    (Photo, Scored, "field `score`: float | None, but float is taken"),
    (Uri, Scored, "field `score` is missing"),
    (Partial, Scored, "field `score` may be missing"),
    (Sparse, Uri, "field `uri` may be missing"),
    (Sparse, Tags, "field `tags` may be missing"),
    (SparseBox[int], Box[int | None], "field `value` may be missing"),
    (Unset, Uri, "field `uri` may be missing"),
    (Camel, Uri, "field `uri` is missing"),
    (Scored, Closed, "field `score` is not taken"),
    (Cat, Closed, "field `uri` is missing"),
    (Scored, dict[str, str], "field `score`: float, but str is taken"),
    (Scored, dict[Literal["uri"], Any], "field `score` is not taken"),
    (Scored, dict[int, Any], "field `uri` is not taken"),
    (Size, Point, "Size, but Point is taken"),
    (Size, Partial, "field `uri` is missing"),
    (Cat, Dog, "Cat, but Dog is taken"),
    (Cat, Dog | None, "Cat, but Dog | None is taken"),
    (Photo, Cat | Dog, "Photo, but Cat | Dog is taken"),
    (Lives, Cat | Dog, "Lives, but Cat | Dog is taken"),
    (dict[str, int], Cat | Dog, "dict[str, int], but Cat | Dog is taken"),
    (Nested, NestedScored, "field `photos[].score`: float | None, but float is taken"),
    (Nested, BestScored, "field `best.score`: float | None, but float is taken"),
    (Nested, ByTagScored, "field `by_tag[...].score`: float | None, but float is taken"),
    (Box[Photo], Box[Scored], "field `value.score`: float | None, but float is taken"),
    (Box[int], Box[str], "field `value`: int, but str is taken"),
    (Box[int], list[Box[int]], "Box, but list[Box] is taken"),
    (Tree, NumberedTree, "field `name`: str, but int is taken"),
    (list[Photo], list[Scored], "field `[].score`: float | None, but float is taken"),
    (list[Photo] | None, list[Any], "list[Photo] | None, but list[Any] is taken"),
]


@pytest.mark.parametrize(("gives", "takes", "told"), MISMATCHES, ids=repr)
def test_what_does_not_fit_is_told(gives: Any, takes: Any, told: str) -> None:
    assert mismatch(gives, takes) == told


@pytest.mark.parametrize("takes", [list[int] | tuple[int, int], Photo | Scored, Lost, NoReturn])
def test_a_type_that_cannot_be_decoded_is_told(takes: Any) -> None:
    told = mismatch(int, takes)

    assert told is not None
    assert told.startswith(f"{takes!r} cannot be decoded: ")


class Sample(NamedTuple):
    """A type and values of it, one at least for everything that the type spells out.

    Whether what is `loose`, lists and maps of any size, decodes as what is `tight`,
    which has its places or fields, cannot be told from the types.
    """

    type: Any
    values: list[Any]
    loose: bool = False
    tight: bool = False


SCALARS = [
    Sample(None, [None]),
    Sample(bool, [True, False]),
    Sample(int, [1]),
    Sample(float, [0.5]),
    Sample(str, ["red"]),
    Sample(bytes, [b"red"]),
    Sample(Literal["red"], ["red"]),
    Sample(Literal["red", "blue"], ["red", "blue"]),
    Sample(Literal[1], [1]),
    Sample(Colour, list(Colour)),
    Sample(Level, list(Level)),
    Sample(PhotoId, [PhotoId(1)]),
]
# Not every text decodes as one of these; those above hold none that does.
TEXTS = [
    Sample(date, [date(2024, 2, 29)]),
    Sample(UUID, [UUID(int=0)]),
    Sample(Decimal, [Decimal("0.5")]),
    Sample(Zoned, [datetime(2024, 2, 29, tzinfo=UTC)]),
]
NAMES = ["a", "b", "c"]

Fields = Mapping[str, Sample]


def lists(item: Sample) -> Sample:
    values = [[], *([value] for value in item.values), item.values]
    return Sample(list.__class_getitem__(item.type), values, loose=True, tight=item.tight)


def maps(item: Sample) -> Sample:
    values = [{}, *(dict.fromkeys(NAMES, value) for value in item.values)]
    of: Any = dict.__class_getitem__((str, item.type))
    return Sample(of, values, loose=True, tight=item.tight)


def unions(members: Sequence[Sample]) -> Sample:
    of: Any = Union[tuple(member.type for member in members)]  # noqa: UP007 — made of a tuple
    values = [value for member in members for value in member.values]
    loose, tight = any(m.loose for m in members), any(m.tight for m in members)
    return Sample(of, values, loose=loose, tight=tight)


def tuples(items: Sequence[Sample]) -> Sample:
    of: Any = tuple.__class_getitem__(tuple(item.type for item in items))
    return record(of, [tuple(row.values()) for row in combined(dict(enumerate(items)))], items)


def typed_dicts(fields: Fields, optional: set[str]) -> Sample:
    hints = {n: NotRequired[f.type] if n in optional else f.type for n, f in fields.items()}
    of: Any = types.new_class(
        "Fields", (TypedDict,), exec_body=lambda body: body.update(__annotations__=hints)
    )
    rows = combined(fields)
    least = {name: value for name, value in rows[0].items() if name not in optional}
    return record(of, [*rows, least], fields.values())


def dataclasses(fields: Fields, optional: set[str]) -> Sample:
    hints = [
        (name, field.type, dataclass_field(default_factory=partial(last, field)))
        if name in optional
        else (name, field.type, dataclass_field())
        for name, field in fields.items()
    ]
    of: Any = make_dataclass("Data", hints, kw_only=True)
    return record(of, [of(**row) for row in combined(fields)], fields.values())


def structs(fields: Fields, optional: set[str], options: dict[str, Any]) -> Sample:
    """Make a class whose optional fields have the last of their values for a default."""
    hints = [
        (name, item.type, default_of(item)) if name in optional else (name, item.type)
        for name, item in fields.items()
    ]
    of: Any = defstruct("Record", hints, kw_only=True, frozen=True, **options)
    return record(of, [of(**row) for row in combined(fields)], fields.values())


def record(of: Any, values: list[Any], items: Iterable[Sample]) -> Sample:
    return Sample(of, values, loose=any(item.loose for item in items), tight=True)


def combined(fields: Mapping[Any, Sample]) -> list[dict[Any, Any]]:
    """Rows in which every value of every field occurs."""
    first = {name: field.values[0] for name, field in fields.items()}
    return [first, *(first | {n: v} for n, f in fields.items() for v in f.values[1:])]


def last(item: Sample) -> Any:
    return item.values[-1]


def default_of(item: Sample) -> Any:
    """Give a default that is left out with `omit_defaults` only if the field has other values."""
    if len(item.values) == 1 or isinstance(last(item), (list, dict)):
        return field(default_factory=partial(last, item))
    return last(item)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"array_like": True},
    {"forbid_unknown_fields": True},
    {"omit_defaults": True},
    {"tag": "record"},
]


def samples(base: Sequence[Sample]) -> st.SearchStrategy[Sample]:
    names = st.sampled_from(NAMES)

    def extended(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
        several = st.lists(inner, min_size=1, max_size=3)
        fields, optional = st.dictionaries(names, inner, max_size=3), st.sets(names)
        return st.one_of(
            st.builds(lists, inner),
            st.builds(maps, inner),
            st.builds(tuples, several),
            st.builds(unions, several),
            st.builds(typed_dicts, fields, optional),
            st.builds(dataclasses, fields, optional),
            st.builds(structs, fields, optional, st.sampled_from(OPTIONS)),
        )

    return st.recursive(st.sampled_from(base), extended, max_leaves=5)


def decodes(value: Any, of: Any) -> bool:
    try:
        msgpack.decode(msgpack.encode(value), type=of)
    except (MsgspecError, TypeError):
        return False
    return True


def is_readable(of: Any) -> bool:
    """Tell if msgspec allows the unions in a type, which it does not ask of what is encoded."""
    try:
        msgpack.Decoder(of)
    except TypeError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(samples([*SCALARS, *TEXTS]), samples(SCALARS))
def test_what_fits_decodes_and_what_does_not_has_a_value_that_does_not(
    gives: Sample, takes: Sample
) -> None:
    told = mismatch(gives.type, takes.type)

    event("fits" if told is None else "does not fit")
    fine = [decodes(value, takes.type) for value in gives.values]
    if told is not None:
        assert not all(fine), told
    elif is_readable(gives.type) and not (gives.loose and takes.tight):
        assert all(fine)


@settings(max_examples=200, deadline=None)
@given(samples([*SCALARS, *TEXTS]))
def test_every_type_that_can_be_decoded_fits_itself(sample: Sample) -> None:
    told = mismatch(sample.type, sample.type)

    assert (told is None) == is_readable(sample.type)
    assert (told is None) == all(decodes(value, sample.type) for value in sample.values)
