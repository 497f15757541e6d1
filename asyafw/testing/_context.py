"""A context for a handler that is called by itself."""

from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from asyafw.context import Context
from asyafw.envelope import MSGPACK, Envelope, Route, new_id
from asyafw.events import Event

__all__ = ["make_context"]


def make_context(
    route: Sequence[str] = ("actor",),
    *,
    attempt: int = 1,
    state: Any = None,
    told: list[Event] | None = None,
    **fields: Any,
) -> Context:
    """Make what a worker would give to the first actor of `route`.

    ::

        ctx = make_context(["judge", "publish"], hops=3)
        await judge(photo, ctx)
        assert ctx.route.next == ("enhance", "judge", "publish")

    What the handler tells, such as its progress, is added to `told`.
    `fields` are others of the `Envelope`: headers, hops, deadline_at, failures, error, …
    """
    job = new_id()
    known: dict[str, Any] = {
        "id": job,
        "job": job,
        "route": Route(route[0], tuple(route[1:])),
        "payload": Raw(MSGPACK.null),
    }
    events = [] if told is None else told
    return Context(
        Envelope(**known | fields),
        attempt=attempt,
        state=state,
        notify=lambda event, _log: events.append(event),
    )
