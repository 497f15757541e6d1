"""Read from a handler's annotations what it takes and gives."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from asyafw.context import Context
from asyafw.exceptions import ConfigurationError

__all__ = ["Signature", "list_item", "read_signature", "without"]

_STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)


class Signature(Struct, frozen=True):
    """What a handler takes and gives.

    `output_type` is the item's type where the handler `yields`, and None where it gives nothing.
    `has_context` tells whether it takes the context as its second argument.
    """

    input_type: Any
    output_type: Any
    has_context: bool
    is_async: bool
    yields: bool


def read_signature(function: Any, name: str) -> Signature:
    """Read a function's signature, or that of an object's ``__call__``.

    Raises:
        ConfigurationError: it takes no payload, or more than payload and context,
            or an annotation cannot be resolved.
    """
    target = function if inspect.isroutine(function) else function.__call__
    parameters = [p for p in inspect.signature(target).parameters.values() if _is_positional(p)]
    required = [p for p in parameters if p.default is p.empty]
    if not parameters or len(required) > 2:  # noqa: PLR2004 — payload and context
        raise ConfigurationError(f"actor {name!r}: its handler takes (payload) or (payload, ctx)")
    try:
        hints = get_type_hints(target, include_extras=True)
    except (NameError, AttributeError) as error:
        raise ConfigurationError(
            f"actor {name!r}: an annotation of its handler cannot be resolved ({error}); "
            "types must be importable from the handler's module"
        ) from error
    second = parameters[1] if len(parameters) > 1 else None
    yields = inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target)
    output = hints.get("return", Any)
    return Signature(
        input_type=hints.get(parameters[0].name, Any),
        output_type=_stream_item(output, name) if yields else output,
        has_context=second is not None and _is_context(second, hints.get(second.name)),
        is_async=inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target),
        yields=yields,
    )


def list_item(annotation: Any) -> Any:
    """Give T of ``list[T]`` or another one-argument container; Any where there is no annotation."""
    arguments = get_args(annotation)
    return arguments[0] if arguments and get_origin(annotation) is not None else Any


def without(annotation: Any, unwanted: type) -> Any:
    """Take the members that are `unwanted`, or derive from it, out of a union."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kept = tuple(
        member
        for member in get_args(annotation)
        if not (isinstance(member, type) and issubclass(member, unwanted))
    )
    return Union[kept] if kept else NoneType  # noqa: UP007 — built from a tuple


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _is_context(parameter: inspect.Parameter, annotation: Any) -> bool:
    if annotation is None:
        return parameter.name == "ctx"
    return annotation is Context or list_item(annotation) is Context


def _stream_item(annotation: Any, name: str) -> Any:
    if annotation is Any:
        return Any
    if get_origin(annotation) not in _STREAMS:
        raise ConfigurationError(
            f"actor {name!r}: a handler that yields is annotated AsyncIterator[...], "
            f"not {annotation!r}"
        )
    return get_args(annotation)[0]
