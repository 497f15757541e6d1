"""What happens to jobs right now, as a few lines at the bottom of a terminal."""

import sys
from collections import deque
from types import TracebackType
from typing import Any, Self

from msgspec import Struct, field
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asyafw.cli._output import write_line
from asyafw.cli._text import printable
from asyafw.client import Job
from asyafw.events import Event

__all__ = ["Progress"]

_MOST_LINES = 8
_MOST_HOPS = 6
_REFRESH_PER_S = 8
_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}
_MARKS = {"succeeded": "✓", "failed": "✗", "cancelled": "∅"}


class _Shown(Struct):
    """A job's line: the actors that its message went to, and the last news."""

    job: str
    hops: list[str] = field(default_factory=list[str])
    left_out: bool = False
    news: str = ""
    end: str | None = None

    def text(self) -> Text:
        mark = _MARKS.get(self.end or "", "…")
        route = " → ".join(["…", *self.hops] if self.left_out else self.hops)
        # Its end: jobs of the same second begin alike.
        line = printable(f"{mark} {self.job[-8:]}  {route}  {self.news}").rstrip()
        style = _STYLES.get(self.end or "", "")
        return Text(line.partition("\n")[0], style, no_wrap=True, overflow="ellipsis")


class Progress:
    """Shows jobs on standard error between ``with`` and its end.

    There are lines for the latest that run and end, never more than a few, and one that counts.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._running: dict[str, _Shown] = {}
        self._ended: deque[_Shown] = deque(maxlen=_MOST_LINES)
        self._counts = dict.fromkeys(_MARKS, 0)
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=_REFRESH_PER_S,
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._live.stop()

    async def follow(self, job: Job) -> None:
        """Show a job until its end."""
        shown = self._running[job.id] = _Shown(job.id)
        try:
            async for event in job.events():
                _update(shown, event)
        finally:
            del self._running[job.id]
            if shown.end:
                self._counts[shown.end] += 1
            self._ended.append(shown)

    def write_line(self, line: bytes) -> None:
        """Write a result: above the lines, if both are on a terminal."""
        if sys.stdout.isatty():
            self._console.out(line.decode())
        else:
            write_line(line)

    def _render(self) -> Group:
        # In the thread that refreshes, while others go on.
        running = [shown.text() for shown in list(self._running.values())[:_MOST_LINES]]
        room = _MOST_LINES - len(running)
        ended = [shown.text() for shown in list(self._ended)[-room:]] if room else []
        counts = (f"{number} {end}" for end, number in self._counts.items() if number)
        summary = ", ".join([*counts, f"{len(self._running)} running"])
        return Group(*ended, *running, Text(summary, style="dim"))


def _update(shown: _Shown, event: Event) -> None:
    if event.next and event.kind in ("accepted", "hop"):
        shown.hops.append(event.next[0])
        shown.news = ""
        if len(shown.hops) > _MOST_HOPS:
            del shown.hops[0]
            shown.left_out = True
    if event.ends_job:
        shown.end = event.kind
    shown.news = _news(event) or shown.news


def _news(event: Event) -> str:
    match event.kind:
        case "progress":
            fraction = "" if event.fraction is None else f"{event.fraction:.0%} "
            return f"{fraction}{event.message or ''}"
        case "retried" | "failed" | "missing":
            reason: Any = event.error
            return f"{event.kind}: {reason.type} in {reason.actor}" if reason else event.kind
        case "hop" if event.children is not None:
            return f"{event.children} children"
        case _:
            return ""
