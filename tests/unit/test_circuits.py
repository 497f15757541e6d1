from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from asyafw.coordination import Circuit, CircuitRules, Permit, Report, ask, tell
from asyafw.coordination._circuits import forget_circuit_at

S = 1_000_000
RULES = CircuitRules(failures=3, within_us=10 * S, open_us=30 * S, max_open_us=100 * S, probes=2)
NOW = 1_700_000_000 * S


class Calls:
    """A circuit, and the time."""

    def __init__(self, rules: CircuitRules = RULES) -> None:
        self.rules = rules
        self.circuit = Circuit()
        self.now = NOW

    def ask(self) -> Permit:
        self.circuit, permit = ask(self.circuit, self.now, self.rules)
        return permit

    def tell(
        self, ended: Literal["well", "failed", "other"], probe: int = 0, pause_s: int = 0
    ) -> tuple[Any, float]:
        report = Report(ended, probe, pause_s * S)
        self.circuit, change, for_us = tell(self.circuit, self.now, self.rules, report)
        return change, for_us / S

    def fail(self, count: int = RULES.failures) -> tuple[Any, float]:
        return [self.tell("failed") for _ in range(count)][-1]

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * S)


def test_failures_in_a_row_open_it() -> None:
    calls = Calls()

    changes = [calls.tell("failed") for _ in range(3)]

    assert changes == [(None, 0), (None, 0), ("opened", 30)]
    assert calls.ask() == Permit(allowed=False, wait_us=30 * S, spread_us=30 * S)


def test_a_success_in_between_begins_the_row_again() -> None:
    calls = Calls()

    calls.fail(2)
    failing = calls.ask().failing
    calls.tell("well")

    assert failing
    assert calls.fail(2) == (None, 0)
    assert calls.ask().allowed


def test_failures_that_are_far_apart_do_not_open_it() -> None:
    calls = Calls()

    for _ in range(10):
        calls.wait(6)
        assert calls.tell("failed") == (None, 0)


def test_what_tells_nothing_changes_nothing() -> None:
    calls = Calls()
    calls.fail(2)

    calls.tell("other")

    assert calls.fail(1) == ("opened", 30)


def test_so_many_probe_and_the_others_wait() -> None:
    calls = Calls()
    calls.fail()
    calls.wait(30)

    permits = [calls.ask() for _ in range(3)]

    assert [permit.allowed for permit in permits] == [True, True, False]
    assert permits[2].spread_us == 30 * S


def test_a_probe_that_goes_well_closes_it() -> None:
    calls = Calls()
    calls.fail()
    calls.wait(30)

    probe = calls.ask().probe_us

    assert calls.tell("well", probe) == ("closed", 0)
    assert calls.circuit == Circuit()


def test_a_probe_that_fails_opens_it_for_longer_each_time() -> None:
    calls = Calls()
    calls.fail()

    times: list[Any] = []
    for open_s in (30, 60, 100):
        calls.wait(open_s)
        times.append(calls.tell("failed", calls.ask().probe_us))

    assert times == [("opened", 60), ("opened", 100), ("opened", 100)]


def test_a_probe_that_tells_nothing_makes_way_for_another() -> None:
    calls = Calls()
    calls.fail()
    calls.wait(30)
    probe = calls.ask().probe_us
    calls.wait(1)
    calls.ask()

    calls.tell("other", probe)

    assert calls.ask().allowed


def test_a_probe_whose_worker_died_makes_way_for_another() -> None:
    calls = Calls()
    calls.fail()
    calls.wait(30)
    calls.ask()
    calls.ask()

    calls.wait(30)

    assert calls.ask().allowed


def test_what_began_before_it_opened_tells_nothing_new() -> None:
    calls = Calls()
    calls.fail()

    early = [calls.tell("well"), calls.tell("failed")]
    calls.wait(30)
    late = [calls.tell("well"), calls.tell("failed")]

    assert early + late == [(None, 0)] * 4
    assert calls.ask().probe_us


def test_a_pause_ends_without_a_probe() -> None:
    calls = Calls()

    change = calls.tell("failed", pause_s=2)
    asked = calls.ask()
    calls.wait(2)

    assert change == ("paused", 2)
    assert asked == Permit(allowed=False, wait_us=2 * S, spread_us=2 * S)
    assert calls.ask() == Permit(allowed=True)


def test_of_several_pauses_the_longest_counts_and_only_the_first_is_news() -> None:
    calls = Calls()

    changes = [calls.tell("failed", pause_s=seconds) for seconds in (2, 5, 1)]

    assert changes == [("paused", 2), (None, 0), (None, 0)]
    assert calls.ask().wait_us == 5 * S


def test_a_probe_that_is_asked_to_wait_found_it_alive() -> None:
    calls = Calls()
    calls.fail()
    calls.wait(30)

    change = calls.tell("failed", calls.ask().probe_us, pause_s=7)
    calls.wait(7)

    assert change == ("paused", 7)
    assert calls.ask() == Permit(allowed=True)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.floats(0, 50)),
            st.just(("ask",)),
            st.tuples(st.sampled_from(["well", "failed", "other"]), st.integers(0, 9)),
        ),
        max_size=60,
    )
)
def test_whatever_happens_never_do_too_many_probe_and_it_never_stays_shut(
    deeds: list[tuple[Any, ...]],
) -> None:
    calls, running = Calls(), list[int]()

    for deed, *more in deeds:
        if deed == "wait":
            calls.wait(more[0])
        elif deed == "ask":
            permit = calls.ask()
            if permit.probe_us:
                running.append(permit.probe_us)
            alive = [probe for probe in running if probe > calls.now]
            assert len(alive) <= RULES.probes
            assert permit.allowed or permit.wait_us + permit.spread_us > 0
        else:
            number = more[0]
            probe = running.pop(number) if number < len(running) else 0
            change, _ = calls.tell(deed, probe)
            if change in ("opened", "closed"):
                running.clear()
    calls.wait(100)

    assert calls.ask().allowed


@given(st.integers(1, 5), st.integers(0, 400))
def test_a_circuit_is_remembered_for_as_long_as_it_is_needed(failed: int, seconds: int) -> None:
    calls = Calls()
    calls.fail(failed)
    until = forget_circuit_at(calls.circuit, RULES)

    calls.now = until + seconds * S

    assert calls.ask().allowed
    assert calls.ask().probe_us == 0 or calls.circuit.openings
