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
from msgspec import MsgspecError, Raw, Struct

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
from asyafw.envelope import CODECS, Codec, Envelope
from asyafw.events import Event
from asyafw.exceptions import (
    BlobError,
    DeadlineExceeded,
    DecodeError,
    JobCancelled,
    JoinFailed,
    PayloadError,
    Retry,
    WorkerCrashed,
)
from asyafw.middleware import Handler, Middleware, Watch, compose, retry, timeout
from asyafw.telemetry import Metrics, current, log_outcomes
from asyafw.transport import Delivery
from asyafw.worker._arrivals import Arrived, opened
from asyafw.worker._claims import checked_in, checked_out, made_smaller
from asyafw.worker._results import result_encoder
from asyafw.worker._settling import release, settle
from asyafw.worker._watch import calm

__all__ = ["Drained", "Processor", "Surroundings"]

_STORE_PAUSE_S = 1.0

_logger = logging.getLogger("asyafw.worker")


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
        self._most_bytes = around.rules.limits.payload_bytes
        self._metrics = around.metrics.actor(actor.name)
        bounded = timeout(around.watch, None if actor.batch else actor.timeout_s)
        measured = around.metrics.middleware(actor.name)
        self._handle = compose([bounded, *around.middleware, *actor.middleware, measured], handler)
        self._run = compose([log_outcomes(), retry(actor.retry)], self._admit)
        item: Any = actor.input_type
        taken = GenericAlias(list, (item | None,)) if actor.join else item
        self._decode = {name: codec.decoder(taken).decode for name, codec in CODECS.items()}
        self._encode = result_encoder(actor)

    async def __call__(self, delivery: Delivery, task: "asyncio.Task[Any]") -> bool:
        """Process a delivery in the task that this is.

        Returns whether its context variables are as they were: what a handler has left in them
        is not for the next message.
        """
        try:
            arrived = await opened(delivery, self.actor, self._around.blobs)
        except (DecodeError, BlobError) as error:
            await self._refuse(delivery, error)
            return True
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
        variables = copy_context()
        if envelope.enqueued_at:
            self._metrics.observe_wait(ctx.started_at - envelope.enqueued_at)
        try:
            outcome = await self._run(arrived, ctx)
        except Drained:
            await release(delivery, self.actor.name)
        except Exception as error:  # noqa: BLE001 — whatever it is becomes the outcome
            await self._settle(delivery, envelope, await self._failed(ctx, error))
        else:
            await self._settle(delivery, envelope, outcome)
        return _are_same(variables, copy_context())

    async def _admit(self, arrived: Arrived, ctx: Context) -> Outcome:
        """Check that the message may be handled, handle it, and decide what follows."""
        envelope = arrived.envelope
        if arrived.gathers:
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
        raw = await checked_out(envelope, self._around.blobs)
        return await self._outcome(await self._result(self._input(raw, ctx), ctx), ctx)

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

    async def _result(self, payload: Any, ctx: Context) -> Any:
        """Run the handler, which cannot harm the task that it runs in."""
        task = ctx.task
        try:
            return await self._handle(payload, ctx)
        finally:
            if task is not None and task.cancelling():
                await calm(task)

    async def _outcome(self, result: Any, ctx: Context) -> Outcome:
        if self.actor.signature.yields:
            payloads = [await self._payload(item, ctx.codec) for item in result]
            return fanned_out(self._step(ctx), self._rules, payloads)
        if result is None:
            return ended(self._step(ctx), await self._payload_as_it_was(ctx))
        payload = await self._payload(self._encode(ctx, result), ctx.codec)
        return handed_on(self._step(ctx), self._rules, payload)

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
        step = self._step(ctx)
        if isinstance(error, JobCancelled) and error.job == ctx.job:
            return cancelled(step)
        blobs, envelope = self._around.blobs, step.envelope
        if blobs is not None and len(envelope.payload) > self._most_bytes:
            smaller = await made_smaller(envelope, step.codec, blobs, self.actor.name)
            step = step._replace(envelope=smaller)
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
            settled = await settle(delivery, outcome.out, name)
        except ValueError as error:
            # Parts that fit no join come from no worker, so there is nobody to be told.
            _logger.exception("%s got a message of an impossible join", name)
            outcome = self._undecodable(delivery, error)
            settled = await settle(delivery, outcome.out, name)
        metrics.observe_settle(time.perf_counter() - began)
        if not settled:
            metrics.lease_losses += settled is False
            return
        metrics.count(outcome.label)
        if outcome.ends_job and envelope is not None:
            self._around.metrics.observe_job(envelope.flow, time.time() - envelope.created_at)


def _are_same(before: Variables, after: Variables) -> bool:
    try:
        return before == after
    except Exception:  # noqa: BLE001 — they compare values, some of which, such as arrays, do not
        return False
