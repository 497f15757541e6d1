"""The command line: it parses, calls and prints, and is all that reads the environment."""

import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from asyafw.cli import actors, check, dead_letters, queues, run, submit, worker
from asyafw.cli._errors import DONE, FAILED, report
from asyafw.cli._output import write_line
from asyafw.cli._process import leave_threads_behind, open_closed_streams

__all__ = ["app", "main"]

app = typer.Typer(
    name="asyafw",
    help="Actors with queues of their own, for AI pipelines.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text, so that what a message quotes is neither boxed, wrapped nor taken for markup.
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("worker")(worker.worker)
app.command("submit")(submit.submit)
app.command("check")(check.check)
app.command("actors")(actors.actors)
app.command("queues")(queues.queues)
app.add_typer(dead_letters.app, name="dead-letters")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and give the code to exit with: 0 done, 1 failed, 2 usage."""
    open_closed_streams()
    # Targets are modules of the folder where the command is given, as for `python -m`.
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    threads = set(threading.enumerate())
    code = _run(arguments)
    leave_threads_behind(code, threads)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except BaseException as error:  # noqa: BLE001 — whatever it is, it ends here
        return report(error)
    return DONE


def _show_version(*, wanted: bool) -> None:
    if wanted:
        write_line(f"asyafw {version('asyafw')}".encode())
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    pass
