"""What tests of actors and transports need; it depends on no test framework.

`transport_contract` is the suite of behaviours that every transport passes.
"""

from asyafw.testing import transport_contract
from asyafw.testing._clock import ManualClock

__all__ = ["ManualClock", "transport_contract"]
