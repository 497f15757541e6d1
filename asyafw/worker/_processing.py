"""One delivery, from its bytes to its settlement."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import anyio
from msgspec import MsgspecError, Raw, Struct
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._forks import fanned_out, gathered, joined, met
from asyafw._outcome import (
    Outcome,
    Payload,
    Rules,
    Step,
    cancelled,
    ended,
    failed,
    handed_on,
    retried,
    undecodable,
)
from asyafw.blobs import Blobs
from asyafw.context import Context
from asyafw.envelope import CODECS, Codec, Envelope, decode_envelope
from asyafw.events import Event
from asyafw.exceptions import (
    BlobError,
    DeadlineExceeded,
    DecodeError,
    JobCancelled,
    JoinFailed,
    LimitExceeded,
    PayloadError,
    ResultTypeError,
    Retry,
    TransportError,
    WorkerCrashed,
)
from asyafw.middleware import Handler, Middleware, Watch, compose, retry, timeout
from asyafw.telemetry import Metrics, current, log_outcomes
from asyafw.transport import Delivery
from asyafw.worker._results import result_check

__all__ = ["Drained", "Processor", "Surroundings"]

_STORE_PAUSE_S = 1.0

_logger = logging.getLogger("asyafw.worker")


class Drained(BaseException):
    """The worker stops: the message goes back to its queue. It passes by every `except Exception`."""


class Surroundings(Struct, frozen=True):
    """What the actors of one worker share."""

    rules: Rules
    state: Any
    middleware: Sequence[Middleware]
    blobs: Blobs | None
    metrics: Metrics
    watch: Watch
    notify: Callable[[Event, str | None], None]
    cancelled_jobs: Collection[str]
    max_deliveries: int


class _Arrived(NamedTuple):
    """A message as it came; `meeting` counts the siblings of one that only gathers, or is 0."""

    envelope: Envelope
    codec: Codec
    deliveries: int = 1
    gathers: int | None = None


class Processor:
    """Runs an actor's handler for one delivery after another, and settles each.

    Whatever happens becomes an outcome; only the worker's own end leaves a delivery unsettled.
    The chain around the handler is, from outside: logging, retry, the admission of the message,
    timeout, the app's middleware, the actor's, metrics.
    """

    def __init__(self, actor: Actor[..., Any], handler: Handler, around: Surroundings) -> None:
        self.actor = actor
        self._around = around
        self._rules = around.rules
        self._limits = around.rules.limits
        self._metrics = around.metrics.actor(actor.name)
        bounded = timeout(around.watch, None if actor.batch else actor.timeout_s)
        measured = around.metrics.middleware(actor.name)
        self._handle = compose(
            [bounded, *around.middleware, *actor.middleware, measured], handler
        )
        self._run = compose([log_outcomes(), retry(actor.retry)], self._admit)
        taken = list[actor.input_type | None] if actor.join else actor.input_type
        self._decode = {name: codec.decoder(taken).decode for name, codec in CODECS.items()}
        self._is_result = result_check(actor.output_type)

    async def __call__(self, delivery: Delivery, task: "asyncio.Task[Any]") -> None:
        """Process a delivery in the task that this is."""
        try:
            arrived = await self._open(delivery)
        except (DecodeError, BlobError) as error:
            await self._refuse(delivery, error)
            return
        envelope, around = arrived.envelope, self._around
        ctx = Context(
            envelope,
            attempt=envelope.attempt + arrived.deliveries - 1,
            state=around.state,
            known=self._rules.known,
            notify=around.notify,
        )
        ctx.codec, ctx.task = arrived.codec, task
        current.set(ctx)
        if envelope.enqueued_at:
            self._metrics.observe_wait(ctx.started_at - envelope.enqueued_at)
        try:
            outcome = await self._run(arrived, ctx)
        except Drained:
            await self._release(delivery)
            return
        except Exception as error:  # noqa: BLE001 — whatever it is becomes the outcome
            outcome = await self._failed(ctx, error)
        await self._settle(delivery, envelope, outcome)

    async def _open(self, delivery: Delivery) -> _Arrived:
        """Read the message, and what its siblings brought if it is a join.

        Raises:
            DecodeError: there is no envelope.
            BlobError: what a sibling brought cannot be fetched.
        """
        message, parts = delivery.message, delivery.parts
        if parts is None:
            return _Arrived(*decode_envelope(message.body), delivery.attempt)
        meeting = met(message, parts, self.actor)
        if meeting is None:
            return _Arrived(*decode_envelope(parts[0] or b""), delivery.attempt)
        envelope, codec, siblings, gathers = meeting
        if gathers:
            return _Arrived(envelope, codec, delivery.attempt, len(siblings))
        items = [None if s is None else await self._fetched(s) for s in siblings]
        return _Arrived(joined(envelope, codec, items), codec, delivery.attempt)

    async def _admit(self, arrived: _Arrived, ctx: Context) -> Outcome:
        """Check that the message may be handled, handle it, and decide what follows."""
        envelope = arrived.envelope
        if arrived.gathers is not None:
            return gathered(self._step(ctx), arrived.gathers)
        if envelope.job in self._around.cancelled_jobs:
            raise JobCancelled(envelope.job)
        if envelope.deadline_at is not None and ctx.started_at >= envelope.deadline_at:
            late_s = ctx.started_at - envelope.deadline_at
            raise DeadlineExceeded(f"the job's deadline passed {late_s:.3g} s ago")
        if arrived.deliveries > self._around.max_deliveries:
            raise WorkerCrashed(
                f"delivered {arrived.deliveries - 1} times to {self.actor.name} and never settled: "
                "it may kill its worker"
            )
        raw = envelope.payload if envelope.claim is None else await self._fetched(envelope)
        result = await self._handle(self._input(raw, ctx), ctx)
        return await self._outcome(result, ctx)

    def _input(self, raw: bytes, ctx: Context) -> Any:
        """Decode the payload.

        Raises:
            PayloadError: it does not match the handler's type.
            JoinFailed: siblings are missing that the actor cannot do without.
        """
        join, failures = self.actor.join, ctx.envelope.failures
        if join is not None and failures and join.partial == "fail":
            first = failures[min(failures)]
            raise JoinFailed(
                f"{len(failures)} of the siblings are missing, the first because of "
                f"{first.type} in {first.actor}: {first.message}"
            )
        if join is not None and not ctx.envelope.joined:
            raw = ctx.codec.array([raw])
        try:
            return self._decode[ctx.codec.name](raw)
        except (MsgspecError, RecursionError, ValueError, OverflowError) as error:
            raise PayloadError(f"the payload does not fit {self.actor.name}: {error}") from error

    async def _outcome(self, result: Any, ctx: Context) -> Outcome:
        if self.actor.signature.yields:
            payloads = [await self._payload(item, ctx.codec) for item in result]
            return fanned_out(self._step(ctx), self._rules, payloads)
        if result is None:
            return ended(self._step(ctx), Payload(ctx.envelope.payload, ctx.envelope.claim))
        payload = await self._payload(self.encoded(ctx, result), ctx.codec)
        return handed_on(self._step(ctx), self._rules, payload)

    def encoded(self, ctx: Context, result: Any) -> bytes:
        """Encode what the handler gave.

        Raises:
            ResultTypeError: it is not what the handler declares, or cannot be encoded.
        """
        if not self._is_result(result):
            raise ResultTypeError(
                f"{self.actor.name} declares {self.actor.output_type!r} "
                f"and gave a {type(result).__qualname__}"
            )
        try:
            encoded: bytes = ctx.codec.encode(result)
        except (MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ResultTypeError(
                f"{self.actor.name} gave a {type(result).__qualname__} "
                f"that cannot be encoded: {error}"
            ) from error
        return encoded

    async def _payload(self, encoded: bytes, codec: Codec) -> Payload:
        """Give what travels of a result: itself, or a claim for it."""
        if len(encoded) <= self._limits.payload_bytes:
            return Payload(Raw(encoded))
        if self._around.blobs is None:
            raise LimitExceeded(
                f"{self.actor.name} gave {len(encoded)} bytes, more than the "
                f"{self._limits.payload_bytes} that travel in a message: "
                "give a reference to them, or set App(blobs=...)"
            )
        return Payload(Raw(codec.null), await self._around.blobs.put(encoded))

    async def _fetched(self, envelope: Envelope) -> bytes:
        if envelope.claim is None:
            return envelope.payload
        if self._around.blobs is None:
            raise BlobError("the payload is in a store, and App(blobs=...) is not set")
        return await self._around.blobs.get(envelope.claim)

    def _step(self, ctx: Context) -> Step:
        return Step(
            ctx.envelope,
            ctx.codec,
            self.actor,
            ctx.edited_route,
            ctx.edited_headers,
            ctx.attempt,
            ctx.started_at,
            time.time(),
        )

    async def _failed(self, ctx: Context, error: Exception) -> Outcome:
        step = self._step(ctx)
        if isinstance(error, JobCancelled) and error.job == ctx.job:
            return cancelled(step)
        step = step._replace(envelope=await self._stored(step.envelope, step.codec))
        if isinstance(error, Retry):
            return retried(step, error)
        return failed(step, self._rules, error)

    async def _stored(self, envelope: Envelope, codec: Codec) -> Envelope:
        """Make what siblings brought together small enough to travel again."""
        blobs = self._around.blobs
        if blobs is None or len(envelope.payload) <= self._limits.payload_bytes:
            return envelope
        try:
            claim = await blobs.put(bytes(envelope.payload))
        except BlobError as error:
            _logger.warning("a large join of %s stays in its message: %s", self.actor.name, error)
            return envelope
        return replace(envelope, payload=Raw(codec.null), claim=claim)

    async def _refuse(self, delivery: Delivery, error: DecodeError | BlobError) -> None:
        """Bury what cannot be read; what only cannot be read now comes again."""
        if error.transient:
            _logger.warning("%s cannot read a join yet: %s", self.actor.name, error)
            await anyio.sleep(_STORE_PAUSE_S)
            await self._release(delivery)
            return
        _logger.error("%s got what it cannot read: %s", self.actor.name, error)
        await self._settle(delivery, None, self._undecodable(delivery, error))

    def _undecodable(self, delivery: Delivery, error: Exception) -> Outcome:
        body = delivery.message.body or next(filter(None, delivery.parts or ()), b"")
        return undecodable(body, self.actor.name, error, time.time())

    async def _settle(
        self, delivery: Delivery, envelope: Envelope | None, outcome: Outcome
    ) -> None:
        metrics = self._metrics
        began = time.perf_counter()
        try:
            settled = await delivery.settle(*outcome.out)
        except TransportError as error:
            _logger.warning("%s may see a message again: %s", self.actor.name, error)
            return
        except ValueError as error:
            # Parts that fit no join come from no worker, so there is nobody to be told.
            _logger.exception("%s got a message of an impossible join", self.actor.name)
            await delivery.settle(*self._undecodable(delivery, error).out)
            outcome, settled = outcome._replace(label="undecodable"), True
        metrics.observe_settle(time.perf_counter() - began)
        if not settled:
            metrics.lease_losses += 1
            return
        metrics.count(outcome.label)
        if outcome.ends_job and envelope is not None:
            self._around.metrics.observe_job(envelope.flow, time.time() - envelope.created_at)

    async def _release(self, delivery: Delivery) -> None:
        try:
            await delivery.release()
        except TransportError as error:
            _logger.warning("cannot release a message of %s: %s", self.actor.name, error)
