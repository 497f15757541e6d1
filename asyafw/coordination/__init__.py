"""What workers agree on beside their messages: whose turn it is, and what is out of order.

A transport may offer a `Coordinator` to all who are connected to the same service;
where it does not, each worker has a `LocalCoordinator` of its own.
Times are whole microseconds, so that every implementation comes to the very same decisions;
whatever clock they are of, it is the coordinator's.
"""

from asyafw.coordination._circuits import Change, Circuit, CircuitRules, Permit, Report, ask, tell
from asyafw.coordination._coordinator import Coordinating, Coordinator
from asyafw.coordination._local import LocalCoordinator
from asyafw.coordination._turns import Line, Pace, Turn, Wait, take_turn

__all__ = [
    "Change",
    "Circuit",
    "CircuitRules",
    "Coordinating",
    "Coordinator",
    "Line",
    "LocalCoordinator",
    "Pace",
    "Permit",
    "Report",
    "Turn",
    "Wait",
    "ask",
    "take_turn",
    "tell",
]
