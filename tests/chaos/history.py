"""What a run records: each process writes a file of JSON lines of its own.

A line is written by one system call as soon as it is known, so that SIGKILL loses nothing.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from msgspec import Struct
from msgspec.json import Decoder, Encoder

__all__ = [
    "End",
    "Fate",
    "Invoke",
    "Letter",
    "Ok",
    "Output",
    "Plan",
    "Record",
    "Recorder",
    "Run",
    "Struck",
    "Unknown",
    "read_histories",
]

Fate: TypeAlias = Literal["none", "slow", "retry", "reject", "kill"]


class Plan(Struct, frozen=True, omit_defaults=True):
    """What a job is to meet on its way.

    `n` numbers it. Its `fate` strikes at the actor `place`, and there only the child of this
    number, if the message is one. `width` is how many children it has, `size` how long its data.
    A slow handler takes `pause_s` seconds.
    """

    n: int
    flow: str
    size: int
    width: int = 0
    fate: Fate = "none"
    place: str = ""
    child: int | None = None
    pause_s: float = 0


class Invoke(Struct, frozen=True, omit_defaults=True, tag="invoke", tag_field="e"):
    """A job is about to be submitted; `once` if by an idempotency key, until that is known."""

    plan: Plan
    once: bool = False


class Ok(Struct, frozen=True, tag="ok", tag_field="e"):
    """The submission was acknowledged."""

    n: int
    job: str


class Unknown(Struct, frozen=True, tag="unknown", tag_field="e"):
    """The submission failed: the job may come out or not."""

    n: int
    error: str


class Run(Struct, frozen=True, tag="run", tag_field="e"):
    """A handler began.

    `nonce` is what whoever emitted this message put into it, another for each emission;
    `attempt` counts the emissions of one hop, `delivery` the deliveries of one emission.
    """

    n: int
    job: str
    id: str
    hops: int
    actor: str
    attempt: int
    delivery: int
    nonce: int


class Output(Struct, frozen=True):
    """The result of a job: the digest of its data, the actors it met, and its children's numbers.

    A child that failed is None among the `parts`, one that is not of this job is -1.
    """

    n: int
    crc: int
    trail: tuple[str, ...]
    parts: tuple[int | None, ...] = ()


class End(Struct, frozen=True, omit_defaults=True, tag="end", tag_field="e"):
    """The last event of a job; `error` is the type of its error."""

    job: str
    kind: str
    position: str
    output: Output | None = None
    error: str | None = None


class Letter(Struct, frozen=True, tag="letter", tag_field="e"):
    """A dead letter that was there in the end."""

    n: int
    job: str
    actor: str
    error: str


class Struck(Struct, frozen=True, tag="struck", tag_field="e"):
    """A fault, so many seconds after the start."""

    at_s: float
    fault: str
    detail: str


Record: TypeAlias = Invoke | Ok | Unknown | Run | End | Letter | Struck

_ENCODE: Final = Encoder().encode
_DECODER: Final = Decoder(Record)


class Recorder:
    """Appends to one file, between ``with`` and its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._file)

    def add(self, record: Record) -> None:
        """Write a record."""
        os.write(self._file, _ENCODE(record) + b"\n")


def read_histories(folder: Path) -> Iterator[Record]:
    """Read all that a run has recorded; each file's records are in their order."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                # Only the end of a process in the middle of a line leaves it without an end.
                if line.endswith(b"\n"):
                    yield _DECODER.decode(line)
