"""The processes of a contestant, as the driver sees them."""

import os
import select
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, TypeVar

from msgspec import Struct, json
from msgspec.structs import replace

from tests.bench.redis.job import Job
from tests.bench.redis.meter import Event

__all__ = ["CONTESTANTS", "Contestant", "ContestantFailed", "Serving"]

_ROOT: Final = Path(__file__).parents[3]
_PATIENCE_S: Final = 30.0
_MOST_OF_ERRORS: Final = 4000

E = TypeVar("E", bound=Event)


class ContestantFailed(Exception):
    """A process of a contestant ended, or said nothing for too long."""


class Contestant(Struct, frozen=True):
    """A program below `contestants`, and how it is told apart from another way to run it."""

    name: str
    module: str
    variant: str = ""
    has_slots: bool = True

    def versions(self, python: str) -> Mapping[str, str]:
        """Tell what it stands on.

        Raises:
            ContestantFailed: it is not installed.
        """
        return json.decode(self._run(python, "versions"), type=dict[str, str])

    def send(self, python: str, job: Job) -> None:
        """Send the messages of a job.

        Raises:
            ContestantFailed: it did not.
        """
        self._run(python, "send", job)

    @contextmanager
    def serve(self, python: str, job: Job) -> Generator["Serving"]:
        """Make a worker ready, and kill it in the end."""
        with TemporaryFile() as errors:
            command = self._command(python, "serve", job)
            stderr = None if job.is_profiled else errors
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd=_ROOT
            )
            try:
                yield Serving(self.name, process, errors)
            finally:
                process.kill()
                process.communicate()

    def _run(self, python: str, command: str, job: Job | None = None) -> bytes:
        try:
            done = subprocess.run(
                self._command(python, command, job),
                check=False,
                capture_output=True,
                cwd=_ROOT,
                timeout=_PATIENCE_S,
            )
        except subprocess.TimeoutExpired as error:
            raise ContestantFailed(f"{self.name} {command} takes too long") from error
        if done.returncode:
            raise ContestantFailed(f"{self.name} {command}: {_end_of(done.stderr)}")
        return done.stdout

    def _command(self, python: str, command: str, job: Job | None) -> list[str]:
        module = f"tests.bench.redis.contestants.{self.module}"
        arguments = [] if job is None else [_encoded(job, self.variant)]
        return [python, "-m", module, command, *arguments]


CONTESTANTS: Final = (
    Contestant("raw-batch", "bare_loop", "batch", has_slots=False),
    Contestant("raw-pipeline", "bare_loop", "pipeline", has_slots=False),
    Contestant("asyafw", "with_asyafw", "hops"),
    Contestant("asyafw-jobs", "with_asyafw", "jobs"),
    Contestant("taskiq", "with_taskiq"),
    Contestant("faststream", "with_faststream"),
    Contestant("repid", "with_repid"),  # codespell:ignore repid
    Contestant("streaq", "with_streaq"),
    Contestant("saq", "with_saq"),
    Contestant("dramatiq", "with_dramatiq"),
    Contestant("arq", "with_arq"),
)


class Serving:
    """A worker, which has imported what it needs and waits for `start`."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._name = name
        self._process = process
        self._errors = errors
        self._stdin = process.stdin.fileno()
        self._stdout = process.stdout.fileno()
        self._buffer = b""

    def start(self) -> None:
        """Let it serve."""
        # Its end, if that was before this, is told of by `wait_for`.
        with suppress(BrokenPipeError):
            os.write(self._stdin, b"\n")

    def wait_for(self, kind: type[E]) -> E:
        """Wait until the worker tells of something, skipping what it tells before.

        Raises:
            ContestantFailed: it does not.
        """
        latest = time.monotonic() + _PATIENCE_S
        while True:
            event: Any = json.decode(self._line(latest), type=Event)
            if isinstance(event, kind):
                return event

    def _line(self, latest: float) -> bytes:
        while b"\n" not in self._buffer:
            left_s = latest - time.monotonic()
            readable = left_s > 0 and select.select([self._stdout], [], [], left_s)[0]
            chunk = os.read(self._stdout, 2**20) if readable else b""
            if not chunk:
                self._errors.seek(0)
                said = _end_of(self._errors.read())
                raise ContestantFailed(f"{self._name} serves no more: {said}")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line


def _encoded(job: Job, variant: str) -> str:
    return json.encode(replace(job, variant=variant)).decode()


def _end_of(output: bytes) -> str:
    return output[-_MOST_OF_ERRORS:].decode(errors="replace").strip()
