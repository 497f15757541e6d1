from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from dataclasses import make_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NoReturn,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import pytest
from hypothesis import event, given
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
    def _missing_(cls, value: object) -> "Lenient":
        return cls.RED


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
    tags: list[str] = field(default_factory=list)
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
    (Literal["a", 1, None], str | int | None),
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
    (Optional[int], str | None, "int | None, but str | None is taken"),
    (Scored | Uri, Scored, "field `score` is missing"),
    (int | list[int], int, "int | list[int], but int is taken"),
    (PhotoId, str, "int, but str is taken"),
    (Colour, int, "Colour, but int is taken"),
    (Colour, Literal["red"], "Colour, but Literal['red'] is taken"),
    (Literal["a", "c"], Literal["a", "b"], "Literal['a', 'c'], but Literal['a', 'b'] is taken"),
    (Literal["red", 1], Lenient, "Literal[1, 'red'], but Lenient is taken"),
    (Literal["green"], Colour, "Literal['green'], but Colour is taken"),
    (float, Level, "float, but Level is taken"),
    (Literal[None], int, "Literal[None], but int is taken"),
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
    (list[Literal["c"]], tuple[Literal["a"]], "item `[0]`: Literal['c'], but Literal['a'] is taken"),
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

    `given_loosely` is a list or a map of any size, `taken_tightly` one of given places or fields:
    whether the one decodes as the other cannot be told from their types.
    """

    type: Any
    values: list[Any]
    given_loosely: bool = False
    taken_tightly: bool = False


SCALARS = [
    Sample(None, [None]),
    Sample(bool, [True]),
    Sample(int, [1]),
    Sample(float, [0.5]),
    Sample(str, ["red"]),
    Sample(bytes, [b"red"]),
    Sample(Zoned, [datetime(2024, 2, 29, tzinfo=UTC)]),
    Sample(Literal["red"], ["red"]),
    Sample(Literal["red", "blue", 1], ["red", "blue", 1]),
    Sample(Colour, list(Colour)),
    Sample(Level, list(Level)),
    Sample(PhotoId, [PhotoId(1)]),
]
# They decode from some texts only, of which there is none among the values above.
GIVEN_SCALARS = [
    *SCALARS,
    Sample(date, [date(2024, 2, 29)]),
    Sample(UUID, [UUID(int=0)]),
    Sample(Decimal, [Decimal("0.5")]),
    Sample(Naive, [datetime(2024, 2, 29)]),  # noqa: DTZ001 — it is naive
]
NAMES = ["a", "b", "c"]


def loosely(form: str, of: Any, values: list[Any], item: Sample) -> Sample:
    assert form in {"list", "dict"}
    return Sample(of, values, given_loosely=True, taken_tightly=item.taken_tightly)


def lists(item: Sample) -> Sample:
    values = [[], *([value] for value in item.values), item.values]
    return Sample(list[item.type], values, True, item.taken_tightly)


def maps(item: Sample) -> Sample:
    values = [{}, *({name: value for name in NAMES} for value in item.values)]
    return Sample(dict[str, item.type], values, True, item.taken_tightly)


def unions(members: list[Sample]) -> Sample:
    of: Any = Union[tuple(member.type for member in members)]  # noqa: UP007 — made of a tuple
    return Sample(
        of,
        [value for member in members for value in member.values],
        any(member.given_loosely for member in members),
        any(member.taken_tightly for member in members),
    )


def rows(places: list[Sample]) -> Sample:
    of: Any = tuple[tuple(place.type for place in places)]
    values = [tuple(row.values()) for row in combined(dict(enumerate(places)))]
    return Sample(of, values, any(place.given_loosely for place in places), True)


def combined(fields: Mapping[Any, Sample]) -> list[dict[Any, Any]]:
    """Rows in which every value of every field occurs."""
    first = {name: field.values[0] for name, field in fields.items()}
    return [first, *(first | {n: v} for n, field in fields.items() for v in field.values[1:])]
