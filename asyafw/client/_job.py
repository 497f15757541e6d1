"""A job, as who submitted it sees it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from asyafw.client._catalogue import Catalogue
from asyafw.client._record import Record
from asyafw.events import Event
from asyafw.exceptions import JobCancelled, JobError, JobFailed, ResultTimeout

__all__ = ["Job"]


class Job:
    """One submission, from its acceptance to its end.

    Its events are kept for as long as this object is.
    """

    def __init__(
        self, record: Record, catalogue: Catalogue, cancel: Callable[[str], Awaitable[None]]
    ) -> None:
        self._record = record
        self._catalogue = catalogue
        self._cancel = cancel

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    @property
    def id(self) -> str:
        """The id by which any client can find the job again."""
        return self._record.job

    async def result(self, timeout_s: float | None = None, *, type: Any = None) -> Any:  # noqa: A002 — as msgspec names it
        """Wait for the end and give the result, decoded as `type`, or as its last actor declares.

        The result of a fan-out that no actor joins is the list of its children's, in order.

        Raises:
            JobFailed: the job failed; its `error` says why.
            JobCancelled: somebody cancelled the job.
            ResultTimeout: it did not end in `timeout_s` seconds; it goes on.
            TransportClosed: the client was closed before the end; the job goes on.
            PayloadError: the result is not of `type`.
        """
        end = self._record.end
        with anyio.move_on_after(timeout_s):
            end = await self._record.ended()
        if end is None:
            raise ResultTimeout(self.id, f"job {self.id} did not end in {timeout_s} s; it goes on")
        if end.kind == "cancelled":
            raise JobCancelled(self.id, f"job {self.id} was cancelled")
        if end.kind == "failed":
            raise JobFailed(self.id, end.error)
        return await self._collect((), end, type)

    async def events(self) -> AsyncIterator[Event]:
        """Give the job's events from the first on, as they happen, until its end.

        Raises:
            TransportClosed: the client was closed before the end.
        """
        seen = 0
        while True:
            while seen < len(self._record.events):
                event = self._record.events[seen]
                seen += 1
                yield event
                if event.ends_job:
                    return
            await self._record.changed()

    async def cancel(self) -> None:
        """Ask for the job to be cancelled; see `Client.cancel`."""
        await self._cancel(self.id)

    async def _collect(self, path: tuple[int, ...], event: Event, type_: Any) -> Any:
        """Give the result of the message at `path` among the children of fan-outs."""
        if event.children is None:
            return await self._catalogue.decoded(self._record.results[path], type_)
        results: list[Any] = []
        for index in range(event.children):
            child = self._record.results.get((*path, index))
            if child is None:
                raise JobError(self.id, f"the result of child {(*path, index)} is not in the log")
            results.append(await self._collect((*path, index), child.event, type_))
        return results
