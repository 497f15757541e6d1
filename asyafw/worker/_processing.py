"""One delivery, from its bytes to its settlement."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from types import GenericAlias
from typing import Any

import anyio
from msgspec import Raw, Struct
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._forks import fanned_out, gathered
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
from asyafw.coordination import Coordinator
from asyafw.envelope import CODECS, DECODING_ERRORS, Codec, Envelope, decode_envelope
from asyafw.events import Event
from asyafw.exceptions import (
    BlobError,
    DeadlineExceeded,
    DecodeError,
    JobCancelled,
    JoinFailed,
    PayloadError,
    Retry,
    TransportError,
    WorkerCrashed,
)
from asyafw.middleware import Handler, Middleware, Watch, compose, retry, timeout
from asyafw.telemetry import Metrics, current, log_outcomes
from asyafw.transport import Delivery
from asyafw.worker._claims import checked_in, checked_out, made_smaller
from asyafw.worker._joins import open_join
from asyafw.worker._results import result_encoder
from asyafw.worker._settling import release, settle_again
from asyafw.worker._watch import calm

__all__ = ["Drained", "Processor", "Surroundings"]

_STORE_PAUSE_S = 1.0

_logger = logging.getLogger("asyafw.worker")
_messages = logging.getLogger("asyafw.messages")  # of `log_outcomes`


class Drained(BaseException):
    """The worker stops, and the message goes back to its queue.

    It passes by every ``except Exception``.
    """


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
    coordinator: Coordinator


class Processor:
    """Runs an actor's handler for one delivery after another, and settles each.

    Whatever happens becomes an outcome; only the worker's own end leaves a delivery unsettled.
    The chain around the handler is, from outside: logging, retry, the admission of the message,
    timeout, the app's middleware, the actor's, metrics. The outer two are run for what went wrong.
    """

    def __init__(self, actor: Actor[..., Any], handler: Handler, around: Surroundings) -> None:
        self.actor = actor
        self._around = around
        self._rules = around.rules
        self._known = around.rules.known
        self._most_bytes = around.rules.limits.payload_bytes
        self._metrics = around.metrics.actor(actor.name)
        bounded = timeout(around.watch, None if actor.batch else actor.timeout_s)
        measured = around.metrics.middleware(actor.name)
        self._handler = compose([bounded, *around.middleware, *actor.middleware, measured], handler)
        # They change nothing about a success, which costs less without them.
        self._conclude = compose([log_outcomes(), retry(actor.retry)], _replay)
        item: Any = actor.input_type
        taken = GenericAlias(list, (item | None,)) if actor.join else item
        self._decode = {name: codec.decoder(taken).decode for name, codec in CODECS.items()}
        self._encode = result_encoder(actor)

    async def __call__(self, delivery: Delivery, task: "asyncio.Task[Any]") -> bool:
        """Process a delivery in the task that this is.

        Returns whether its context variables are as they were: what a handler has left in them
        is not for the next message.
        """
        around = self._around
        try:
            if delivery.parts is None:
                (envelope, codec), gathers = decode_envelope(delivery.message.body), 0
            else:
                envelope, codec, gathers = await open_join(delivery, self.actor, around.blobs)
        except (DecodeError, BlobError) as error:
            await self._refuse(delivery, error)
            return True
        attempt = envelope.attempt + delivery.attempt - 1
        ctx = Context(
            envelope,
            attempt,
            around.state,
            self._known,
            around.notify,
            codec,
            task,
            around.coordinator,
        )
        current.set(ctx)
        variables = copy_context()
        if envelope.enqueued_at:
            self._metrics.observe_wait(ctx.started_at - envelope.enqueued_at)
        try:
            if gathers:
                outcome = gathered(self._step(ctx), gathers)
            else:
                outcome = await self._handle(ctx, delivery.attempt)
            if _messages.isEnabledFor(logging.DEBUG):
                await self._conclude(outcome, ctx)
        except Drained:
            await release(delivery, self.actor.name)
        except Exception as error:  # noqa: BLE001 — whatever it is becomes the outcome
            await self._settle(delivery, envelope, await self._failed(ctx, error))
        else:
            await self._settle(delivery, envelope, outcome)
        return _are_same(variables, copy_context())

    async def _handle(self, ctx: Context, deliveries: int) -> Outcome:
        """Run the handler, if the message may be handled, and decide what follows."""
        self._admit(ctx, deliveries)
        envelope, task = ctx.envelope, ctx.task
        raw: bytes = envelope.payload
        if envelope.claim is not None:
            raw = await checked_out(envelope, self._around.blobs)
        payload = self._input(raw, ctx)
        try:
            result = await self._handler(payload, ctx)
        finally:
            if task is not None and task.cancelling():
                await calm(task)
        if self.actor.signature.yields:
            payloads = [await self._payload(item, ctx.codec) for item in result]
            return fanned_out(self._step(ctx), self._rules, payloads)
        if result is None:
            return ended(self._step(ctx), await self._payload_as_it_was(ctx))
        given = await self._payload(self._encode(ctx, result), ctx.codec)
        return handed_on(self._step(ctx), self._rules, given)

    def _admit(self, ctx: Context, deliveries: int) -> None:
        """Check that the message may be handled.

        Raises:
            JobCancelled, DeadlineExceeded, WorkerCrashed: it may not.
        """
        job, deadline, around = ctx.job, ctx.deadline, self._around
        if job in around.cancelled_jobs:
            raise JobCancelled(job)
        if deadline is not None and ctx.started_at >= deadline:
            late_s = ctx.started_at - deadline
            raise DeadlineExceeded(f"the job's deadline passed {late_s:.3g} s ago")
        if deliveries > around.max_deliveries:
            raise WorkerCrashed(
                f"delivered {deliveries - 1} times to {self.actor.name} and never settled: "
                "it may kill its worker"
            )

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
        except DECODING_ERRORS as error:
            raise PayloadError(f"the payload does not fit {self.actor.name}: {error}") from error

    async def _payload(self, encoded: bytes, codec: Codec) -> Payload:
        if len(encoded) <= self._most_bytes:
            return Payload(Raw(encoded))
        return await checked_in(encoded, codec, self._around.blobs, self.actor.name)

    async def _payload_as_it_was(self, ctx: Context) -> Payload:
        envelope = ctx.envelope
        if envelope.claim is not None:
            return Payload(envelope.payload, envelope.claim)
        return await self._payload(envelope.payload, ctx.codec)

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
        try:
            await self._conclude(error, ctx)
        except Exception as decided:  # noqa: BLE001 — it raises what the error has become
            error = decided
        step = self._step(ctx)
        if isinstance(error, JobCancelled) and error.job == ctx.job:
            return cancelled(step)
        blobs, envelope = self._around.blobs, step.envelope
        if blobs is not None and len(envelope.payload) > self._most_bytes:
            smaller = await made_smaller(envelope, step.codec, blobs, self.actor.name)
            step = replace(step, envelope=smaller)
        if isinstance(error, Retry):
            return retried(step, error)
        return failed(step, self._rules, error)

    async def _refuse(self, delivery: Delivery, error: DecodeError | BlobError) -> None:
        """Bury what cannot be read; what only cannot be read now comes again."""
        if error.transient:
            _logger.warning("%s cannot read a join yet: %s", self.actor.name, error)
            await anyio.sleep(_STORE_PAUSE_S)
            await release(delivery, self.actor.name)
            return
        _logger.error("%s got what it cannot read: %s", self.actor.name, error)
        await self._settle(delivery, None, self._undecodable(delivery, error))

    def _undecodable(self, delivery: Delivery, error: Exception) -> Outcome:
        body = delivery.message.body or next(filter(None, delivery.parts or ()), b"")
        return undecodable(body, self.actor.name, error, time.time())

    async def _settle(
        self, delivery: Delivery, envelope: Envelope | None, outcome: Outcome
    ) -> None:
        metrics, name = self._metrics, self.actor.name
        began = time.perf_counter()
        try:
            try:
                settled: bool | None = await delivery.settle(*outcome.out)
            except TransportError as error:
                settled = await settle_again(delivery, outcome.out, name, error)
        except ValueError as error:
            # Parts that fit no join come from no worker, so there is nobody to be told.
            _logger.exception("%s got a message of an impossible join", name)
            await self._settle(delivery, None, self._undecodable(delivery, error))
            return
        metrics.observe_settle(time.perf_counter() - began)
        if settled is None:
            return
        if not settled:
            metrics.lease_losses += 1
            return
        metrics.count(outcome.label)
        if outcome.ends_job and envelope is not None:
            self._around.metrics.observe_job(envelope.flow, time.time() - envelope.created_at)


async def _replay(ended: Outcome | Exception, _ctx: Context) -> Outcome:
    if isinstance(ended, Exception):
        raise ended
    return ended


def _are_same(before: Variables, after: Variables) -> bool:
    try:
        return before == after
    except Exception:  # noqa: BLE001 — they compare values, some of which, such as arrays, do not
        return False
