"""Submit jobs and follow them."""

import hashlib
import time
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from difflib import get_close_matches
from types import GenericAlias, NoneType
from typing import Any, Self
from weakref import WeakValueDictionary, ref

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec import UNSET, MsgspecError, Raw, Struct
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._follow import follow
from asyafw._signature import without
from asyafw.blobs import Blobs
from asyafw.envelope import (
    LONGEST_WAIT_S,
    MSGPACK,
    Codec,
    Envelope,
    Limits,
    Route,
    check_name,
    codec_of,
    encode_envelope,
    new_id,
)
from asyafw.events import CONTROL, EVENTS, Cancel, Event, append, decode_event, job_of
from asyafw.exceptions import (
    BlobError,
    ConfigurationError,
    DecodeError,
    JobCancelled,
    JobError,
    JobFailed,
    LimitExceeded,
    PayloadError,
    ResultTimeout,
    TransportClosed,
    UnknownActor,
    UnknownFlow,
)
from asyafw.telemetry import sending
from asyafw.transport import Append, Message, Out, Part, Send, Transport

__all__ = ["Catalogue", "Client", "Job"]

IDEMPOTENCY_S = 86_400.0
"""How long a repeated submission with the same key is recognised, in seconds."""

# Deep nesting and bad UTF-8 escape msgspec's own errors.
_UNREADABLE = (MsgspecError, RecursionError, ValueError, OverflowError)

_REPLAY_S = 86_400.0
# A transport may only look for the end of a log once it is read, and what it held by then is past.
_OVERLAP_S = 10.0


class Catalogue(Struct, frozen=True):
    """What a client knows of an app: its flows, its actors, and what may travel."""

    flows: Mapping[str, Sequence[str]] = {}
    actors: Mapping[str, Actor[..., Any]] = {}
    known: frozenset[str] = frozenset()
    limits: Limits = Limits()
    blobs: Blobs | None = None
    codec: Codec = MSGPACK


class Client:
    """Submits jobs to a transport, and tells what becomes of them; opened with ``async with``."""

    def __init__(self, transport: Transport, catalogue: Catalogue) -> None:
        self.transport = transport
        self.catalogue = catalogue
        # Jobs that began here are told of by one reader; the past of others is read when asked for.
        self._watched: WeakValueDictionary[str, _Record] = WeakValueDictionary()
        self._replayed: WeakValueDictionary[str, _Record] = WeakValueDictionary()
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

    async def __aexit__(self, *exc_info: object) -> bool | None:
        return await self._stack.__aexit__(*exc_info)  # type: ignore[arg-type]

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
    ) -> "Job":
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
        flow, names = self._resolve(target)
        _check_options(headers or {}, deadline_s)
        once = idempotency_key is not None
        now = time.time()
        job = new_id() if idempotency_key is None else _derived_id(names, flow, idempotency_key)
        with sending(headers or {}, actor=names[0], job=job) as sent_headers:
            envelope = await self._with_payload(
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

    def job(self, job: str) -> "Job":
        """Follow a job that was submitted before, here or elsewhere, in the last day.

        What is told of it is read once its result or its events are asked for.
        """
        record = self._watched.get(job) or self._replayed.get(job)
        if record is None:
            self._running()
            record = self._replayed[job] = _Record(job, self._replay_soon)
        return Job(self, record)

    async def cancel(self, job: str) -> None:
        """Ask the workers to drop a job's messages and to cancel its handlers.

        The job ends with the event ``cancelled`` once a worker has done so.
        """
        self._running()
        await self.transport.emit(Append(CONTROL, self.catalogue.codec.encode(Cancel(job))))

    def _new(self, job: str) -> "Job":
        record = self._watched[job] = _Record(job)
        return Job(self, record)

    def _running(self) -> TaskGroup:
        if self._tasks is None:
            raise ConfigurationError("the client is not open: use `async with app.connect(...)`")
        return self._tasks

    def _resolve(self, target: str | Sequence[str]) -> tuple[str | None, Sequence[str]]:
        catalogue = self.catalogue
        flow = target if isinstance(target, str) else None
        if flow is not None and flow not in catalogue.flows:
            if flow in catalogue.known:
                raise UnknownFlow(
                    f"{flow!r} is an actor and no flow: submit to the route [{flow!r}]"
                )
            raise UnknownFlow(f"there is no flow {flow!r}{_hint(flow, catalogue.flows)}")
        names = target if flow is None else catalogue.flows[flow]
        if not names:
            raise ConfigurationError("a route names at least one actor")
        for name in names:
            check_name(name)
            if catalogue.known and name not in catalogue.known:
                raise UnknownActor(f"there is no actor {name!r}{_hint(name, catalogue.known)}")
        if len(names) > catalogue.limits.route:
            raise LimitExceeded(f"the route holds more than {catalogue.limits.route} names")
        return flow, names

    async def _with_payload(self, envelope: Envelope, payload: Any) -> Envelope:
        catalogue, first = self.catalogue, envelope.route.curr
        actor = catalogue.actors.get(first)
        encoded = _encoded(payload, actor, first, catalogue.codec)
        if len(encoded) <= catalogue.limits.payload_bytes:
            return replace(envelope, payload=Raw(encoded))
        if catalogue.blobs is None:
            raise LimitExceeded(
                f"the payload has {len(encoded)} bytes, more than the "
                f"{catalogue.limits.payload_bytes} that travel in a message: "
                "submit a reference to them, or set App(blobs=...)"
            )
        return replace(envelope, claim=await catalogue.blobs.put(encoded))

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

    def _replay_soon(self, record: "_Record") -> None:
        tasks, job = self._running(), record.job
        tasks.start_soon(self._replay, job, ref(record), name=f"asyafw job {job}")

    async def _replay(self, job: str, kept: "ref[_Record]") -> None:
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


class Job:
    """One submission, from its acceptance to its end.

    Its events are kept for as long as this object is.
    """

    def __init__(self, client: Client, record: "_Record") -> None:
        self._client = client
        self._record = record

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
        await self._client.cancel(self.id)

    async def _collect(self, path: tuple[int, ...], event: Event, type_: Any) -> Any:
        """Give the result of the message at `path` among the children of fan-outs."""
        if event.children is None:
            return await _decoded(self._client.catalogue, self._record.results[path], type_)
        results: list[Any] = []
        for index in range(event.children):
            child = self._record.results.get((*path, index))
            if child is None:
                raise JobError(self.id, f"the result of child {(*path, index)} is not in the log")
            results.append(await self._collect((*path, index), child.event, type_))
        return results


class _Result(Struct, frozen=True):
    """An event that tells a result, and how that is encoded."""

    event: Event
    codec: Codec

    @property
    def raw(self) -> bytes:
        payload = self.event.payload
        return self.codec.null if payload is UNSET else payload


class _Record:
    """What is known of a job.

    `begin` is called with it by the first who waits for more.
    """

    def __init__(self, job: str, begin: "Callable[[_Record], None] | None" = None) -> None:
        self.job = job
        self.events: list[Event] = []
        self.results: dict[tuple[int, ...], _Result] = {}
        self.end: Event | None = None
        self._begin = begin
        self._closed = False
        self._changed = anyio.Event()

    def add(self, body: bytes) -> None:
        """Add an encoded event; what comes after the end is of a replay."""
        if self.end is not None:
            return
        try:
            event = decode_event(body)
        except DecodeError:
            return
        if event.kind == "accepted" and self.events:
            return  # another submission with the same key
        self.events.append(event)
        if event.kind in ("child", "succeeded"):
            self.results[event.path] = _Result(event, codec_of(body))
        if event.ends_job:
            self.end = event
        self._wake()

    def close(self) -> None:
        """Tell those who wait that no more will be known."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        """Wait for another event.

        Raises:
            TransportClosed: the client was closed.
        """
        known = len(self.events)
        if not self._closed:
            if self._begin is not None:
                begin, self._begin = self._begin, None
                begin(self)
            await self._changed.wait()
        if self._closed and len(self.events) == known:
            raise TransportClosed(f"the client was closed while job {self.job} was waited for")

    async def ended(self) -> Event:
        """Wait for the end.

        Raises:
            TransportClosed: the client was closed before it.
        """
        while self.end is None:
            await self.changed()
        return self.end


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
        if not (isinstance(name, str) and isinstance(text, str)):
            raise ConfigurationError(f"headers map text to text, not {name!r:.80} to {text!r:.80}")
    if deadline_s is not None and not 0 <= deadline_s <= LONGEST_WAIT_S:
        raise ConfigurationError(
            f"deadline_s is between 0 and {LONGEST_WAIT_S:g}, or None for no deadline, "
            f"not {deadline_s}"
        )


def _hint(name: str, names: Iterable[str]) -> str:
    if close := get_close_matches(name, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(sorted(names)) or 'none'}"


def _encoded(payload: Any, actor: Actor[..., Any] | None, name: str, codec: Codec) -> bytes:
    try:
        encoded: bytes = codec.encode(payload)
        if actor is not None:
            codec.decode(encoded, type=actor.input_type)
    except (MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PayloadError(f"the payload does not fit {name}: {error}") from error
    return encoded


async def _decoded(catalogue: Catalogue, result: _Result, type_: Any) -> Any:
    """Decode the result that an event carries, or that is kept for it."""
    raw, event, blobs = result.raw, result.event, catalogue.blobs
    if event.claim is not None:
        if blobs is None:
            raise BlobError("the result is in a store, and App(blobs=...) is not set")
        raw = await blobs.get(event.claim)
    actor = catalogue.actors.get(event.actor or "")
    return _decode(raw, result.codec, _result_types(actor) if type_ is None else (type_,))


def _result_types(actor: Actor[..., Any] | None) -> tuple[Any, ...]:
    """What a result may be: what its actor gives, or, where it gave None, what it took."""
    if actor is None:
        return (Any,)
    taken: Any = actor.input_type
    if actor.join:
        taken = GenericAlias(list, (taken | None,))
    return (without(actor.output_type, NoneType), taken, Any)


def _decode(raw: bytes, codec: Codec, types: Sequence[Any]) -> Any:
    *others, last = types
    for type_ in others:
        with suppress(*_UNREADABLE):
            return codec.decode(raw, type=type_)
    try:
        return codec.decode(raw, type=last)
    except _UNREADABLE as error:
        raise PayloadError(f"the result is something else: {error}") from error
