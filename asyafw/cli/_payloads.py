"""Payloads, as the command line gives them: ``JSON``, ``@file`` or ``-`` for standard input."""

import os
import select
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from anyio import from_thread, to_thread
from msgspec import json

from asyafw.envelope import DECODING_ERRORS
from asyafw.exceptions import ConfigurationError, PayloadError

__all__ = ["STDIN", "Line", "decode", "read", "stdin_lines"]

STDIN = "-"

_CHUNK = 65_536
_LOOK_EVERY_S = 0.1


class Line(NamedTuple):
    """One payload, not decoded, and where it stands in standard input, from 1; 0 elsewhere."""

    number: int
    text: bytes


def read(source: str) -> Line:
    """Read a payload that is given itself or as ``@file``.

    Raises:
        ConfigurationError: there is no such file, or it cannot be read.
    """
    if not source.startswith("@"):
        return Line(0, source.encode(errors="surrogateescape"))
    try:
        return Line(0, Path(source[1:]).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"the payload cannot be read: {error}") from error


async def stdin_lines() -> AsyncIterator[Line]:
    """Read standard input as it comes; lines that are blank are left out.

    Raises:
        ConfigurationError: it cannot be read.
    """
    number, rest, file = 0, bytearray(), sys.stdin.fileno()
    while chunk := await to_thread.run_sync(_read_chunk, file):
        *ends, begin = chunk.split(b"\n")
        for end in ends:
            number += 1
            line = bytes(rest + end)
            rest.clear()
            if line.strip():
                yield Line(number, line)
        rest += begin
    if rest.strip():
        yield Line(number + 1, bytes(rest))


def decode(text: bytes, type_: Any) -> Any:
    """Decode a payload as the type that its actor takes.

    Raises:
        PayloadError: it is no JSON, or of another type.
    """
    try:
        return json.decode(text, type=type_)
    except DECODING_ERRORS as error:
        what = "is of another type" if _is_json(text) else "is not JSON"
        raise PayloadError(f"the payload {what}: {error}") from error


def _is_json(text: bytes) -> bool:
    try:
        json.decode(text)
    except DECODING_ERRORS:
        return False
    return True


def _read_chunk(file: int) -> bytes:
    """Wait for input in a thread; not for ever, so that the thread can end with its task."""
    try:
        while not select.select([file], [], [], _LOOK_EVERY_S)[0]:
            from_thread.check_cancelled()
        return os.read(file, _CHUNK)
    except OSError as error:
        raise ConfigurationError(f"standard input cannot be read: {error}") from error
