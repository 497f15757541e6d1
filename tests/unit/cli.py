"""The command line in this process, and modules to point it at."""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import structlog
from msgspec import json

from asyafw.cli import main


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, which is one value."""
        return json.decode(self.out)


class Command:
    """Runs commands in a folder of its own."""

    def __init__(self, folder: Path, output: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._output = output

    def __call__(self, *arguments: str) -> Done:
        code = main(arguments)
        seen = self._output.readouterr()
        return Done(code, seen.out, seen.err)

    def module(self, source: str) -> str:
        """Save a module, and give its name, which no other test has."""
        name = f"target_{uuid4().hex}"
        (self.folder / f"{name}.py").write_text(source)
        return name


@contextmanager
def commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> Generator[Command]:
    """Give commands as a user has them in a folder, and leave no trace of them."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Command(folder, output)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    for name in [name for name in sys.modules if name.startswith("target_")]:
        del sys.modules[name]
