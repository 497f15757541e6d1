"""One trace per job across all its hops, by OpenTelemetry.

The context travels in the headers ``traceparent`` and ``tracestate``
(https://www.w3.org/TR/trace-context/); names and attributes follow the conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).
They allow that the message's context is the parent of its span, and ask for a link to it.
"""

import asyncio
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asyafw.context import Context
from asyafw.exceptions import JobCancelled, MissingExtra, Retry, message_of
from asyafw.middleware import Handler, Middleware

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

__all__ = ["inject_headers", "sending", "tracing"]

_TRACEPARENT = "traceparent"


def tracing(tracer_provider: "TracerProvider | None" = None) -> Middleware:
    """Make a span of every run of a handler, a child of the hop before it.

    Without a provider the global one is used.
    A run whose handler asks for another, or whose job was cancelled, is no error: it has an event.
    One that its timeout interrupts is an error, as is any that raises.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """
    tracer = _tracer(tracer_provider)
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    w3c = TraceContextTextMapPropagator()

    async def trace(payload: Any, ctx: Context, call_next: Handler) -> Any:
        envelope = ctx.envelope
        before = w3c.extract(envelope.headers)
        with tracer.start_as_current_span(
            f"process {envelope.route.curr}",
            context=before,
            kind=SpanKind.CONSUMER,
            attributes={
                **_attributes("process", envelope.route.curr, envelope.job),
                "messaging.message.id": envelope.id,
                "asyafw.attempt": ctx.attempt,
                "asyafw.flow": envelope.flow or "",
                "asyafw.hops": envelope.hops,
            },
            links=_links(before),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if span.get_span_context().is_valid:
                w3c.inject(ctx.headers)
            try:
                return await call_next(payload, ctx)
            except asyncio.CancelledError:
                _mark(span, ctx.interrupt)
                raise
            except Exception as error:
                _mark(span, error)
                raise

    return trace


def _mark(span: "Span", error: BaseException | None) -> None:
    """Tell on a span how its run ended."""
    from opentelemetry.trace import Status, StatusCode

    match error:
        case Retry():
            cause = error.__cause__ or error
            reason, delay_s = type(cause).__qualname__, error.after_s or 0.0
            span.add_event("retry", {"error.type": reason, "asyafw.delay_s": delay_s})
        case JobCancelled():
            span.add_event("cancelled")
        case Exception():
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, message_of(error)))
        case _:
            pass


def inject_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the headers, with the context of the current span unless they have one.

    Without a current span, or without OpenTelemetry, they are as they were.
    """
    carrier = dict(headers)
    if _TRACEPARENT not in carrier and _in_use():
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier


@contextmanager
def sending(
    headers: Mapping[str, str],
    *,
    actor: str,
    job: str,
    tracer_provider: "TracerProvider | None" = None,
) -> Generator[dict[str, str]]:
    """Make a span of submitting a job to its first actor, and give the headers to submit it with.

    Headers that have a context already keep it; the span links to it then.
    """
    if not _in_use():
        yield dict(headers)
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    with _tracer(tracer_provider).start_as_current_span(
        f"send {actor}",
        kind=SpanKind.PRODUCER,
        attributes={**_attributes("send", actor, job), "messaging.message.id": job},
        links=_links(TraceContextTextMapPropagator().extract(headers)),
    ):
        yield inject_headers(headers)


def _tracer(provider: "TracerProvider | None") -> "Tracer":
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise MissingExtra("otel", "tracing") from error
    return trace.get_tracer("asyafw", tracer_provider=provider)


def _in_use() -> bool:
    """Whether anybody can have made a span: not before the API was imported."""
    return "opentelemetry.trace" in sys.modules


def _attributes(operation: str, actor: str, job: str) -> dict[str, str]:
    return {
        "messaging.system": "asyafw",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": actor,
        "messaging.message.conversation_id": job,
    }


def _links(context: Any) -> "list[Link]":
    from opentelemetry.trace import Link, get_current_span

    found = get_current_span(context).get_span_context()
    return [Link(found)] if found.is_valid else []
