"""`@actor`: a handler with a queue of its own."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from math import inf
from types import NoneType
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from msgspec import Struct

from asyafw._signature import list_item, read_signature, without
from asyafw.envelope import LONGEST_WAIT_S, check_name
from asyafw.exceptions import ConfigurationError, InvalidName
from asyafw.middleware import Middleware
from asyafw.retry import RetryPolicy

__all__ = ["Actor", "ActorOptions", "Batch", "Join", "actor"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Batch(Struct, frozen=True):
    """Run the handler once for several messages.

    They are up to `max_size`, gathered for at most `max_wait_s` seconds.
    """

    max_size: int = 16
    max_wait_s: float = 0.02


class Join(Struct, frozen=True):
    """Wait for all siblings of a fan-out.

    The clock of `timeout_s` seconds starts with the first sibling to arrive.
    If one has failed or does not come, ``partial="fail"`` fails the message,
    ``"pass"`` runs the handler with None in its place and the reasons in `Context.failures`.
    """

    timeout_s: float = 3600.0
    partial: Literal["fail", "pass"] = "fail"


class ActorOptions(TypedDict, total=False):
    """What `@actor` takes.

    ================ =============================================================================
    name             of the actor and its queue; from the function's name, ``_`` becoming ``-``
    concurrency      how many messages, or batches, one worker handles at a time
    timeout_s        seconds a run may take; None for as long as the job's deadline allows
    retry            when a failed message runs again
    on_exhausted     a recovery route for messages that gave up, instead of the dead letters
    may_route_to     actors to which the handler may send the message, for `App.check`
    batch            handle several messages by one call
    join             meet the siblings of a fan-out
    executor         where a ``def`` runs: ``"thread"``, or ``"process"``, which a timeout kills
    middleware       callables around this handler, the first outermost
    ================ =============================================================================
    """

    name: str
    concurrency: int
    timeout_s: float | None
    retry: RetryPolicy
    on_exhausted: Sequence[str]
    may_route_to: Sequence[str]
    batch: Batch
    join: Join
    executor: Literal["thread", "process"]
    middleware: Sequence[Middleware]


_EXECUTORS: Final = ("thread", "process")
# What users without a type checker may mistake, and would only see when a message comes.
_OPTION_TYPES: Final[dict[str, Any]] = {
    "concurrency": int,
    "timeout_s": float | int | None,
    "retry": RetryPolicy,
    "on_exhausted": Iterable,
    "may_route_to": Iterable,
    "batch": Batch | None,
    "join": Join | None,
    "middleware": Iterable,
}


class Actor(Generic[P, R_co]):
    """A handler and how it is to be run; calling it calls the handler.

    `input_type` and `output_type` are those of one message:
    the items where the handler takes a batch or a join, or yields.
    """

    def __init__(self, handler: Callable[P, R_co], **options: Unpack[ActorOptions]) -> None:
        if not callable(handler):
            raise ConfigurationError(
                "@actor decorates a function, a class or an instance with __call__, "
                f"not {handler!r}; its options have names: @actor(name=...)"
            )
        self.handler = handler
        self.name = _name(handler, options.get("name"))
        self._check_types(options)
        self.concurrency = options.get("concurrency", 16)
        self.timeout_s = options.get("timeout_s")
        self.retry = options.get("retry", RetryPolicy())
        self.on_exhausted = self._names("on_exhausted", options.get("on_exhausted", ()))
        self.may_route_to = self._names("may_route_to", options.get("may_route_to", ()))
        self.batch = options.get("batch")
        self.join = options.get("join")
        self.executor = options.get("executor")
        self.middleware = tuple(options.get("middleware", ()))
        self.signature = read_signature(handler, self.name)
        self._check_values()
        self.input_type = self._input_type()
        self.output_type = self._output_type()
        self.__doc__ = handler.__doc__
        self.__name__ = self.name
        self.__module__ = handler.__module__
        self.__wrapped__ = handler

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the handler, as if it had not been decorated."""
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<actor {self.name}>"

    @property
    def slots(self) -> int:
        """How many messages one worker has in hand at a time."""
        return self.concurrency * (self.batch.max_size if self.batch else 1)

    async def open(self, stack: AsyncExitStack) -> Callable[..., Any]:
        """Give the callable that handles messages.

        A class is made for it, and entered, as an instance is, to be left by `stack`.
        """
        handler: Any = self.handler
        if inspect.isclass(handler):
            handler = handler()
        if hasattr(handler, "__aenter__"):
            entered = await stack.enter_async_context(handler)
            handler = entered if callable(entered) else handler
        return cast("Callable[..., Any]", handler)

    def _input_type(self) -> Any:
        annotation = self.signature.input_type
        if not (self.batch or self.join):
            return annotation
        form = "batch" if self.batch else "join"
        item = list_item(annotation, f"actor {self.name!r}: a {form} takes list[...]")
        return without(item, NoneType) if self.join else item

    def _output_type(self) -> Any:
        annotation = self.signature.output_type
        if not self.batch or annotation is NoneType:
            return annotation
        item = list_item(annotation, f"actor {self.name!r}: a batch gives list[...]")
        return without(item, Exception)

    def _names(self, option: str, names: Sequence[str]) -> tuple[str, ...]:
        self._require(not isinstance(names, str), f"{option} is a list of names, not {names!r}")
        try:
            return tuple(check_name(name) for name in names)
        except (InvalidName, TypeError) as error:  # of what is no string, such as an actor
            raise InvalidName(f"actor {self.name!r}: {option}: {error}") from None

    def _check_types(self, options: ActorOptions) -> None:
        unknown = options.keys() - ActorOptions.__annotations__.keys()
        self._require(
            not unknown,
            f"@actor has no option {', '.join(sorted(unknown))}; "
            f"it has {', '.join(ActorOptions.__annotations__)}",
        )
        for option, value in options.items():
            types = _OPTION_TYPES.get(option, object)
            name = getattr(types, "__name__", types)
            self._require(isinstance(value, types), f"{option} is of type {name}, not {value!r}")

    def _check_values(self) -> None:
        require, timeout_s, batch, join = self._require, self.timeout_s, self.batch, self.join
        require(self.concurrency >= 1, "concurrency is at least 1")
        require(timeout_s is None or timeout_s > 0, "timeout_s is positive, or None for no timeout")
        require(
            batch is None or (batch.max_size >= 1 and 0 <= batch.max_wait_s < inf),
            "a batch has a max_size of at least 1 and a finite max_wait_s",
        )
        require(
            join is None or 0 < join.timeout_s <= LONGEST_WAIT_S,
            f"a join's timeout_s is positive and at most {LONGEST_WAIT_S:g}",
        )
        require(join is None or join.partial in ("fail", "pass"), 'partial is "fail" or "pass"')
        require(not (batch and join), "batch and join exclude each other")
        require(not (batch and self.signature.yields), "a batch returns a list, it does not yield")
        require(self.executor in (None, *_EXECUTORS), f"executor is one of {', '.join(_EXECUTORS)}")
        require(
            not (self.executor and self.signature.is_async),
            "an executor runs plain functions; this handler is async",
        )
        require(
            not (self.executor == "process" and self.signature.has_context),
            "a handler in another process has no context",
        )
        require(all(map(callable, self.middleware)), "a middleware is a callable")

    def _require(self, condition: bool, problem: str) -> None:  # noqa: FBT001 — an assertion in words
        if not condition:
            raise ConfigurationError(f"actor {self.name!r}: {problem}")


@overload
def actor(handler: Callable[P, R], /) -> Actor[P, R]: ...
@overload
def actor(**options: Unpack[ActorOptions]) -> Callable[[Callable[P, R]], Actor[P, R]]: ...
def actor(handler: Callable[..., Any] | None = None, /, **options: Unpack[ActorOptions]) -> Any:
    """Make a handler an actor.

    The handler is a function, async or not, that takes a payload and optionally a `Context`;
    or a class, or an instance, with such a ``__call__``.
    See `ActorOptions` for what else can be said.

    Raises:
        ConfigurationError: the options do not fit each other or the handler.
    """
    if handler is None:

        def decorate(decorated: Callable[..., Any]) -> Actor[..., Any]:
            return Actor(decorated, **options)

        return decorate
    return Actor(handler, **options)


def _name(handler: Any, given: str | None) -> str:
    name: str = getattr(handler, "__name__", type(handler).__name__)
    try:
        return check_name(name.strip("_").replace("_", "-").lower() if given is None else given)
    except (InvalidName, TypeError) as error:
        raise InvalidName(f"@actor(name=...) of {handler!r}: {error}") from None
