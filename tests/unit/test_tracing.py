import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, get_current_span

from asyafw import App, RetryPolicy, actor, fixed
from asyafw.context import Context
from asyafw.envelope import Envelope, Route
from asyafw.exceptions import HandlerTimeout, JobCancelled, Reject, Retry
from asyafw.middleware import Handler, compose
from asyafw.telemetry import inject_headers, sending, tracing
from asyafw.testing import running

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331


class Recorder:
    """A provider and the spans it made, in the order of their ends."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def own(span: ReadableSpan) -> SpanContext:
    found: SpanContext | None = span.context
    assert found is not None
    return found


def context(actor: str = "enhance", **headers: str) -> Context:
    envelope = Envelope(
        id="m1",
        job="j1",
        route=Route(actor),
        payload=Raw(b"\xc0"),
        headers=headers,
        flow="photos",
        hops=2,
    )
    return Context(envelope, attempt=3, state=SimpleNamespace())


def raising(error: BaseException) -> Handler:
    async def handler(_payload: Any, _ctx: Context) -> Any:
        raise error

    return handler


async def echo(payload: Any, _ctx: Context) -> Any:
    return payload


@pytest.mark.anyio
async def test_a_run_is_a_consumer_span_of_the_messaging_conventions(recorder: Recorder) -> None:
    traced = compose([tracing(recorder.provider)], echo)

    assert await traced("photo", context()) == "photo"

    (span,) = recorder.spans
    assert span.name == "process enhance"
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "asyafw",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "enhance",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "j1",
        "asyafw.attempt": 3,
        "asyafw.flow": "photos",
        "asyafw.hops": 2,
    }


@pytest.mark.anyio
async def test_the_hops_of_a_job_are_one_trace(recorder: Recorder) -> None:
    traced = compose([tracing(recorder.provider)], echo)
    first = context("enhance", traceparent=TRACEPARENT, tracestate="vendor=1", tenant="acme")

    await traced(None, first)
    second = context("judge", **first.edited_headers)
    await traced(None, second)

    enhance, judge = recorder.spans
    assert {own(span).trace_id for span in (enhance, judge)} == {TRACE_ID}
    assert enhance.parent is not None
    assert enhance.parent.span_id == SPAN_ID
    assert judge.parent is not None
    assert judge.parent.span_id == own(enhance).span_id
    assert [link.context.span_id for link in judge.links] == [own(enhance).span_id]
    assert second.edited_headers["tracestate"] == "vendor=1"
    assert second.edited_headers["tenant"] == "acme"


@pytest.mark.anyio
async def test_a_message_without_a_trace_begins_one(recorder: Recorder) -> None:
    ctx = context(traceparent="nonsense")

    await compose([tracing(recorder.provider)], echo)(None, ctx)

    (span,) = recorder.spans
    assert span.parent is None
    assert span.links == ()
    assert f"{own(span).trace_id:032x}" in ctx.edited_headers["traceparent"]


@pytest.mark.anyio
async def test_the_handler_runs_inside_its_span(recorder: Recorder) -> None:
    seen = list[int]()

    async def handler(_payload: Any, _ctx: Context) -> Any:
        seen.append(get_current_span().get_span_context().span_id)

    await compose([tracing(recorder.provider)], handler)(None, context())

    assert seen == [own(recorder.spans[0]).span_id]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ValueError("no such style"), Reject("not a photo")])
async def test_a_failure_is_recorded(recorder: Recorder, error: Exception) -> None:
    traced = compose([tracing(recorder.provider)], raising(error))

    with pytest.raises(type(error)):
        await traced(None, context())

    (span,) = recorder.spans
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert span.attributes
    assert span.attributes["error.type"] == type(error).__name__


@pytest.mark.anyio
async def test_a_retry_is_an_event_and_no_error(recorder: Recorder) -> None:
    retry = Retry("away", after_s=2.5)
    retry.__cause__ = ConnectionError("away")

    with pytest.raises(Retry):
        await compose([tracing(recorder.provider)], raising(retry))(None, context())

    (span,) = recorder.spans
    (event,) = span.events
    assert span.status.status_code is StatusCode.UNSET
    assert event.name == "retry"
    assert dict(event.attributes or {}) == {
        "error.type": "ConnectionError",
        "asyafw.delay_s": 2.5,
    }


@pytest.mark.anyio
async def test_a_cancelled_job_is_an_event_and_no_error(recorder: Recorder) -> None:
    with pytest.raises(JobCancelled):
        await compose([tracing(recorder.provider)], raising(JobCancelled("j1")))(None, context())

    (span,) = recorder.spans
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["cancelled"]


@pytest.mark.anyio
async def test_without_a_provider_headers_stay_as_they_were() -> None:
    ctx = context(tenant="acme")

    await compose([tracing()], echo)(None, ctx)

    assert ctx.edited_headers == {"tenant": "acme"}


def test_headers_get_the_current_span(recorder: Recorder) -> None:
    headers = {"tenant": "acme"}

    with recorder.provider.get_tracer("test").start_as_current_span("request") as span:
        injected = inject_headers(headers)

    assert injected["tenant"] == "acme"
    assert f"{span.get_span_context().span_id:016x}" in injected["traceparent"]
    assert headers == {"tenant": "acme"}


def test_headers_that_have_a_trace_keep_it(recorder: Recorder) -> None:
    headers = {"traceparent": TRACEPARENT}

    with recorder.provider.get_tracer("test").start_as_current_span("request"):
        injected = inject_headers(headers)

    assert injected == headers


def test_headers_without_a_current_span_stay_as_they_were() -> None:
    assert inject_headers({"tenant": "acme"}) == {"tenant": "acme"}


@pytest.mark.anyio
async def test_submitting_is_a_producer_span_and_the_parent_of_the_first_hop(
    recorder: Recorder,
) -> None:
    with sending({}, actor="enhance", job="j1", tracer_provider=recorder.provider) as headers:
        pass
    await compose([tracing(recorder.provider)], echo)(None, context(**headers))

    send, process = recorder.spans
    assert (send.name, send.kind) == ("send enhance", SpanKind.PRODUCER)
    assert send.attributes
    assert send.attributes["messaging.operation.type"] == "send"
    assert send.attributes["messaging.message.conversation_id"] == "j1"
    assert process.parent is not None
    assert process.parent.span_id == own(send).span_id


def test_submitting_with_a_trace_of_ones_own_keeps_it(recorder: Recorder) -> None:
    own = {"traceparent": TRACEPARENT}

    with sending(own, actor="enhance", job="j1", tracer_provider=recorder.provider) as headers:
        assert headers == own

    (send,) = recorder.spans
    assert [link.context.span_id for link in send.links] == [SPAN_ID]


ALONE = """
import sys
from asyafw.exceptions import MissingExtra
from asyafw.telemetry import inject_headers, sending, tracing

assert inject_headers({"tenant": "acme"}) == {"tenant": "acme"}
with sending({"tenant": "acme"}, actor="enhance", job="j1") as headers:
    assert headers == {"tenant": "acme"}
assert not any(name.partition(".")[0] == "opentelemetry" for name in sys.modules)

sys.modules["opentelemetry"] = None  # as where it is not installed
try:
    tracing()
except MissingExtra as error:
    assert "asyafw[otel]" in str(error)
else:
    raise AssertionError
"""


def test_without_opentelemetry_only_tracing_complains() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("interrupt", "status"),
    [(HandlerTimeout(), StatusCode.ERROR), (JobCancelled("j1"), StatusCode.UNSET)],
)
async def test_an_interrupted_run_tells_why(
    recorder: Recorder, interrupt: Exception, status: StatusCode
) -> None:
    ctx = context()
    ctx.interrupt = interrupt
    traced = compose([tracing(recorder.provider)], raising(asyncio.CancelledError()))

    with pytest.raises(asyncio.CancelledError):
        await traced(None, ctx)

    (span,) = recorder.spans
    assert span.status.status_code is status
    assert [event.name for event in span.events] in (["exception"], ["cancelled"])


async def test_the_runs_of_a_message_that_is_tried_again_are_one_trace(recorder: Recorder) -> None:
    @actor(retry=RetryPolicy(backoff=fixed(0)))
    async def flaky(number: int, ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ConnectionError
        return number

    async with running(App([flaky], middleware=[tracing(recorder.provider)])) as run:
        job = await run.client.submit(["flaky"], 1)
        await job.result(timeout_s=5)

    first, second = recorder.spans
    assert own(first).trace_id == own(second).trace_id
