"""Results, on standard output."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from msgspec import json

from asyafw.cli._text import printable

__all__ = ["print_json", "print_table", "table", "write_line"]

_ANY_WIDTH: Final = 1_000_000


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    write_line(json.encode(value))


def write_line(line: bytes) -> None:
    """Write a line as it is, whatever the terminal's encoding.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    sys.stdout.flush()
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    """Make a table for `rich`; numbers are aligned to the right, and the first column is whole."""
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    made = Table(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[index], int | float) for row in cells)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        made.add_column(name, justify=justify, overflow="fold", no_wrap=index == 0)
    for row in cells:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as wide as the terminal, or as it needs to be where there is none."""
    from rich.console import Console

    made = table(columns, rows)
    console = Console(highlight=False)
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = _ANY_WIDTH
        console.width = max(1, console.measure(made).maximum)
    console.print(made)


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))
