"""A coordinator for one process."""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from asyafw.coordination import _circuits, _turns
from asyafw.coordination._circuits import Change, Circuit, CircuitRules, Permit, Report
from asyafw.coordination._turns import Line, Pace, Turn, Wait

__all__ = ["LocalCoordinator"]

_Key: TypeAlias = tuple[type, str]

_FEWEST_TO_SWEEP = 1_000


class LocalCoordinator:
    """Keeps turns and circuits in memory, by the clock `now`, which gives seconds."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._states: dict[_Key, tuple[Any, int]] = {}
        self._sweep_at = _FEWEST_TO_SWEEP

    def __len__(self) -> int:
        return len(self._states)

    async def take_turn(
        self, key: str, pace: Pace, turn: Turn | None = None, within_us: int | None = None
    ) -> Wait:
        now_us = self._now_us()
        line: Line = self._get(Line, key)
        line, wait = _turns.take_turn(line, now_us, pace, turn, within_us)
        self._keep(key, line, _turns.forget_line_at(line), now_us)
        return wait

    async def ask(self, key: str, rules: CircuitRules) -> Permit:
        now_us = self._now_us()
        circuit: Circuit = self._get(Circuit, key)
        circuit, permit = _circuits.ask(circuit, now_us, rules)
        self._keep(key, circuit, _circuits.forget_circuit_at(circuit, rules), now_us)
        return permit

    async def tell(self, key: str, rules: CircuitRules, report: Report) -> tuple[Change, int]:
        now_us = self._now_us()
        circuit: Circuit = self._get(Circuit, key)
        circuit, change, for_us = _circuits.tell(circuit, now_us, rules, report)
        self._keep(key, circuit, _circuits.forget_circuit_at(circuit, rules), now_us)
        return change, for_us

    def _now_us(self) -> int:
        return int(self._now() * 1_000_000)

    def _get(self, kind: type, key: str) -> Any:
        found = self._states.get((kind, key))
        return kind() if found is None else found[0]

    def _keep(self, key: str, state: Any, forget_at: int, now_us: int) -> None:
        self._states[type(state), key] = state, forget_at
        if len(self._states) >= self._sweep_at:
            kept = {k: v for k, v in self._states.items() if v[1] > now_us}
            self._states = kept
            self._sweep_at = max(_FEWEST_TO_SWEEP, 2 * len(kept))
