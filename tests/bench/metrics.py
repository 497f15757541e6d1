"""What counting costs beside prometheus_client's own objects: one JSON line per result."""

import json
import sys
from collections.abc import Callable
from timeit import Timer

from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as TheirHistogram

from asyafw.telemetry import Metrics
from asyafw.telemetry.metrics import BUCKETS_S

CALLS = 500_000
ROUNDS = 7


def microseconds(call: Callable[[], object]) -> float:
    """Time a call, the loop around it not counted."""
    overhead = min(Timer(lambda: None).repeat(ROUNDS, CALLS))
    return (min(Timer(call).repeat(ROUNDS, CALLS)) - overhead) / CALLS * 1e6


def main() -> None:
    """Measure and print."""
    registry = CollectorRegistry()
    counter = Counter("messages", "Messages.", ["actor", "outcome"], registry=registry)
    histogram = TheirHistogram(
        "seconds", "Duration.", ["actor"], registry=registry, buckets=BUCKETS_S
    )
    kept_counter, kept_histogram = counter.labels("a", "finished"), histogram.labels("a")
    actor = Metrics().actor("a")
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "count": (lambda: actor.count("finished"), kept_counter.inc),
        "observe": (lambda: actor.observe_handler(0.123), lambda: kept_histogram.observe(0.123)),
    }
    for name, (ours, theirs) in calls.items():
        result = {
            "bench": f"metrics.{name}",
            "us": round(microseconds(ours), 3),
            "prometheus_client_us": round(microseconds(theirs), 3),
        }
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
