from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from asyafw.context import Context
from asyafw.envelope import Envelope, Route
from asyafw.middleware import compose
from asyafw.telemetry import Histogram, Metrics
from asyafw.telemetry.metrics import BUCKETS_S, OUTCOMES
from asyafw.transport import Lag


def context() -> Context:
    envelope = Envelope(id="m1", job="j1", route=Route("enhance"), payload=Raw(b"\xc0"))
    return Context(envelope, state=SimpleNamespace())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Read a sample as a scraper would."""
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def test_messages_are_counted_by_actor_and_outcome() -> None:
    metrics = Metrics()

    metrics.actor("enhance").count("finished")
    metrics.actor("enhance").count("finished")
    metrics.actor("judge").count("forwarded")

    name = "asyafw_messages_total"
    assert value(metrics, name, actor="enhance", outcome="finished") == 2
    assert value(metrics, name, actor="judge", outcome="forwarded") == 1


def test_every_outcome_is_there_before_it_happens() -> None:
    metrics = Metrics()
    metrics.actor("enhance")

    for outcome in OUTCOMES:
        assert value(metrics, "asyafw_messages_total", actor="enhance", outcome=outcome) == 0


def test_an_outcome_nobody_thought_of_is_counted_too() -> None:
    metrics = Metrics()

    metrics.actor("enhance").count("evaporated")

    name = "asyafw_messages_total"
    assert value(metrics, name, actor="enhance", outcome="evaporated") == 1


def test_retries_and_dead_letters_follow_from_the_outcomes() -> None:
    metrics = Metrics()

    for outcome in ("retried", "retried", "postponed", "failed", "undecodable", "recovered"):
        metrics.actor("enhance").count(outcome)

    assert value(metrics, "asyafw_retries_total", actor="enhance") == 2
    assert value(metrics, "asyafw_dead_letters_total", actor="enhance") == 2


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_a_bucket_counts_what_does_not_exceed_its_bound(durations: list[float]) -> None:
    histogram = Histogram()

    for duration in durations:
        histogram.observe(duration)

    expected = [sum(d <= bound for d in durations) for bound in BUCKETS_S]
    assert [count for _, count in histogram.cumulative()] == [*expected, len(durations)]
    assert histogram.total_s == pytest.approx(sum(durations))


def test_a_negative_duration_is_none() -> None:
    histogram = Histogram()

    histogram.observe(-3.0)

    assert histogram.total_s == 0
    assert histogram.counts[0] == 1


@pytest.mark.parametrize(
    ("observe", "name"),
    [
        ("observe_handler", "asyafw_handler_seconds"),
        ("observe_wait", "asyafw_queue_wait_seconds"),
        ("observe_settle", "asyafw_settle_seconds"),
    ],
)
def test_durations_of_an_actor_are_histograms(observe: str, name: str) -> None:
    metrics = Metrics()

    getattr(metrics.actor("enhance"), observe)(0.3)

    assert value(metrics, f"{name}_sum", actor="enhance") == 0.3
    assert value(metrics, f"{name}_count", actor="enhance") == 1
    assert value(metrics, f"{name}_bucket", actor="enhance", le="0.25") == 0
    assert value(metrics, f"{name}_bucket", actor="enhance", le="0.5") == 1
    assert value(metrics, f"{name}_bucket", actor="enhance", le="+Inf") == 1


def test_gauges_tell_what_was_last_set() -> None:
    metrics = Metrics()
    actor = metrics.actor("enhance")

    actor.in_flight += 3
    actor.lease_losses += 1
    metrics.events_dropped += 7
    metrics.observe_loop_lag(0.02)

    assert value(metrics, "asyafw_in_flight", actor="enhance") == 3
    assert value(metrics, "asyafw_lease_losses_total", actor="enhance") == 1
    assert value(metrics, "asyafw_events_dropped_total") == 7
    assert value(metrics, "asyafw_event_loop_lag_seconds_sum") == 0.02


def test_a_queue_that_nobody_measured_is_not_told_as_empty() -> None:
    metrics = Metrics()
    actor = metrics.actor("enhance")

    assert value(metrics, "asyafw_queue_backlog", actor="enhance") is None

    actor.lag = Lag(backlog=5, in_flight=1, delayed=2, oldest_s=1.5, arrived=8)
    assert value(metrics, "asyafw_queue_backlog", actor="enhance") == 5
    assert value(metrics, "asyafw_queue_delayed", actor="enhance") == 2
    assert value(metrics, "asyafw_queue_oldest_seconds", actor="enhance") == 1.5

    actor.lag = Lag(backlog=0, in_flight=1, delayed=0, oldest_s=None, arrived=8)
    assert value(metrics, "asyafw_queue_oldest_seconds", actor="enhance") == 0


def test_jobs_are_measured_by_flow() -> None:
    metrics = Metrics()

    metrics.observe_job("photos", 12.0)
    metrics.observe_job("photos", 1.0)
    metrics.observe_job(None, 3.0)

    assert value(metrics, "asyafw_job_seconds_sum", flow="photos") == 13
    assert value(metrics, "asyafw_job_seconds_sum", flow="") == 3


def test_invented_flows_do_not_become_endless_time_series() -> None:
    metrics = Metrics()

    for number in range(1500):
        metrics.observe_job(f"flow-{number}", 1.0)

    families = {family.name: family for family in metrics.collect()}
    series = {sample.labels["flow"] for sample in families["asyafw_job_seconds"].samples}
    assert len(series) <= 1001
    assert value(metrics, "asyafw_job_seconds_count", flow="") == 500


def test_an_actor_keeps_its_numbers() -> None:
    metrics = Metrics()

    assert metrics.actor("enhance") is metrics.actor("enhance")


@pytest.mark.anyio
async def test_the_middleware_measures_success_and_failure() -> None:
    metrics = Metrics()

    async def handler(payload: Any, _ctx: Context) -> Any:
        if payload is None:
            raise ValueError("nothing to do")
        return payload

    measured = compose([metrics.middleware("enhance")], handler)
    assert await measured(1, context()) == 1
    with pytest.raises(ValueError, match="nothing to do"):
        await measured(None, context())

    assert value(metrics, "asyafw_handler_seconds_count", actor="enhance") == 2
    assert 0 < metrics.actor("enhance").handler.total_s < 1


def test_any_registry_takes_them() -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    metrics.actor("enhance").count("finished")

    registry.register(metrics)

    labels = {"actor": "enhance", "outcome": "finished"}
    assert registry.get_sample_value("asyafw_messages_total", labels) == 1
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Metrics())


def test_what_is_described_is_what_is_collected() -> None:
    metrics = Metrics()
    metrics.actor("enhance").lag = Lag(0, 0, 0, None, 0)

    described = [(family.name, family.type) for family in metrics.describe()]

    assert described == [(family.name, family.type) for family in metrics.collect()]
    assert all(family.documentation.endswith(".") for family in metrics.describe())
