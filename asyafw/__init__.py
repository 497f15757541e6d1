"""Pure-asyncio actors, each with a queue of its own, for AI pipelines that scale from zero."""

from asyafw._actor import Actor, Batch, Join, actor
from asyafw.app import App
from asyafw.client import Client, Job
from asyafw.context import Context
from asyafw.envelope import Limits
from asyafw.exceptions import AsyafwError, JobCancelled, JobFailed, Reject, ResultTimeout, Retry
from asyafw.limits import CircuitBreaker, RateLimit, retry_after
from asyafw.retry import RetryPolicy, exponential, fixed
from asyafw.worker import Worker

__all__ = [
    "Actor",
    "App",
    "AsyafwError",
    "Batch",
    "CircuitBreaker",
    "Client",
    "Context",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Join",
    "Limits",
    "RateLimit",
    "Reject",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "Worker",
    "actor",
    "exponential",
    "fixed",
    "retry_after",
]
