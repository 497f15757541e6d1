"""The seam: what a transport may offer to all who are connected to the same service."""

from typing import Protocol, runtime_checkable

from asyafw.coordination._circuits import Change, CircuitRules, Permit, Report
from asyafw.coordination._turns import Pace, Turn, Wait

__all__ = ["Coordinating", "Coordinator"]


class Coordinator(Protocol):
    """Keeps turns and circuits by their keys; each call is one step, whoever else calls.

    The decisions are those of `take_turn`, `ask` and `tell`, by one clock for all.
    What nobody has used for long is forgotten.
    All methods raise TransportError if the service fails: it is unknown whether the step happened.
    """

    async def take_turn(
        self, key: str, pace: Pace, turn: Turn | None = None, within_us: int | None = None
    ) -> Wait:
        """Take a turn at the limit `key`, or come back with the one that was taken.

        One that is more than `within_us` microseconds away is told and not taken.
        """
        ...

    async def ask(self, key: str, rules: CircuitRules) -> Permit:
        """Ask if a call may be made through the circuit `key`."""
        ...

    async def tell(self, key: str, rules: CircuitRules, report: Report) -> tuple[Change, int]:
        """Tell how such a call ended.

        Gives what has become of the circuit by this very report, and for how many microseconds.
        """
        ...


@runtime_checkable
class Coordinating(Protocol):
    """A transport that has a coordinator, to be used while it is open."""

    @property
    def coordinator(self) -> Coordinator:
        """Shared by all who are connected to the same service."""
        ...
