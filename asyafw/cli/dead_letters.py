"""`asyafw dead-letters`: messages that gave up."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from asyafw._connect import redacted
from asyafw.cli._errors import FAILED, say
from asyafw.cli._letter import as_row, as_sheet, as_summary, as_whole
from asyafw.cli._options import AsJson, TransportUrl, option
from asyafw.cli._output import print_json, print_table, write_line
from asyafw.cli._text import counted
from asyafw.cli._transport import on_transport
from asyafw.dead_letters import Selection, browse, discard, find, replay

__all__ = ["app"]

app = typer.Typer(
    help="List, show, replay and discard messages that gave up.", no_args_is_help=True
)

# What decides about many letters at once is not read from the environment.
_Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which ones.")]
_All = Annotated[bool, typer.Option("--all", help="All that are there now.")]
_Actor = Annotated[
    str | None, option("--actor", "Only those that this actor gave up.", metavar="NAME")
]


@app.command("list")
def list_letters(
    *,
    transport: TransportUrl = "memory://",
    limit: Annotated[
        int, option("--limit", "Look at no more than so many.", metavar="N", min=1)
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first.

    They are received and handed back: whoever looks at the same time may see others.
    """
    letters = on_transport(transport, lambda opened: browse(opened, limit))
    if as_json:
        print_json([as_summary(letter) for letter in letters])
        return
    now = time.time()
    columns = ("id", "actor", "error", "attempts", "age", "flow")
    print_table(columns, [as_row(letter, now) for letter in letters])


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Which one.")],
    *,
    transport: TransportUrl = "memory://",
    as_json: AsJson = False,
) -> None:
    """Show a dead letter.

    That is its error, its route, its headers and its payload.
    """
    letter = on_transport(transport, lambda opened: find(opened, letter_id))
    if letter is None:
        _report_missing([letter_id], transport)
    elif as_json:
        print_json(as_whole(letter))
    else:
        write_line(as_sheet(letter).encode())


@app.command("replay")
def replay_letters(
    ids: _Ids = None,
    *,
    everything: _All = False,
    actor: _Actor = None,
    transport: TransportUrl = "memory://",
) -> None:
    """Send dead letters to their actors again.

    It is as at the first attempt there: the error is cleared, and a deadline that has passed
    is dropped. The ids are printed.
    """
    selection = _selection(ids, actor, everything=everything)
    replayed = on_transport(transport, lambda opened: replay(opened, selection))
    _print_ids(replayed.sent, "sent again")
    for letter_id in replayed.refused:
        say(f"Error: {letter_id} holds bytes that no worker could read; it can only be discarded")
    _report_missing(_missing(selection, [*replayed.sent, *replayed.refused]), transport)
    if replayed.refused:
        raise typer.Exit(FAILED)


@app.command("discard")
def discard_letters(
    ids: _Ids = None,
    *,
    everything: _All = False,
    actor: _Actor = None,
    transport: TransportUrl = "memory://",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop dead letters for good; print their ids."""
    selection = _selection(ids, actor, everything=everything)
    if not yes:
        which = counted(len(ids), "dead letter") if ids else "all dead letters"
        of = f" of {actor}" if actor else ""
        _confirm(f"Discard {which}{of} on {redacted(transport)}?")
    discarded = on_transport(transport, lambda opened: discard(opened, selection))
    _print_ids(discarded, "discarded")
    _report_missing(_missing(selection, discarded), transport)


def _confirm(question: str) -> None:
    """Ask on standard error: nothing but results goes to standard output.

    Raises:
        typer.Abort: the answer is not yes.
    """
    say(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Abort


def _selection(ids: Sequence[str] | None, actor: str | None, *, everything: bool) -> Selection:
    if bool(ids) == everything:
        raise typer.BadParameter("name dead letters by their ids, or take --all")
    return Selection(frozenset(ids) if ids else None, actor)


def _missing(selection: Selection, found: Sequence[str]) -> Sequence[str]:
    return sorted((selection.ids or frozenset()) - set(found))


def _print_ids(ids: Sequence[str], what: str) -> None:
    for letter_id in ids:
        write_line(letter_id.encode())
    say(f"{len(ids)} {what}")


def _report_missing(ids: Sequence[str], transport: str) -> None:
    for letter_id in ids:
        say(f"Error: there is no dead letter {letter_id!r} on {redacted(transport)}")
    if ids:
        raise typer.Exit(FAILED)
