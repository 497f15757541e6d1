"""How the jobs of a command ended: results on standard output, failures on standard error."""

from collections.abc import Callable
from typing import Any

from anyio import to_thread
from msgspec import json

from asyafw.cli._errors import say
from asyafw.cli._output import write_line
from asyafw.cli._payloads import Line
from asyafw.cli._text import printable
from asyafw.exceptions import JobFailed

__all__ = ["Results"]


class Results:
    """Prints each result as a line of JSON, and counts.

    `failures` are lines without a result, `unfinished` those that are read and not told.
    `write` writes a line; with `as_json` each job, failed or not, is an object on standard output.
    """

    def __init__(self, *, as_json: bool, write: Callable[[bytes], None] = write_line) -> None:
        self.failures = 0
        self.unfinished = 0
        self._as_json = as_json
        self.write = write

    async def submitted(self, line: Line, job: str) -> None:
        """Tell that a job was accepted, and nothing more of it."""
        self.unfinished -= 1
        await self._print(json.encode(_about(line, job)) if self._as_json else job.encode())

    async def succeeded(self, line: Line, job: str, result: Any) -> None:
        """Tell a job's result."""
        self.unfinished -= 1
        await self._print(
            json.encode({**_about(line, job), "result": result} if self._as_json else result)
        )

    async def failed(self, line: Line, job: str | None, error: Exception) -> None:
        """Tell why a line is no job, or a job has no result."""
        self.failures += 1
        self.unfinished -= 1
        if self._as_json:
            await self._print(json.encode({**_about(line, job), "error": _described(error)}))
            return
        where = f"line {line.number}: " if line.number else ""
        what = f"job {job} failed: " if isinstance(error, JobFailed) else ""
        say(printable(f"Error: {where}{what}{error}"))

    async def _print(self, line: bytes) -> None:
        # In a thread, because whoever reads may pause for as long as they like.
        await to_thread.run_sync(self.write, line, abandon_on_cancel=True)


def _about(line: Line, job: str | None) -> dict[str, Any]:
    about: dict[str, Any] = {"line": line.number} if line.number else {}
    return about if job is None else {**about, "job": job}


def _described(error: Exception) -> dict[str, Any]:
    if not isinstance(error, JobFailed):
        return {"type": type(error).__name__, "message": str(error)}
    failure = error.error
    return {
        "type": failure.type,
        "message": failure.message,
        "actor": failure.actor,
        "attempts": failure.attempts,
    }
