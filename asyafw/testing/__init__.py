"""What tests of actors and transports need; it depends on no test framework.

`running` runs an app inside a test, `make_context` makes what a single handler is called with,
`transport_contract` is the suite of behaviours that every transport passes.
"""

from asyafw.testing import transport_contract
from asyafw.testing._clock import ManualClock
from asyafw.testing._context import make_context
from asyafw.testing._running import Running, running

__all__ = ["ManualClock", "Running", "make_context", "running", "transport_contract"]
