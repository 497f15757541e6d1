"""When calls to something out of order are not even tried; pure.

The circuit breaker of Nygard's *Release It!*: closed until calls fail in a row, then open for a
while, then half-open, when a few calls probe; the first to succeed closes it, one that fails opens
it again, for longer. A pause that the callee asked for is over when its time is, without a probe.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "Change",
    "Circuit",
    "CircuitRules",
    "Permit",
    "Report",
    "ask",
    "forget_circuit_at",
    "tell",
]

_MOST_DOUBLINGS = 30


class CircuitRules(Struct, frozen=True):
    """When a circuit opens, and for how long.

    It opens when `failures` calls have failed in a row, the first no longer than `within_us` ago,
    for `open_us`, twice as long each time in a row, up to `max_open_us`.
    Then up to `probes` calls run at a time; one that has not ended after `open_us` is given up.
    Durations are microseconds.
    """

    failures: int
    within_us: int
    open_us: int
    max_open_us: int
    probes: int


class Circuit(Struct, frozen=True):
    """The state of a circuit, its times in microseconds.

    `failures` are those in a row while it was closed, `probes` when those that run are given up.
    It is open until `until_us`; with `openings`, which counts those in a row, it is then half-open,
    and without, as after a pause, closed.
    """

    failures: tuple[int, ...] = ()
    opened_us: int = 0
    until_us: int = 0
    openings: int = 0
    probes: tuple[int, ...] = ()


class Permit(Struct, frozen=True):
    """Whether a call may run, and what to know for its report.

    If not, it waits `wait_us`, and up to `spread_us` more, at random, so that not all come at once.
    `probe_us` names the probe that it is, 0 for none. `failing` says that the last call failed.
    """

    allowed: bool
    wait_us: int = 0
    spread_us: int = 0
    probe_us: int = 0
    failing: bool = False


class Report(Struct, frozen=True):
    """How a call ended: ``"other"`` for what tells nothing about whom it called.

    With `pause_us` the callee asked to be left alone for so long, whatever else it said.
    """

    ended: Literal["well", "failed", "other"]
    probe_us: int = 0
    pause_us: int = 0


Change: TypeAlias = Literal["opened", "paused", "closed"] | None
"""What a report has made of a circuit."""

_Told: TypeAlias = tuple[Circuit, Change, int]


def ask(circuit: Circuit, now_us: int, rules: CircuitRules) -> tuple[Circuit, Permit]:
    """Decide if a call may run; gives the circuit as it is afterwards."""
    if now_us < circuit.until_us:
        spread = min(circuit.until_us - circuit.opened_us, rules.open_us)
        return circuit, Permit(allowed=False, wait_us=circuit.until_us - now_us, spread_us=spread)
    if not circuit.openings:
        return circuit, Permit(allowed=True, failing=bool(circuit.failures))
    running = tuple(probe for probe in circuit.probes if probe > now_us)
    if len(running) >= rules.probes:
        return circuit, Permit(allowed=False, spread_us=rules.open_us)
    probe = now_us + rules.open_us
    return _with_probes(circuit, (*running, probe)), Permit(allowed=True, probe_us=probe)


def tell(circuit: Circuit, now_us: int, rules: CircuitRules, report: Report) -> _Told:
    """Learn how a call ended; gives the circuit afterwards, what changed, and for how long.

    What began before the circuit opened says nothing new when it ends.
    """
    if report.pause_us:
        return _paused(circuit, now_us, report.pause_us)
    if now_us < circuit.until_us:
        return circuit, None, 0
    if circuit.openings:
        return _probed(circuit, now_us, rules, report)
    return _counted(circuit, now_us, rules, report)


def _counted(circuit: Circuit, now_us: int, rules: CircuitRules, report: Report) -> _Told:
    if report.ended == "other":
        return circuit, None, 0
    if report.ended == "well":
        return Circuit(), None, 0
    failures = (*circuit.failures, now_us)[-rules.failures :]
    if len(failures) == rules.failures and now_us - failures[0] <= rules.within_us:
        return _opened(0, now_us, rules)
    return Circuit(failures), None, 0


def _probed(circuit: Circuit, now_us: int, rules: CircuitRules, report: Report) -> _Told:
    if report.probe_us and report.ended == "well":
        return Circuit(), "closed", 0
    if report.probe_us and report.ended == "failed":
        return _opened(circuit.openings, now_us, rules)
    left = tuple(probe for probe in circuit.probes if probe != report.probe_us)
    return _with_probes(circuit, left), None, 0


def _with_probes(circuit: Circuit, probes: tuple[int, ...]) -> Circuit:
    return Circuit((), circuit.opened_us, circuit.until_us, circuit.openings, probes)


def _opened(openings: int, now_us: int, rules: CircuitRules) -> _Told:
    open_us = min(rules.max_open_us, rules.open_us * 2 ** min(openings, _MOST_DOUBLINGS))
    return Circuit((), now_us, now_us + open_us, openings + 1), "opened", open_us


def _paused(circuit: Circuit, now_us: int, pause_us: int) -> _Told:
    """Wait until the callee's time; it lives, so the calls after that need no probe."""
    until = now_us + pause_us
    if now_us < circuit.until_us:
        longer = max(until, circuit.until_us)
        return Circuit((), circuit.opened_us, longer, circuit.openings), None, 0
    return Circuit((), now_us, until), "paused", pause_us


def forget_circuit_at(circuit: Circuit, rules: CircuitRules) -> int:
    """Tell when a circuit that nobody has called meanwhile may be taken for a new one."""
    idle_us = 2 * rules.max_open_us if circuit.openings else 0
    failed_at = circuit.failures[-1] + rules.within_us if circuit.failures else 0
    return max(failed_at, circuit.until_us + idle_us)
