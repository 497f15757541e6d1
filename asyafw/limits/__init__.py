"""Limits that hold for all replicas: how often an actor runs, and when it had better not.

`RateLimit` and `CircuitBreaker` are middleware, for an actor or for a whole app.
A message that may not run yet waits in its queue, where it takes no slot.
Over ``redis://`` all workers of the same server and prefix share them;
over ``memory://`` those of the same name; over other transports each worker has its own.
"""

from asyafw.limits._breaker import CircuitBreaker
from asyafw.limits._rate import RateLimit
from asyafw.limits._retry_after import retry_after

__all__ = ["CircuitBreaker", "RateLimit", "retry_after"]
