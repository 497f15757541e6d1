"""What every transport does, as a suite that any of them can run.

Each behaviour is a coroutine function that takes a fresh `Harness`, states a fact in its docstring
and raises `AssertionError` or `TimeoutError` if that is not so. With pytest::

    from asyafw.testing.transport_contract import BEHAVIOURS, name

    @pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
    async def test_contract(behaviour, harness):
        await behaviour(harness)

It tests what the seam promises and no more: no order between messages, for one.
Where a service answers late, it is asked again until the harness' patience is at its end.
"""

from asyafw.testing.transport_contract import (
    _delays,
    _joins,
    _lag,
    _leases,
    _logs,
    _queues,
    _receiving,
    _settling,
)
from asyafw.testing.transport_contract._harness import Behaviour, Harness, bounded

__all__ = ["BEHAVIOURS", "Behaviour", "Harness", "name"]

_ALL: tuple[Behaviour, ...] = (
    *_queues.BEHAVIOURS,
    *_receiving.BEHAVIOURS,
    *_settling.BEHAVIOURS,
    *_leases.BEHAVIOURS,
    *_delays.BEHAVIOURS,
    *_lag.BEHAVIOURS,
    *_logs.BEHAVIOURS,
    *_joins.BEHAVIOURS,
)

BEHAVIOURS: tuple[Behaviour, ...] = tuple(map(bounded, _ALL))


def name(behaviour: Behaviour) -> str:
    """Name a behaviour by what it says: ``unsettled_messages_come_back_after_a_crash``."""
    return behaviour.__name__
