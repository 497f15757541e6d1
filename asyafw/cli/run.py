"""`asyafw run`: all of an app in this process, with jobs or without."""

import sys
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import anyio
import typer

from asyafw.app import load_app
from asyafw.cli._errors import DONE, FAILED, say
from asyafw.cli._jobs import Follow, Plan, input_type, lines_of, submit_all
from asyafw.cli._logs import log_as
from asyafw.cli._options import (
    Actors,
    AsJson,
    DrainTimeout,
    InFlight,
    LogFormat,
    LogLevel,
    Target,
    Timeout,
    TransportUrl,
    names,
    option,
)
from asyafw.cli._payloads import Line
from asyafw.cli._process import Stop, run_async, serve, serve_until_stopped
from asyafw.cli._results import Results
from asyafw.cli._text import counted
from asyafw.cli._transport import is_memory
from asyafw.client import Client

__all__ = ["run"]


def run(  # noqa: PLR0913 — a command has as many parameters as it has options
    target: Target,
    *,
    flow: Annotated[
        str | None, option("--flow", "Submit jobs to this flow.", metavar="NAME")
    ] = None,
    payload: Annotated[
        str | None,
        option(
            "--payload",
            "Its input: JSON, @file, or - for a value on each line of standard input.",
            metavar="JSON",
        ),
    ] = None,
    transport: TransportUrl = "memory://",
    actors: Actors = None,
    timeout: Timeout = None,
    in_flight: InFlight = 64,
    drain_timeout: DrainTimeout = 30.0,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Run all actors of an app in this process.

    With --flow and --payload it submits jobs, prints each result as a line of JSON,
    in the order of the input, and exits with 1 if any failed.
    Without them it serves until Ctrl-C.
    """
    if (flow is None) != (payload is None):
        raise typer.BadParameter("--flow and --payload belong together")
    log_as(log_level, log_format)
    app = load_app(target)
    served = names(actors) or list(app.actors)
    jobs = None
    if flow is not None and payload is not None:
        type_ = input_type(app, flow)
        if is_memory(transport):
            _warn_of_absent(flow, app.flows[flow], served)
        plan = Plan(flow, type=type_, in_flight=in_flight, timeout_s=timeout)
        jobs = _Jobs(app.connect(transport), plan, lines_of(payload, type_), as_json=as_json)

    async def main(stop: Stop) -> int:
        worker = app.worker(transport, actors=served, drain_timeout_s=drain_timeout)
        if jobs is None:
            await serve_until_stopped(worker, stop, transport)
            return DONE
        with jobs.shown(lambda: log_as(log_level, log_format)):
            await serve(worker, stop, partial(jobs.run, stop))
        return stop.exit_code() or (FAILED if jobs.results.failures else DONE)

    raise typer.Exit(run_async(main, drain_timeout_s=drain_timeout))


def _warn_of_absent(flow: str, route: Sequence[str], served: Collection[str]) -> None:
    if absent := [name for name in route if name not in served]:
        say(f"Warning: nobody serves {', '.join(absent)} here, which flow {flow!r} visits")


class _Jobs:
    """The jobs that the command submits."""

    def __init__(
        self, client: Client, plan: Plan, lines: AsyncIterator[Line], *, as_json: bool
    ) -> None:
        self.results = Results(as_json=as_json)
        self._client = client
        self._plan = plan
        self._lines = lines
        self._follow: Follow | None = None

    @contextmanager
    def shown(self, log_again: Callable[[], None]) -> Generator[None]:
        """Show what happens if standard error is a terminal, and the log above of it."""
        if not sys.stderr.isatty():
            yield
            return
        from asyafw.cli._progress import Progress

        with Progress() as progress:
            log_again()
            self._follow = progress.follow
            self.results.write = progress.write_line
            yield
        log_again()

    async def run(self, stop: Stop) -> None:
        """Submit them and tell how they end, until a signal comes."""
        async with self._client as client:
            with anyio.CancelScope() as scope:
                stop.call(scope.cancel)
                await submit_all(client, self._plan, self._lines, self.results, self._follow)
            if scope.cancelled_caught:
                say(f"Interrupted, with {counted(self.results.unfinished, 'job')} unfinished.")
