"""Read from a handler's annotations what it takes and gives."""

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from asyafw.context import Context
from asyafw.exceptions import ConfigurationError

__all__ = ["Signature", "list_item", "read_signature", "without"]

_ITERATORS = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterator)
_STREAMS = (*_ITERATORS, Iterable)
_LISTS = (list, tuple, Sequence, Collection, Iterable)


class Signature(Struct, frozen=True):
    """What a handler takes and gives.

    `output_type` is the item's type where the handler `yields`, `NoneType` where it gives nothing.
    `has_context` tells whether it takes the context as its second argument.
    """

    input_type: Any
    output_type: Any
    has_context: bool
    is_async: bool
    yields: bool


def read_signature(handler: Any, name: str) -> Signature:
    """Read the signature of a function, or of the ``__call__`` of an object or a class.

    Raises:
        ConfigurationError: it takes no payload, or more than payload and context,
            or an annotation cannot be resolved, or a class cannot be made without arguments.
    """
    target = _target(handler, name)
    hints = _hints(target, name)
    payload, has_context = _read_parameters(target, hints, name)
    yields = inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target)
    output = hints.get("return", Any)
    if not yields and _bare(output) in _ITERATORS:
        raise ConfigurationError(
            f"actor {name!r}: a handler that gives {output!r} yields its items, it returns none"
        )
    return Signature(
        input_type=hints.get(payload, Any),
        output_type=_stream_item(output, name) if yields else output,
        has_context=has_context,
        is_async=inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target),
        yields=yields,
    )


def list_item(annotation: Any, problem: str) -> Any:
    """Give T of ``list[T]`` or another container of one type; Any where there is no annotation.

    Raises:
        ConfigurationError: it is annotated otherwise, which is the `problem`.
    """
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    arguments = get_args(annotation)
    if annotation is Any:
        return Any
    if _bare(annotation) not in _LISTS or arguments[1:] not in ((), (...,)):
        raise ConfigurationError(f"{problem}, not {annotation!r}")
    return arguments[0] if arguments else Any


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


def _target(handler: Any, name: str) -> Any:
    """Find what is called; a class's is bound, as that of its instances."""
    if inspect.isroutine(handler):
        return handler
    if not inspect.isclass(handler):
        return handler.__call__
    call: Any = handler.__call__
    if not inspect.isfunction(call):
        raise ConfigurationError(f"actor {name!r}: its class has no __call__")
    if _needs_arguments(handler):
        raise ConfigurationError(
            f"actor {name!r}: a worker makes its class without arguments; "
            "give them defaults, or decorate an instance: actor(MyClass(...))"
        )
    return call.__get__(object(), handler)


def _needs_arguments(cls: type) -> bool:
    try:
        parameters = inspect.signature(cls).parameters.values()
    except ValueError:  # classes that derive from some of C's do not tell
        return False
    return any(_is_required(p) for p in parameters)


def _hints(target: Any, name: str) -> dict[str, Any]:
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise ConfigurationError(
            f"actor {name!r}: an annotation of its handler cannot be resolved ({error}); "
            "types must be importable from the handler's module"
        ) from error


def _read_parameters(target: Any, hints: dict[str, Any], name: str) -> tuple[str, bool]:
    """Tell the name of the payload's parameter, and whether the context comes behind it."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except ValueError:  # some functions of C do not tell
        parameters = []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    contexts = [_is_context(p, hints.get(p.name)) for p in positional]
    has_context = contexts[1:2] == [True]
    given = positional[: 2 if has_context else 1]
    if not given or contexts[0] or any(_is_required(p) for p in parameters if p not in given):
        raise ConfigurationError(
            f"actor {name!r}: its handler takes (payload) or (payload, ctx: Context)"
        )
    return given[0].name, has_context


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variable


def _is_context(parameter: inspect.Parameter, annotation: Any) -> bool:
    return parameter.name == "ctx" or Context in (annotation, *get_args(annotation))


def _stream_item(annotation: Any, name: str) -> Any:
    if annotation is Any:
        return Any
    if _bare(annotation) not in _STREAMS:
        raise ConfigurationError(
            f"actor {name!r}: a handler that yields is annotated AsyncIterator[...], "
            f"not {annotation!r}"
        )
    arguments = get_args(annotation)
    return arguments[0] if arguments else Any


def _bare(annotation: Any) -> Any:
    return get_origin(annotation) or annotation
