"""Metrics for Prometheus, counted at the price of plain Python.

prometheus_client's own objects cost 1 to 2 µs per call, too much several times per message;
here numbers are added up in lists and dicts, and become metrics when somebody asks for them.
One thread, the event loop's, counts; any thread may read.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct

from asyafw.context import Context
from asyafw.middleware import Handler, Middleware
from asyafw.transport import Lag

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["BUCKETS_S", "OUTCOMES", "ActorMetrics", "Histogram", "Metrics"]

BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""The upper bounds of the histograms' buckets, in seconds: from a lookup to a long generation."""

OUTCOMES: Final = (
    "cancelled",
    "failed",
    "fanned_out",
    "finished",
    "forwarded",
    "postponed",
    "recovered",
    "retried",
    "undecodable",
)
"""What can become of a message; each is told from the start, so that rates can be taken."""

_BURIED = ("failed", "undecodable")
_MOST_FLOWS = 1000  # messages name their flows themselves, and every name is a time series


class Histogram:
    """How often something took how long.

    `counts` has one number per bucket of `BUCKETS_S` and one for what is longer;
    `total_s` is the sum in seconds.
    """

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration; a negative one, from clocks that disagree, is none."""
        if seconds < 0:
            seconds = 0.0
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """For each upper bound, as Prometheus writes it, how many durations did not exceed it."""
        count = 0
        found: list[tuple[str, int]] = []
        for bound, in_bucket in zip((*BUCKETS_S, "+Inf"), self.counts.copy(), strict=True):
            count += in_bucket
            found.append((str(bound), count))
        return found


class ActorMetrics:
    """The numbers of one actor, to be kept by whoever counts.

    `observe_handler`, `observe_wait` and `observe_settle` take seconds.
    `in_flight` and `lease_losses` are to be changed in place; `lag` is set when it is measured.
    """

    __slots__ = (
        "handler",
        "in_flight",
        "lag",
        "lease_losses",
        "name",
        "observe_handler",
        "observe_settle",
        "observe_wait",
        "outcomes",
        "settle",
        "wait",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcomes: defaultdict[str, int] = defaultdict(int, dict.fromkeys(OUTCOMES, 0))
        self.handler = Histogram()
        self.wait = Histogram()
        self.settle = Histogram()
        # Bound once: a method that only passes its argument on would cost as much as the work.
        self.observe_handler = self.handler.observe
        self.observe_wait = self.wait.observe
        self.observe_settle = self.settle.observe
        self.in_flight = 0
        self.lease_losses = 0
        self.lag: Lag | None = None

    def count(self, outcome: str) -> None:
        """Count a message by what became of it."""
        self.outcomes[outcome] += 1


class Metrics:
    """The numbers of one process; a collector for any registry of prometheus_client.

    `registry` holds these metrics and those of the process; other collectors may join it.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector

        self._actors: dict[str, ActorMetrics] = {}
        self._jobs: dict[str, Histogram] = {}
        self.loop_lag = Histogram()
        self.observe_loop_lag = self.loop_lag.observe
        self.events_dropped = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def actor(self, name: str) -> ActorMetrics:
        """Give the numbers of an actor, always the same object."""
        return self._actors.setdefault(name, ActorMetrics(name))

    def observe_job(self, flow: str | None, seconds: float) -> None:
        """Count the duration of a job, from end to end; the flow is None for an explicit route."""
        job = self._jobs.get(flow or "")
        (job or self._new_flow(flow or "")).observe(seconds)

    def middleware(self, actor_name: str) -> Middleware:
        """Measure how long the handler of an actor takes, whatever comes of it."""
        observe = self.actor(actor_name).observe_handler

        async def measure(payload: Any, ctx: Context, call_next: Handler) -> Any:
            begun = perf_counter()
            try:
                return await call_next(payload, ctx)
            finally:
                observe(perf_counter() - begun)

        return measure

    def text(self) -> bytes:
        """Give the metrics of `registry` in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def collect(self) -> "Iterator[Metric]":
        """Give the metrics as they are now."""
        families = {spec.name: spec.family() for spec in _SPECS}
        for name, labels, value in self._samples():
            if isinstance(value, Histogram):
                families[name].add_metric(labels, value.cumulative(), value.total_s)
            else:
                families[name].add_metric(labels, value)
        yield from families.values()

    def describe(self) -> "Iterator[Metric]":
        """Give the metrics without their values."""
        yield from (spec.family() for spec in _SPECS)

    def _samples(self) -> "Iterator[_Sample]":
        for actor in list(self._actors.values()):
            yield from _samples_of(actor)
        for flow, job in self._jobs.copy().items():
            yield "asyafw_job_seconds", (flow,), job
        yield "asyafw_event_loop_lag_seconds", (), self.loop_lag
        yield "asyafw_events_dropped", (), self.events_dropped

    def _new_flow(self, flow: str) -> Histogram:
        return self._jobs.setdefault(flow if len(self._jobs) < _MOST_FLOWS else "", Histogram())


_Sample: TypeAlias = tuple[str, tuple[str, ...], Histogram | float]


class _Spec(Struct, frozen=True):
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    documentation: str

    def family(self) -> Any:
        from prometheus_client import core

        families: dict[str, Any] = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        return families[self.kind](self.name, self.documentation, labels=self.labels)


def _samples_of(actor: ActorMetrics) -> Iterator[_Sample]:
    outcomes = actor.outcomes.copy()
    for outcome, count in outcomes.items():
        yield "asyafw_messages", (actor.name, outcome), count
    labels = (actor.name,)
    yield "asyafw_retries", labels, outcomes["retried"]
    yield "asyafw_dead_letters", labels, sum(outcomes[outcome] for outcome in _BURIED)
    yield "asyafw_lease_losses", labels, actor.lease_losses
    yield "asyafw_handler_seconds", labels, actor.handler
    yield "asyafw_queue_wait_seconds", labels, actor.wait
    yield "asyafw_settle_seconds", labels, actor.settle
    yield "asyafw_in_flight", labels, actor.in_flight
    lag = actor.lag
    if lag is not None:
        yield "asyafw_queue_backlog", labels, lag.backlog
        yield "asyafw_queue_delayed", labels, lag.delayed
        yield "asyafw_queue_oldest_seconds", labels, lag.oldest_s or 0.0


_ACTOR = ("actor",)
_SPECS = (
    _Spec("asyafw_messages", "counter", ("actor", "outcome"), "Messages by what became of them."),
    _Spec("asyafw_retries", "counter", _ACTOR, "Failed attempts that run again."),
    _Spec("asyafw_dead_letters", "counter", _ACTOR, "Messages that gave up."),
    _Spec("asyafw_lease_losses", "counter", _ACTOR, "Messages taken away while they were in hand."),
    _Spec("asyafw_handler_seconds", "histogram", _ACTOR, "Duration of the handler."),
    _Spec("asyafw_queue_wait_seconds", "histogram", _ACTOR, "Wait in the queue."),
    _Spec("asyafw_settle_seconds", "histogram", _ACTOR, "Duration of settling, hand-off included."),
    _Spec("asyafw_in_flight", "gauge", _ACTOR, "Messages that this process has in hand."),
    _Spec("asyafw_queue_backlog", "gauge", _ACTOR, "Messages waiting in the queue."),
    _Spec("asyafw_queue_delayed", "gauge", _ACTOR, "Messages whose time has not come."),
    _Spec("asyafw_queue_oldest_seconds", "gauge", _ACTOR, "Age of the oldest waiting message."),
    _Spec("asyafw_job_seconds", "histogram", ("flow",), "Duration of jobs, from end to end."),
    _Spec("asyafw_event_loop_lag_seconds", "histogram", (), "How late the event loop runs timers."),
    _Spec("asyafw_events_dropped", "counter", (), "Events of jobs that could not be told."),
)
