"""What a handler gave, checked and encoded."""

from collections.abc import Callable
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    is_typeddict,
)

from msgspec import MsgspecError

from asyafw._actor import Actor
from asyafw.context import Context
from asyafw.exceptions import ResultTypeError

__all__ = ["result_check", "result_encoder"]

_Classes: TypeAlias = tuple[type, ...]


def result_encoder(actor: Actor[..., Any]) -> Callable[[Context, Any], bytes]:
    """Make a function that encodes what a handler gave as the message in hand is encoded.

    It raises `ResultTypeError` for what the handler does not declare, or what cannot be encoded.
    """
    is_result = result_check(actor.output_type)

    def encode(ctx: Context, result: Any) -> bytes:
        if not is_result(result):
            raise ResultTypeError(
                f"{actor.name} declares {actor.output_type!r} and gave a {_name(result)}"
            )
        try:
            encoded: bytes = ctx.codec.encode(result)
        except (MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ResultTypeError(
                f"{actor.name} gave a {_name(result)} that cannot be encoded: {error}"
            ) from error
        return encoded

    return encode


def result_check(annotation: Any) -> Callable[[Any], bool]:
    """Make a predicate for values of an annotation, as far as a look at the outside can tell."""
    classes = _classes(annotation)
    if classes is None:
        return lambda _value: True
    return lambda value: isinstance(value, classes)


def _classes(annotation: Any) -> _Classes | None:  # noqa: PLR0911 — a case for each form
    """The classes whose instances the annotation allows, None where that cannot be told."""
    origin = get_origin(annotation)
    if annotation is None:
        return (NoneType,)
    if origin is Annotated or isinstance(annotation, NewType):
        inner = get_args(annotation)[0] if origin else annotation.__supertype__
        return _classes(inner)
    if origin in (Union, UnionType):
        members = [_classes(member) for member in get_args(annotation)]
        return None if None in members else tuple(c for cs in members if cs for c in cs)
    if origin is Literal:
        values: tuple[Any, ...] = get_args(annotation)
        return tuple({value.__class__ for value in values})
    if is_typeddict(annotation):
        return (dict,)
    if annotation is float:
        return (float, int)
    return _one_class(origin or annotation)


def _one_class(found: Any) -> _Classes | None:
    if found is Any or not isinstance(found, type):
        return None
    try:
        isinstance(None, found)
    except TypeError:  # a protocol that cannot be tested
        return None
    return (found,)


def _name(result: Any) -> str:
    return type(result).__qualname__
