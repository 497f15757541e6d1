"""Enhance photos from the command line: a table of what was done and gained is its last word."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from asyafw import JobFailed
from asyafw.client import Client
from asyafw.telemetry import configure_logging
from examples.image_enhancement import app
from examples.image_enhancement.actors import Order, Result
from examples.image_enhancement.measures import Measures

_PHOTOS = Path(__file__).with_name("photos")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
_IN_FLIGHT = 4


def main(
    photos: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or https:// addresses of photos.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for what comes of them.")] = Path("out"),
    transport: Annotated[str, typer.Option(envvar="ASYAFW_TRANSPORT")] = "memory://",
) -> None:
    """Enhance photos, by default those that come with the example."""
    configure_logging(level="error")
    uris = list(_found(photos or [str(_PHOTOS)]))
    results, failures = anyio.run(_enhance_all, uris, str(out), transport)
    console = Console()
    if results:
        console.print(_table(results))
    for result in results:
        console.print(os.path.relpath(result.photo), highlight=False, soft_wrap=True)
    for uri, reason in failures:
        Console(stderr=True).print(f"[red]not enhanced[/red] {uri}: {reason}", highlight=False)
    raise typer.Exit(1 if failures or not uris else 0)


def _found(wanted: Sequence[str]) -> Iterator[str]:
    for uri in wanted:
        if Path(uri).is_dir():
            yield from sorted(
                str(path) for path in Path(uri).iterdir() if path.suffix.lower() in _SUFFIXES
            )
        else:
            yield uri


async def _enhance_all(
    uris: Sequence[str], out: str, transport: str
) -> tuple[list[Result], list[tuple[str, str]]]:
    """Keep a few photos on their way at a time, so that memory is bounded however many come."""
    results: list[Result] = []
    failures: list[tuple[str, str]] = []
    waiting = iter(uris)

    async def enhance_some(client: Client, progress: Progress) -> None:
        for uri in waiting:
            try:
                job = await client.submit("enhance", Order(uri, out))
                results.append(await job.result())
            except JobFailed as error:
                failures.append((uri, error.error.message))
            progress.advance(bar)

    with _progress() as progress:
        bar = progress.add_task("enhancing", total=len(uris))
        async with (
            app.worker(transport),
            app.connect(transport) as client,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(_IN_FLIGHT):
                tasks.start_soon(enhance_some, client, progress)
    return results, failures


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _table(results: Sequence[Result]) -> Table:
    table = Table("photo", "done", "exposure", "noise", "sharpness", "size", "score")
    for result in results:
        before, after = result.before, result.after
        table.add_row(
            Path(result.uri).name,
            ", ".join(_done(result)) or "nothing to do",
            _change(f"{before.exposure:+.1f}", f"{after.exposure:+.1f}"),
            _change(f"{before.noise:.1f}", f"{after.noise:.1f}"),
            _change(f"{before.sharpness:.2f}", f"{after.sharpness:.2f}"),
            _change(_size(before), _size(after)),
            _change(f"{before.score:.2f}", f"{after.score:.2f}"),
        )
    return table


def _done(result: Result) -> list[str]:
    return [f"{step} (undone)" if step in result.undone else step for step in result.steps]


def _size(measures: Measures) -> str:
    return f"{measures.width}×{measures.height}"


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


if __name__ == "__main__":
    typer.run(main)
