from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
    runtime_checkable,
)

import msgspec
import pytest

from asyafw import Batch, actor
from asyafw.envelope import JSON
from asyafw.exceptions import ResultTypeError
from asyafw.testing import make_context
from asyafw.worker._results import result_check, result_encoder


class Photo(msgspec.Struct):
    uri: str


class Portrait(Photo):
    pass


@dataclass
class Size:
    width: int


class Colour(Enum):
    RED = "red"


class Place(NamedTuple):
    x: int


class Options(TypedDict):
    fast: bool


class Closable(Protocol):
    def close(self) -> None: ...


@runtime_checkable
class Named(Protocol):
    name: str


UserId = NewType("UserId", int)
T = TypeVar("T")


RESULTS: list[tuple[Any, list[Any], list[Any]]] = [
    (int, [1, True], ["1", 1.0, None]),
    (float, [1.0, 1], ["1", None]),
    (str, ["a"], [b"a", None]),
    (Photo, [Photo("a"), Portrait("a")], [{"uri": "a"}, Photo]),
    (Size, [Size(1)], [(1,)]),
    (Colour, [Colour.RED], ["red"]),
    (Place, [Place(1)], [(1,)]),
    (Options, [{"fast": True}, {}], [["fast"]]),
    (list[int], [[1], ["not looked at"]], [(1,), {1}]),
    (dict[str, int], [{}], [[]]),
    (tuple[int, ...], [(1,)], [[1]]),
    (Sequence[int], [[1], (1,), "a str is one"], [{1}]),
    (Iterable[int], [[1], {1}], [1]),
    (Annotated[int, msgspec.Meta(gt=0)], [1, -1], ["1"]),
    (Literal["a", 1], ["a", "b", 1], [1.5, None]),
    (UserId, [UserId(1), 1], ["1"]),
    (int | str, [1, "a"], [1.5, None]),
    (Union[int, str], [1, "a"], [1.5]),  # noqa: UP007 — both ways to write it
    (Optional[Photo], [Photo("a"), None], ["a"]),  # noqa: UP045 — as above
    (list[int] | None, [[1], None], [(1,)]),
    (None, [None], [1]),
    (date, [date(2026, 1, 1), datetime(2026, 1, 1)], ["2026-01-01"]),  # noqa: DTZ001
    (object, [1, None, "a"], []),
    (Any, [1, None, "a", Photo], []),
]


@pytest.mark.parametrize(("annotation", "fitting", "unfitting"), RESULTS, ids=repr)
def test_a_result_is_of_the_declared_class(
    annotation: Any, fitting: list[Any], unfitting: list[Any]
) -> None:
    is_result = result_check(annotation)

    assert all(is_result(value) for value in fitting)
    assert not any(is_result(value) for value in unfitting)


@pytest.mark.parametrize("annotation", [Any, T, Closable, int | Any])
def test_what_cannot_be_told_is_let_through(annotation: Any) -> None:
    is_result = result_check(annotation)

    assert is_result(object())


def test_a_protocol_that_can_be_tested_is() -> None:
    is_result = result_check(Named)

    assert is_result(Colour.RED)
    assert not is_result(Photo("a"))


def test_a_result_is_encoded_as_its_message_was() -> None:
    @actor
    async def enhance(photo: Photo) -> Photo:
        return photo

    encode, ctx = result_encoder(enhance), make_context()

    packed = encode(ctx, Photo("a"))
    ctx.codec = JSON
    text = encode(ctx, Photo("a"))

    assert msgspec.msgpack.decode(packed, type=Photo) == Photo("a")
    assert text == b'{"uri":"a"}'


def test_the_items_of_a_batch_are_checked_one_by_one() -> None:
    @actor(batch=Batch())
    async def embed(texts: list[str]) -> list[int | Exception]:
        return [len(text) for text in texts]

    encode, ctx = result_encoder(embed), make_context()

    assert encode(ctx, 3) == b"\x03"
    with pytest.raises(ResultTypeError, match="embed declares <class 'int'> and gave a str"):
        encode(ctx, "three")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (object(), "embed gave a object that cannot be encoded: Encoding objects of type object"),
        (2**100, "embed gave a int that cannot be encoded: can't serialize ints < -2**63"),
        ({1j: 1}, "embed gave a dict that cannot be encoded: "),
        ("\ud800", "embed gave a str that cannot be encoded: 'utf-8' codec can't encode"),
    ],
)
def test_what_cannot_be_encoded_is_named(result: Any, told: str) -> None:
    @actor
    async def embed(text: str) -> Any:
        return text

    with pytest.raises(ResultTypeError) as raised:
        result_encoder(embed)(make_context(), result)

    assert str(raised.value).startswith(told)
