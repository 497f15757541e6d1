"""`asyafw queues`: how far each queue is behind."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import anyio
import typer
from msgspec import structs

from asyafw.app import load_app
from asyafw.cli._options import Actors, AsJson, TransportUrl, argument, names, option
from asyafw.cli._output import print_json, print_table, table
from asyafw.cli._text import age
from asyafw.cli._transport import on_transport
from asyafw.events import DEAD_LETTERS
from asyafw.transport import Lag, Transport

__all__ = ["queues"]

_EVERY_S = 1.0
_COLUMNS = ("queue", "waiting", "in flight", "delayed", "oldest", "arrived")


def queues(
    target: Annotated[
        str | None, argument("TARGET", "The app whose actors' queues to look at.")
    ] = None,
    *,
    actors: Actors = None,
    transport: TransportUrl = "memory://",
    watch: Annotated[bool, option("--watch", "Look again every second, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how many messages wait for each actor.

    The dead letters come last. The actors are those of TARGET, unless --actors names them.
    """
    chosen = names(actors) or (load_app(target).actors if target else None)
    if not chosen:
        raise typer.BadParameter("name an app, or queues by --actors a,b")
    wanted = [*chosen, DEAD_LETTERS]

    async def look(opened: Transport) -> None:
        if watch:
            await _watch(opened, wanted, as_json=as_json)
        else:
            _print(await _lags(opened, wanted), as_json=as_json)

    on_transport(transport, look)


async def _lags(transport: Transport, queues_: Iterable[str]) -> dict[str, Lag]:
    return {name: await transport.lag(name) for name in queues_}


async def _watch(transport: Transport, queues_: Sequence[str], *, as_json: bool) -> None:
    from rich.live import Live

    if as_json or not sys.stdout.isatty():
        while True:
            _print(await _lags(transport, queues_), as_json=as_json)
            await anyio.sleep(_EVERY_S)
    with Live(auto_refresh=False) as live:
        while True:
            rows = map(_row, (await _lags(transport, queues_)).items())
            live.update(table(_COLUMNS, rows), refresh=True)
            await anyio.sleep(_EVERY_S)


def _print(lags: dict[str, Lag], *, as_json: bool) -> None:
    if as_json:
        print_json([{"queue": name, **structs.asdict(lag)} for name, lag in lags.items()])
    else:
        print_table(_COLUMNS, map(_row, lags.items()))


def _row(item: tuple[str, Lag]) -> tuple[object, ...]:
    name, lag = item
    return (name, lag.backlog, lag.in_flight, lag.delayed, age(lag.oldest_s), lag.arrived)
