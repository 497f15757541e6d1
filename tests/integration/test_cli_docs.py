from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from asyafw.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def commands() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield name, command
        for inner in getattr(command, "commands", {}).values():
            yield name, inner


@pytest.mark.parametrize(("name", "command"), [pytest.param(*c, id=c[1].name) for c in commands()])
def test_the_reference_tells_every_option(name: str, command: Any) -> None:
    section = PAGE.read_text().partition(f"\n({name})=\n")[2].partition("\n(")[0]
    options = [option.opts[0] for option in command.params if option.opts[0].startswith("-")]

    assert [option for option in options if f"`{option}" not in section] == []
