"""What a handler can know and do beside its payload."""

import asyncio
import time
from collections.abc import Callable, Collection
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct, field

from asyafw.coordination import Coordinator, LocalCoordinator
from asyafw.envelope import MSGPACK, Codec, Envelope, Failure, Route
from asyafw.events import Event, Kind
from asyafw.exceptions import UnknownActor

if TYPE_CHECKING:
    import structlog

__all__ = ["Context", "RouteEditor", "Topology"]

Topology: TypeAlias = Collection[str]
"""The names of all actors that a route may hold; empty where they are not known."""


class RouteEditor:
    """The route of the message in hand: a handler may rewrite the part still to come."""

    __slots__ = ("_known", "value")

    def __init__(self, value: Route, known: Topology = ()) -> None:
        self.value = value
        self._known = known

    @property
    def prev(self) -> tuple[str, ...]:
        """The actors visited so far, in order."""
        return self.value.prev

    @property
    def curr(self) -> str:
        """The actor that has the message now."""
        return self.value.curr

    @property
    def next(self) -> tuple[str, ...]:
        """The actors still to visit, in order."""
        return self.value.next

    def prepend(self, *names: str) -> None:
        """Visit `names` before the rest.

        Raises:
            UnknownActor: the app has no such actor.
        """
        self.value = self.value.prepend(*self._checked(names))

    def append(self, *names: str) -> None:
        """Visit `names` after the rest.

        Raises:
            UnknownActor: the app has no such actor.
        """
        self.value = self.value.append(*self._checked(names))

    def replace(self, *names: str) -> None:
        """Visit `names` instead of the rest.

        Raises:
            UnknownActor: the app has no such actor.
        """
        self.value = self.value.replace(*self._checked(names))

    def stop(self) -> None:
        """Visit nobody else: the result of this handler is the job's."""
        self.value = self.value.stop()

    def _checked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if self._known and name not in self._known]
        if unknown:
            raise UnknownActor(
                f"{self.curr} routes to {', '.join(map(repr, unknown))}, "
                "which the app does not have; "
                f"it has {', '.join(sorted(self._known))}"
            )
        return names


def _to_nobody(_event: Event, _log: str | None) -> None: ...


class Context(Struct, eq=False):
    """The message in hand, as its handler sees it.

    `attempt` counts the runs of this handler for this message, crashes included, from 1.
    `state` holds what the app's lifespan gave.
    `coordinator` is what middleware shares with all replicas, if the transport has one.
    """

    envelope: Envelope
    attempt: int = 1
    state: Any = None
    known: Topology = ()
    notify: Callable[[Event, str | None], None] = _to_nobody
    # The worker's own marks: how to encode, and when and why to interrupt the handler.
    codec: Codec = MSGPACK
    task: "asyncio.Task[Any] | None" = None
    coordinator: Coordinator = field(default_factory=LocalCoordinator)
    started_at: float = field(default_factory=time.time)
    expires_at: float = inf
    interrupt: BaseException | None = None
    announced: bool = False
    _route: RouteEditor | None = None
    _headers: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<context of job {self.job} at {self.envelope.route.curr}>"

    @property
    def job(self) -> str:
        """The id of the job that the message belongs to."""
        return self.envelope.job

    @property
    def id(self) -> str:
        """The id of the message; it stays the same from hop to hop."""
        return self.envelope.id

    @property
    def hops(self) -> int:
        """How often the message has been handed on."""
        return self.envelope.hops

    @property
    def flow(self) -> str | None:
        """The flow by which the job was submitted, None for an explicit route."""
        return self.envelope.flow

    @property
    def deadline(self) -> float | None:
        """When the job's time is over, in seconds since the Unix epoch; None for never."""
        return self.envelope.deadline_at

    @property
    def failures(self) -> dict[int, Failure]:
        """Why an item is None, by its index, at a join with ``partial="pass"``."""
        return self.envelope.failures

    @property
    def error(self) -> Failure | None:
        """Why the message gave up where it came from, on a recovery route."""
        return self.envelope.error

    @property
    def route(self) -> RouteEditor:
        """The route, to be read and rewritten."""
        if self._route is None:
            self._route = RouteEditor(self.envelope.route, self.known)
        return self._route

    @property
    def headers(self) -> dict[str, str]:
        """The headers, to be read and changed; they travel on with the message."""
        if self._headers is None:
            self._headers = dict(self.envelope.headers)
        return self._headers

    @property
    def log(self) -> "structlog.stdlib.BoundLogger":
        """A logger bound to the job and the actor."""
        # Here, because it imports rich, which takes longer than all of asyafw.
        import structlog

        logger: structlog.stdlib.BoundLogger = structlog.get_logger("asyafw.actor")
        return logger.bind(job=self.job, actor=self.envelope.route.curr, attempt=self.attempt)

    async def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Report how far the handler is: a fraction from 0 to 1, a message, or both.

        Reports are sent in batches and may be lost with the worker.
        """
        self.tell("progress", fraction=fraction, message=message)
        # A handler that does nothing else lets others run, such as who sends the reports.
        await asyncio.sleep(0)

    def tell(self, kind: Kind, **fields: Any) -> None:
        """Have an event of the job sent soon."""
        event = Event(
            kind=kind,
            job=self.job,
            id=self.id,
            at=time.time(),
            flow=self.flow,
            actor=self.envelope.route.curr,
            hop=self.hops,
            attempt=self.attempt,
            enqueued_at=self.envelope.enqueued_at,
            started_at=self.started_at,
            **fields,
        )
        self.notify(event, self.envelope.reply)

    @property
    def edited_route(self) -> Route:
        """The route as the handler left it."""
        return self.envelope.route if self._route is None else self._route.value

    @property
    def edited_headers(self) -> dict[str, str]:
        """The headers as the handler left them."""
        return self.envelope.headers if self._headers is None else self._headers
