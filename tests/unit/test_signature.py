import functools
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from types import NoneType
from typing import Annotated, Any, Optional, Union

import pytest
from msgspec import Meta, Struct

from asyafw._signature import Signature, list_item, read_signature, without
from asyafw.context import Context
from asyafw.exceptions import ConfigurationError


class Photo(Struct):
    uri: str


class Face(Struct):
    box: tuple[int, int, int, int]


async def transform(photo: Photo) -> Face:
    raise NotImplementedError(photo)


def plain(photo: Photo) -> Face:
    raise NotImplementedError(photo)


async def fan_out(photo: Photo) -> AsyncIterator[Face]:
    yield await transform(photo)


def plain_fan_out(photo: Photo) -> Iterator[Face]:
    yield plain(photo)


class Transform:
    async def __call__(self, photo: Photo) -> Face:
        return await transform(photo)


class PlainTransform:
    def __init__(self, model: str = "small", **options: str) -> None:
        self.made_of = (model, options)

    def __call__(self, photo: Photo) -> Face:
        return plain(photo)


class FanOut:
    async def __call__(self, photo: Photo, ctx: Context) -> AsyncIterator[Face]:
        del ctx
        yield await transform(photo)


class Tagged(dict[str, str]):
    """Its constructor is C's, which does not tell its parameters."""

    async def __call__(self, photo: Photo) -> Face:
        return await transform(photo)


@functools.wraps(transform)
async def wrapped(*args: Any, **kwargs: Any) -> Any:
    return await transform(*args, **kwargs)


@pytest.mark.parametrize(
    ("handler", "is_async", "yields", "has_context"),
    [
        (transform, True, False, False),
        (plain, False, False, False),
        (fan_out, True, True, False),
        (plain_fan_out, False, True, False),
        (Transform, True, False, False),
        (Transform(), True, False, False),
        (Transform().__call__, True, False, False),
        (PlainTransform, False, False, False),
        (PlainTransform(), False, False, False),
        (FanOut, True, True, True),
        (FanOut(), True, True, True),
        (Tagged, True, False, False),
        (wrapped, True, False, False),
    ],
    ids=[
        *("async function", "function", "async generator", "generator"),
        *("async class", "async instance", "method", "class", "instance"),
        *("class that yields", "instance that yields", "class derived from C", "wrapped function"),
    ],
)
def test_every_form_of_handler_is_read(
    *, handler: Any, is_async: bool, yields: bool, has_context: bool
) -> None:
    assert read_signature(handler, "faces") == Signature(
        input_type=Photo,
        output_type=Face,
        has_context=has_context,
        is_async=is_async,
        yields=yields,
    )


def annotated(**annotations: Any) -> Callable[..., Any]:
    """A function with these annotations and no other."""

    async def handler(photo: Any, second: Any) -> Any:
        raise NotImplementedError(photo, second)

    handler.__annotations__ = annotations
    return handler


@pytest.mark.parametrize(
    "annotation",
    [
        Context,
        "Context",
        Context | None,
        Union[None, Context],  # noqa: UP007
        Annotated[Context, "of the message"],
    ],
    ids=repr,
)
def test_the_context_is_known_by_its_type(annotation: Any) -> None:
    signature = read_signature(annotated(photo=Photo, second=annotation), "faces")

    assert signature.has_context
    assert signature.input_type is Photo


@pytest.mark.parametrize("annotations", [{}, {"ctx": Any}, {"ctx": "Photo | None"}])
def test_the_context_is_known_by_its_name(annotations: dict[str, Any]) -> None:
    def handler(photo: Any, ctx: Any) -> None:
        raise NotImplementedError(photo, ctx)

    handler.__annotations__ = annotations

    assert read_signature(handler, "faces").has_context


def test_parameters_may_be_positional_only() -> None:
    def handler(photo: Photo, ctx: Context, /, size: int = 1) -> None:
        raise NotImplementedError(photo, ctx, size)

    assert read_signature(handler, "faces").has_context


def test_a_second_parameter_with_a_default_is_no_context() -> None:
    def handler(photo: Photo, size: int = 1, *rest: int, mode: str = "rgb", **more: str) -> None:
        raise NotImplementedError(photo, size, rest, mode, more)

    assert not read_signature(handler, "faces").has_context


@pytest.mark.parametrize("annotations", [{}, {"photo": Any, "return": Any}])
def test_what_is_not_annotated_may_be_anything(annotations: dict[str, Any]) -> None:
    async def handler(photo: Any) -> AsyncIterator[Any]:
        yield photo

    handler.__annotations__ = annotations

    signature = read_signature(handler, "faces")

    assert signature.input_type is Any
    assert signature.output_type is Any


def test_a_handler_may_give_nothing() -> None:
    async def handler(photo: Photo) -> None:
        raise NotImplementedError(photo)

    assert read_signature(handler, "faces").output_type is NoneType


def test_constraints_of_the_types_are_kept() -> None:
    def handler(score: Annotated[float, Meta(ge=0)]) -> Annotated[str, Meta(max_length=5)]:
        raise NotImplementedError(score)

    signature = read_signature(handler, "faces")

    assert signature.input_type == Annotated[float, Meta(ge=0)]
    assert signature.output_type == Annotated[str, Meta(max_length=5)]


@pytest.mark.parametrize(
    ("annotation", "item"),
    [
        (AsyncIterator[Face], Face),
        (AsyncIterable[Face], Face),
        (AsyncGenerator[Face, None], Face),
        (Iterator[Face], Face),
        (Iterable[Face | None], Face | None),
        (Generator[Face, int, str], Face),
        (typing.AsyncIterator[Face], Face),
        (typing.AsyncIterator, Any),
        (AsyncIterator, Any),
        (Any, Any),
    ],
    ids=repr,
)
def test_the_items_of_every_kind_of_stream_are_the_output(annotation: Any, item: Any) -> None:
    async def handler(photo: Photo) -> AsyncIterator[Any]:
        yield photo

    handler.__annotations__["return"] = annotation

    assert read_signature(handler, "faces").output_type == item


def returns_a_stream(photo: Photo) -> Iterator[Face]:
    return plain_fan_out(photo)


async def awaits_a_stream(photo: Photo) -> AsyncIterator[Face]:
    return fan_out(photo)


def takes_nothing() -> None:
    pass


def takes_any_number(*photos: Photo) -> None:
    raise NotImplementedError(photos)


def takes_the_context_only(ctx: Context) -> None:
    raise NotImplementedError(ctx)


def takes_the_context_first(context: Context, photo: Photo) -> None:
    raise NotImplementedError(photo, context)


def takes_two_payloads(photo: Photo, face: Face) -> None:
    raise NotImplementedError(photo, face)


def takes_three(photo: Photo, ctx: Context, face: Face) -> None:
    raise NotImplementedError(photo, ctx, face)


def takes_a_keyword(photo: Photo, *, size: int) -> None:
    raise NotImplementedError(photo, size)


def takes_the_context_by_keyword(photo: Photo, *, ctx: Context) -> None:
    raise NotImplementedError(photo, ctx)


class NotCallable:
    pass


class NeedsArguments:
    def __init__(self, model: str) -> None:
        self.model = model

    async def __call__(self, photo: Photo) -> Face:
        return await transform(photo)


class TakesNothing:
    async def __call__(self) -> None:
        pass


TAKES = r"its handler takes \(payload\) or \(payload, ctx: Context\)"


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (takes_nothing, TAKES),
        (takes_any_number, TAKES),
        (takes_the_context_only, TAKES),
        (takes_the_context_first, TAKES),
        (takes_two_payloads, TAKES),
        (takes_three, TAKES),
        (takes_a_keyword, TAKES),
        (takes_the_context_by_keyword, TAKES),
        (TakesNothing, TAKES),
        (functools.partial(plain), TAKES),
        (max, TAKES),
        (returns_a_stream, "yields its items"),
        (awaits_a_stream, "yields its items"),
        (NotCallable, "its class has no __call__"),
        (NeedsArguments, r"without arguments; .* decorate an instance"),
    ],
)
def test_what_cannot_handle_messages_is_refused_by_name(handler: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^actor 'faces': .*{problem}"):
        read_signature(handler, "faces")


@pytest.mark.parametrize(
    "annotation", ["Picture", "typing.Picture", "a photo", "Photo | 'Picture'"]
)
def test_an_annotation_that_cannot_be_resolved_is_told_with_its_actor(annotation: str) -> None:
    handler = annotated(photo=annotation, second=Context)

    with pytest.raises(ConfigurationError, match=r"^actor 'faces': an annotation .* resolved") as e:
        read_signature(handler, "faces")

    assert "types must be importable from the handler's module" in str(e.value)
    assert e.value.__cause__ is not None


@pytest.mark.parametrize("annotation", [Face, list[Face], NoneType], ids=repr)
def test_what_yields_is_annotated_as_a_stream(annotation: Any) -> None:
    def handler(photo: Photo) -> Iterator[Photo]:
        yield photo

    handler.__annotations__["return"] = annotation

    with pytest.raises(ConfigurationError, match=r"^actor 'faces': .* AsyncIterator\[...\], not"):
        read_signature(handler, "faces")


@pytest.mark.parametrize(
    ("annotation", "item"),
    [
        (list[Face], Face),
        (list[Face | None], Face | None),
        (list[list[int]], list[int]),
        (tuple[Face, ...], Face),
        (Sequence[Face], Face),
        (Collection[Face], Face),
        (Iterable[Face], Face),
        (typing.List[Face], Face),  # noqa: UP006
        (Annotated[list[Face], Meta(max_length=3)], Face),
        (list[Annotated[int, Meta(ge=0)]], Annotated[int, Meta(ge=0)]),
        (list, Any),
        (typing.List, Any),  # noqa: UP006
        (tuple, Any),
        (Any, Any),
    ],
    ids=repr,
)
def test_the_item_of_a_list_is_its_argument(annotation: Any, item: Any) -> None:
    assert list_item(annotation, "a batch takes list[...]") == item


@pytest.mark.parametrize(
    "annotation",
    [Face, int, NoneType, dict[str, Face], tuple[Face, Face], set[Face], list[Face] | None, str],
    ids=repr,
)
def test_what_is_no_list_has_no_item(annotation: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^a batch takes list\[\.\.\.\], not "):
        list_item(annotation, "a batch takes list[...]")


@pytest.mark.parametrize(
    ("annotation", "unwanted", "left"),
    [
        (Face | None, NoneType, Face),
        (Optional[Face], NoneType, Face),  # noqa: UP045
        (Union[None, Face, Photo], NoneType, Union[Face, Photo]),  # noqa: UP007
        (Face | Exception, Exception, Face),
        (Face | ValueError | KeyError | None, Exception, Face | None),
        (list[int] | Exception, Exception, list[int]),
        (ValueError | KeyError, Exception, NoneType),
        (Face, NoneType, Face),
        (list[Face | None], NoneType, list[Face | None]),
        (Any, Exception, Any),
    ],
    ids=repr,
)
def test_members_of_a_union_can_be_left_out(annotation: Any, unwanted: type, left: Any) -> None:
    assert without(annotation, unwanted) == left
