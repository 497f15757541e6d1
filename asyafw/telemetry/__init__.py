"""What a worker tells about itself: logs, metrics, traces and health."""

from asyafw.telemetry.http import StatusServer
from asyafw.telemetry.logs import add_message, configure_logging, current, log_outcomes
from asyafw.telemetry.metrics import ActorMetrics, Histogram, Metrics
from asyafw.telemetry.tracing import inject_headers, sending, tracing

__all__ = [
    "ActorMetrics",
    "Histogram",
    "Metrics",
    "StatusServer",
    "add_message",
    "configure_logging",
    "current",
    "inject_headers",
    "log_outcomes",
    "sending",
    "tracing",
]
