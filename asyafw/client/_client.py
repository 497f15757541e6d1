"""Submit jobs and follow them."""

import hashlib
import time
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self
from weakref import WeakValueDictionary, ref

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Raw

from asyafw._follow import follow
from asyafw.client._catalogue import Catalogue
from asyafw.client._job import Job
from asyafw.client._record import Record
from asyafw.envelope import (
    LONGEST_WAIT_S,
    Envelope,
    Route,
    encode_envelope,
    is_header,
    new_id,
)
from asyafw.events import CONTROL, EVENTS, Cancel, Event, append, job_of
from asyafw.exceptions import (
    ConfigurationError,
    DecodeError,
)
from asyafw.telemetry import sending
from asyafw.transport import Append, Message, Out, Part, Send, Transport

__all__ = ["Client"]

IDEMPOTENCY_S = 86_400.0
"""How long a repeated submission with the same key is recognised, in seconds."""

_REPLAY_S = 86_400.0
# A transport may only look for the end of a log once it is read, and what it held by then is past.
_OVERLAP_S = 10.0


class Client:
    """Submits jobs to a transport, and tells what becomes of them; opened with ``async with``."""

    def __init__(self, transport: Transport, catalogue: Catalogue) -> None:
        self.transport = transport
        self.catalogue = catalogue
        # Jobs that began here are told of by one reader; the past of others is read when asked for.
        self._watched: WeakValueDictionary[str, Record] = WeakValueDictionary()
        self._replayed: WeakValueDictionary[str, Record] = WeakValueDictionary()
        self._tasks: TaskGroup | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            TransportError: the transport cannot be reached.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.transport)
            self._tasks = await anyio.create_task_group().__aenter__()
            stack.push_async_exit(self._leave)
            await self._tasks.start(self._listen, name="asyafw client")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.__aexit__(*exc_info)  # type: ignore[arg-type]

    async def _leave(self, *exc_info: Any) -> None:
        tasks, self._tasks = self._running(), None
        tasks.cancel_scope.cancel()
        for record in (*self._watched.values(), *self._replayed.values()):
            record.close()
        own = exc_info[1] is None or isinstance(exc_info[1], CancelledError)
        try:
            await tasks.__aexit__(*(exc_info if own else (None, None, None)))
        except ExceptionGroup as group:
            # Its tasks fail together, for one reason; what the body raised comes before it.
            if own:
                raise group.exceptions[0] from None

    async def submit(
        self,
        target: str | Sequence[str],
        payload: Any,
        *,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job to a flow by its name, or to an explicit route of actors.

        `deadline_s` is how long the job may take, in seconds from now.
        Submissions of the same target with the same `idempotency_key` within a day are one job,
        with the first's payload.
        Returns once the job is durably accepted.

        Raises:
            UnknownFlow, UnknownActor: there is no such target.
            ConfigurationError: the route, the headers or the deadline cannot travel.
            PayloadError: the payload does not match the type of the first actor.
            LimitExceeded: the payload is too large to travel, and there is no store for it.
            TransportError: it is unknown whether the job was accepted.
        """
        self._running()
        flow, names = self.catalogue.resolve(target)
        _check_options(headers or {}, deadline_s)
        once = idempotency_key is not None
        now = time.time()
        job = new_id() if idempotency_key is None else _derived_id(names, flow, idempotency_key)
        with sending(headers or {}, actor=names[0], job=job) as sent_headers:
            envelope = await self.catalogue.with_payload(
                Envelope(
                    id=job,
                    job=job,
                    route=Route(names[0], tuple(names[1:])),
                    payload=Raw(self.catalogue.codec.null),
                    headers=sent_headers,
                    flow=flow,
                    created_at=now,
                    enqueued_at=now,
                    deadline_at=None if deadline_s is None else now + deadline_s,
                ),
                payload,
            )
            # What repeats a submission may find that the job began, and ended, long ago.
            followed = self.job(job) if once else self._new(job)
            await self.transport.emit(*self._accepted(envelope, once=once))
        return followed

    def job(self, job: str) -> Job:
        """Follow a job that was submitted before, here or elsewhere, in the last day.

        What is told of it is read once its result or its events are asked for.
        """
        record = self._watched.get(job) or self._replayed.get(job)
        if record is None:
            self._running()
            record = self._replayed[job] = Record(job, self._replay_soon)
        return Job(record, self.catalogue, self.cancel)

    async def cancel(self, job: str) -> None:
        """Ask the workers to drop a job's messages and to cancel its handlers.

        The job ends with the event ``cancelled`` once a worker has done so.
        """
        self._running()
        await self.transport.emit(Append(CONTROL, self.catalogue.codec.encode(Cancel(job))))

    def _new(self, job: str) -> Job:
        record = self._watched[job] = Record(job)
        return Job(record, self.catalogue, self.cancel)

    def _running(self) -> TaskGroup:
        if self._tasks is None:
            raise ConfigurationError("the client is not open: use `async with app.connect(...)`")
        return self._tasks

    def _accepted(self, envelope: Envelope, *, once: bool) -> tuple[Out, Out]:
        codec, queue = self.catalogue.codec, envelope.route.curr
        event = Event(
            kind="accepted",
            job=envelope.job,
            id=envelope.id,
            at=envelope.created_at,
            flow=envelope.flow,
            next=(envelope.route.curr, *envelope.route.next),
        )
        body = encode_envelope(envelope, codec)
        # A join of one part is delivered once, however often its part is sent.
        out = (
            Part(queue, envelope.id, 0, 1, body, IDEMPOTENCY_S)
            if once
            else Send(queue, Message(body))
        )
        return out, append(event, codec)

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        entries = follow(self.transport, EVENTS, since_s=_OVERLAP_S)
        task_status.started()
        async for entry in entries:
            record = self._watched.get(_job_of(entry.body))
            if record is not None:
                record.add(entry.body)
                del record

    def _replay_soon(self, record: Record) -> None:
        tasks, job = self._running(), record.job
        tasks.start_soon(self._replay, job, ref(record), name=f"asyafw job {job}")

    async def _replay(self, job: str, kept: ref[Record]) -> None:
        """Read on for as long as somebody keeps the record."""
        async for entry in follow(self.transport, EVENTS, since_s=_REPLAY_S):
            record = kept()
            if record is None:
                return
            if _job_of(entry.body) == job:
                record.add(entry.body)
            if record.end is not None:
                return
            del record


def _job_of(body: bytes) -> str:
    """Tell whose event this is; nobody's if it is none, which a foreign writer must answer for."""
    try:
        return job_of(body)
    except DecodeError:
        return ""


def _derived_id(names: Sequence[str], flow: str | None, key: str) -> str:
    # No name is empty or holds a slash: the key begins behind the first two in a row.
    seed = f"{flow or ''}/{'/'.join(names)}//{key}".encode()
    return hashlib.blake2b(seed, digest_size=16).hexdigest()


def _check_options(headers: Mapping[Any, Any], deadline_s: float | None) -> None:
    """Refuse what no worker could read."""
    for name, text in headers.items():
        if not is_header(name, text):
            raise ConfigurationError(f"headers map text to text, not {name!r:.80} to {text!r:.80}")
    if deadline_s is not None and not 0 <= deadline_s <= LONGEST_WAIT_S:
        raise ConfigurationError(
            f"deadline_s is between 0 and {LONGEST_WAIT_S:g}, or None for no deadline, "
            f"not {deadline_s}"
        )
