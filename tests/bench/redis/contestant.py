"""What the files of the contestants have in common: each is a program of three commands.

| command | what it does |
|---|---|
| `versions` | prints the versions of the packages it stands on; fails where one is missing |
| `send JOB` | sends the messages of the job |
| `serve JOB` | once it reads a line, serves the steps of the job, and tells of itself |
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import uvloop
from msgspec import json

from tests.bench.redis.job import Job
from tests.bench.redis.meter import Meter

__all__ = ["all_of", "main"]

_AT_ONCE: Final = 32  # each may take a connection

Send: TypeAlias = Callable[[Job], Awaitable[None]]
Serve: TypeAlias = Callable[[Job, Meter], Awaitable[None]]


def main(packages: list[str], send: Send, serve: Serve) -> None:
    """Run the command of the command line, on uvloop."""
    command, *arguments = sys.argv[1:]
    if command == "versions":
        versions = {package: version(package) for package in packages}
        sys.stdout.write(json.encode(versions).decode() + "\n")
        return
    job = json.decode(arguments[0], type=Job)
    if command == "send":
        uvloop.run(_awaited(send(job)))
    else:
        sys.stdin.readline()
        uvloop.run(_awaited(serve(job, Meter(job))))


async def _awaited(result: Awaitable[None]) -> None:
    await result


async def all_of(calls: Sequence[Awaitable[Any]]) -> None:
    """Await many calls, some at a time."""
    for begin in range(0, len(calls), _AT_ONCE):
        await asyncio.gather(*calls[begin : begin + _AT_ONCE])
