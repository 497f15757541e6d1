"""`@actor`: a handler with a queue of its own."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import NoneType
from typing import Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from msgspec import Struct

from asyafw._signature import Signature, list_item, read_signature, without
from asyafw.envelope import check_name
from asyafw.exceptions import ConfigurationError
from asyafw.middleware import Middleware
from asyafw.retry import RetryPolicy

__all__ = ["Actor", "ActorOptions", "Batch", "Join", "actor"]

P = ParamSpec("P")
R = TypeVar("R")


class Batch(Struct, frozen=True):
    """Run the handler once for up to `max_size` messages, gathered for at most `max_wait_s` seconds."""

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
    executor         where a plain ``def`` runs: ``"thread"``, or ``"process"``, which a timeout kills
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


class Actor(Generic[P, R]):
    """A handler and how it is to be run; calling it calls the handler.

    `input_type` and `output_type` are those of one message:
    the items where the handler takes a batch or a join, or yields.
    """

    def __init__(self, handler: Callable[P, R], **options: Unpack[ActorOptions]) -> None:
        unknown = options.keys() - ActorOptions.__annotations__.keys()
        if unknown:
            raise ConfigurationError(f"@actor has no option {', '.join(sorted(unknown))}")
        self.handler = handler
        self.name = check_name(options.get("name") or _name_of(handler))
        self.concurrency = options.get("concurrency", 16)
        self.timeout_s = options.get("timeout_s")
        self.retry = options.get("retry", RetryPolicy())
        self.on_exhausted = _names(options.get("on_exhausted", ()))
        self.may_route_to = _names(options.get("may_route_to", ()))
        self.batch = options.get("batch")
        self.join = options.get("join")
        self.executor = options.get("executor")
        self.middleware = tuple(options.get("middleware", ()))
        function = handler.__call__ if inspect.isclass(handler) else handler
        self.signature: Signature = (
            _unbound(handler, self.name) if inspect.isclass(handler) else read_signature(function, self.name)
        )
        self.input_type = self._input_type()
        self.output_type = self._output_type()
        self._check()
        self.__doc__ = handler.__doc__
        self.__name__ = self.name
        self.__module__ = handler.__module__
        self.__wrapped__ = handler

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the handler, as if it had not been decorated."""
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<actor {self.name}>"

    @property
    def slots(self) -> int:
        """How many messages one worker has in hand at a time."""
        return self.concurrency * (self.batch.max_size if self.batch else 1)

    async def open(self, stack: AsyncExitStack) -> Callable[..., Any]:
        """Give the callable that handles messages: a class is made and entered, to be left by `stack`."""
        handler: Any = self.handler
        if inspect.isclass(handler):
            handler = handler()
        if hasattr(handler, "__aenter__"):
            entered = await stack.enter_async_context(handler)
            handler = entered if callable(entered) else handler
        return cast("Callable[..., Any]", handler)

    def _input_type(self) -> Any:
        annotation = self.signature.input_type
        if self.batch:
            return list_item(annotation)
        return without(list_item(annotation), NoneType) if self.join else annotation

    def _output_type(self) -> Any:
        annotation = self.signature.output_type
        return without(list_item(annotation), Exception) if self.batch else annotation

    def _check(self) -> None:
        def require(condition: bool, problem: str) -> None:  # noqa: FBT001 — an assertion in words
            if not condition:
                raise ConfigurationError(f"actor {self.name!r}: {problem}")

        batch, timeout_s = self.batch, self.timeout_s
        require(self.concurrency >= 1, "concurrency is at least 1")
        require(timeout_s is None or timeout_s > 0, "timeout_s is positive, or None for no timeout")
        require(batch is None or (batch.max_size >= 1 and batch.max_wait_s >= 0), "a batch has max_size ≥ 1")
        require(self.join is None or self.join.timeout_s > 0, "a join's timeout_s is positive")
        require(not (batch and self.join), "batch and join exclude each other")
        require(not (batch and self.signature.yields), "a batch returns a list, it does not yield")
        require(
            not (self.executor and self.signature.is_async),
            "an executor runs plain functions; this handler is async",
        )
        require(
            not (self.executor == "process" and self.signature.has_context),
            "a handler in another process has no context",
        )


@overload
def actor(handler: Callable[P, R], /) -> Actor[P, R]: ...
@overload
def actor(**options: Unpack[ActorOptions]) -> Callable[[Callable[P, R]], Actor[P, R]]: ...
def actor(handler: Callable[..., Any] | None = None, /, **options: Unpack[ActorOptions]) -> Any:
    """Make a handler an actor.

    The handler is a function, async or not, that takes a payload and optionally a `Context`;
    or a class, or an instance, with such a ``__call__``. See `ActorOptions` for what else can be said.

    Raises:
        ConfigurationError: the options do not fit each other or the handler.
    """
    if handler is None:
        return lambda decorated: Actor(decorated, **options)
    return Actor(handler, **options)


def _name_of(handler: Any) -> str:
    name: str = getattr(handler, "__name__", type(handler).__name__)
    return name.strip("_").replace("_", "-").lower()


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError(f"a list of names is needed, not the string {names!r}")
    return tuple(check_name(name) for name in names)


def _unbound(cls: Any, name: str) -> Signature:
    """Read ``cls.__call__`` as its instances' callers see it."""
    if "__call__" not in dir(cls) or not inspect.isfunction(cls.__call__):
        raise ConfigurationError(f"actor {name!r}: its class has no __call__")
    return read_signature(cls.__call__.__get__(object(), cls), name)
