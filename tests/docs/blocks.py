"""The code blocks of Markdown pages, and what it means to run them."""

import ast
import functools
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from types import CodeType, ModuleType
from typing import Self

import anyio
from msgspec import Struct
from sybil import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

ROOT = Path(__file__).parents[2]

# What a reader copies and runs, and what a reader only reads.
RUNNABLE = {"bash", "console", "python"}
READABLE = {"dockerfile", "http", "ini", "json", "mermaid", "text", "toml", "yaml"}

_INFO = re.compile(r"(?P<info>[^\n]*)\n")
_LANGUAGE = re.compile(r"(?:\{code-block\}\s*)?(?P<language>[\w+-]+)\s*$")
_OPTIONS = re.compile(r"(?:^:[\w-]+:.*\n)+", re.MULTILINE)
_CAPTION = re.compile(r"^:caption:\s*(?P<file>\S+)\s*$", re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^\n]+) -->\s*\Z")
_COMMAND_LIMIT_S = 300


class Block(Struct, frozen=True):
    """One fenced block: its place, its text, and the reason if it cannot be run.

    `file` is the name under which the reader is told to save it.
    """

    page: Path
    line: int
    language: str
    source: str
    file: str | None = None
    not_run: str | None = None


def pages() -> list[Path]:
    """Every page whose blocks are run."""
    written = sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "examples").rglob("README.md"))
    unwanted = {ROOT / "docs" / "_build", ROOT / "docs" / "changelog.d"}
    return [ROOT / "README.md", *(p for p in written if unwanted.isdisjoint(p.parents))]


def blocks(page: Path) -> Iterator[Block]:
    """Read the blocks of a page in order; directives such as `{toctree}` are none."""
    document = Document(page.read_text(), str(page))
    for region in RawFencedCodeBlockLexer(_INFO)(document):
        info: str = region.lexemes["info"]
        language = _LANGUAGE.match(info)
        if language is None and info.startswith("{"):
            continue
        source: str = region.lexemes["source"]
        options = _OPTIONS.match(source) if info.startswith("{") else None
        caption = _CAPTION.search(options[0]) if options else None
        reason = _NOT_RUN.search(document.text, 0, region.start)
        yield Block(
            page=page,
            line=document.text.count("\n", 0, region.start) + 2,
            language=language["language"] if language else "",
            source=_without(options, source),
            file=caption["file"] if caption else None,
            not_run=reason["reason"] if reason else None,
        )


def _without(options: re.Match[str] | None, source: str) -> str:
    """Blank the options out, so that line numbers stay right."""
    return "\n" * options[0].count("\n") + source[options.end() :] if options else source


class Reader:
    """Somebody who follows a page from its first block to its last, in one folder.

    The Python blocks share one module, and may `await` at top level, as in `python -m asyncio`.
    A command that ends in `&` runs until the reader leaves.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._background: list[subprocess.Popen[bytes]] = []
        self._modules: dict[str, ModuleType] = {}
        self._module = self._new_module("page")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in self._modules:
            del sys.modules[name]
        for process in self._background:
            process.terminate()
        for process in self._background:
            process.wait(30)

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.file is not None:
            (self._folder / block.file).write_text(block.source)
        match block.language:
            case "python":
                self._python(block)
            case "console":
                self._console(block)
            case "bash":
                self._shell(f"set -euo pipefail\n{block.source}")
            case _:
                raise AssertionError(f"{block.page}:{block.line}: nobody can run {block.language}")

    def _python(self, block: Block) -> None:
        if block.file is not None:
            self._module = self._new_module(Path(block.file).stem)
        code: CodeType = compile(
            "\n" * (block.line - 1) + block.source,
            str(block.page),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        run = functools.partial(eval, code, self._module.__dict__)
        if code.co_flags & inspect.CO_COROUTINE:
            anyio.run(run)
        else:
            run()

    def _new_module(self, name: str) -> ModuleType:
        module = sys.modules[name] = self._modules[name] = ModuleType(name)
        return module

    def _console(self, block: Block) -> None:
        for command, expected in _dialogue(block.source):
            if command.endswith("&"):
                self._start(command.removesuffix("&"))
                continue
            output = self._shell(command)
            options = ELLIPSIS | NORMALIZE_WHITESPACE
            assert not expected or OutputChecker().check_output(expected, output, options), output

    def _shell(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def _start(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
        self._background.append(process)


def _dialogue(source: str) -> Iterator[tuple[str, str]]:
    """Split a console block into commands and what the reader is to see."""
    for part in re.split(r"^\$ ", source, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        length = next(i for i, line in enumerate(lines, 1) if not line.endswith("\\\n"))
        yield "".join(lines[:length]).strip(), "".join(lines[length:])


def _environment() -> dict[str, str]:
    """Commands find this Python's scripts, and `examples` from the folder they run in."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
