from heapq import heapify, heappop, heappush
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyafw.coordination import LocalCoordinator, Pace, Turn, Wait
from asyafw.coordination._turns import EARLY_US, LATE_US, Line, forget_line_at, take_turn

STEP = 50_000
NOW = 1_700_000_000_000_000
PACE = Pace(STEP)
SECOND = 1_000_000


def queue(
    count: int, pace: Pace = PACE, line: Line | None = None, now: int = NOW
) -> tuple[Line, list[Wait]]:
    """Let so many messages come at once."""
    line = line or Line()
    waits: list[Wait] = []
    for _ in range(count):
        line, wait = take_turn(line, now, pace, None, None)
        waits.append(wait)
    return line, waits


def crowd(steps: st.SearchStrategy[int], lateness: st.SearchStrategy[int]) -> Any:
    """Messages: when each comes after the one before, what it costs, and how late it returns."""
    gaps = st.integers(0, 4 * STEP)
    return st.lists(st.tuples(gaps, steps, st.lists(lateness, min_size=1)), min_size=1, max_size=40)


def run(messages: list[tuple[int, int, list[int]]], ahead: int) -> list[tuple[int, int, int]]:
    """Let messages come and return; for each that runs: when, what it cost, how often it waited."""
    line, now = Line(), NOW
    runs: list[tuple[int, int, int]] = []
    coming: list[tuple[int, int, Turn | None, int]] = []
    for number, (gap, _, _) in enumerate(messages):
        now += gap
        coming.append((now, number, None, 0))
    heapify(coming)
    while coming:
        now, number, turn, waits = heappop(coming)
        _, step, late = messages[number]
        line, wait = take_turn(line, now, Pace(step, ahead), turn, None)
        if wait.us:
            back = now + wait.us + late[waits % len(late)]
            heappush(coming, (back, number, wait.turn, waits + 1))
        else:
            runs.append((now, step, waits))
    return runs


@given(
    crowd(st.integers(1, 3 * STEP), st.sampled_from([0, 500, LATE_US, 2 * LATE_US, 5 * SECOND])),
    st.sampled_from([0, STEP, 10 * STEP]),
)
def test_no_more_run_than_the_limit_allows_however_late_they_return(
    messages: list[tuple[int, int, list[int]]], ahead: int
) -> None:
    runs = run(messages, ahead)

    assert len(runs) == len(messages)
    for i in range(len(runs)):
        for j in range(i + 1, len(runs)):
            costs = [step for _, step, _ in runs[i : j + 1]]
            took = runs[j][0] - runs[i][0]
            assert sum(costs) - max(costs) <= took + ahead + LATE_US + 2 * EARLY_US


@given(crowd(st.just(STEP), st.integers(0, LATE_US)), st.sampled_from([0, STEP, 10 * STEP]))
def test_who_is_not_late_waits_once(messages: list[tuple[int, int, list[int]]], ahead: int) -> None:
    assert max(waits for _, _, waits in run(messages, ahead)) <= 1


@given(crowd(st.just(STEP), st.just(0)), st.sampled_from([0, STEP, 10 * STEP]))
def test_a_limit_that_is_asked_for_too_much_is_used_in_full(
    messages: list[tuple[int, int, list[int]]], ahead: int
) -> None:
    runs = run([(0, step, late) for _, step, late in messages], ahead)

    took = runs[-1][0] - runs[0][0]
    assert took <= max(0, (len(runs) - 1) * STEP - ahead) + EARLY_US


def test_those_who_come_at_once_run_one_after_another() -> None:
    _, waits = queue(4)

    assert [wait.us for wait in waits] == [0, STEP, 2 * STEP, 3 * STEP]


def test_a_burst_runs_at_once_after_a_time_of_rest() -> None:
    _, waits = queue(5, Pace(STEP, 2 * STEP))

    assert [wait.us for wait in waits] == [0, 0, 0, STEP, 2 * STEP]


def test_what_costs_more_holds_up_those_behind_it() -> None:
    line, _ = take_turn(Line(), NOW, Pace(10 * STEP), None, None)

    _, wait = take_turn(line, NOW, PACE, None, None)

    assert wait.us == 10 * STEP


def test_who_is_late_runs_at_once_where_the_gate_is_free() -> None:
    line, waits = queue(2)

    _, wait = take_turn(line, NOW + 60 * SECOND, PACE, waits[1].turn, None)

    assert wait.us == 0


def test_after_a_standstill_nobody_goes_to_the_end_of_the_line() -> None:
    line, waits = queue(100)
    now = NOW + 2 * SECOND  # the first 40 are late

    again: list[int] = []
    for first in waits[1:40]:
        line, wait = take_turn(line, now, PACE, first.turn, None)
        again.append(wait.us)

    assert again == [max(0, n * STEP - LATE_US) for n in range(39)]


def test_a_turn_that_was_made_sure_is_not_taken_twice() -> None:
    line, waits = queue(3)
    line, _ = take_turn(line, NOW + 10 * SECOND, PACE, waits[1].turn, None)
    line, wait = take_turn(line, NOW + 10 * SECOND, Pace(5 * STEP), waits[2].turn, None)
    line, third = take_turn(line, NOW + 10 * SECOND, PACE, waits[2].turn, None)

    after, again = take_turn(line, third.turn.at_us, PACE, third.turn, None)

    assert wait.us == 0 < third.us
    assert (after, again.us) == (line, 0)


def test_who_comes_before_its_turn_waits_on_and_moves_nobody() -> None:
    line, waits = queue(3)

    after, wait = take_turn(line, NOW + STEP, PACE, waits[2].turn, None)

    assert (after, wait.turn, wait.us) == (line, waits[2].turn, STEP)


def test_a_turn_that_comes_too_late_is_told_and_not_taken() -> None:
    line, _ = queue(3)

    after, wait = take_turn(line, NOW, PACE, None, 2 * STEP)

    assert (after, wait.us) == (line, 3 * STEP)


@given(st.integers(0, 20), st.integers(0, 3 * STEP))
def test_a_line_that_may_be_forgotten_is_as_good_as_none(count: int, ahead: int) -> None:
    line, _ = queue(count, Pace(STEP, ahead))
    now = max(NOW, forget_line_at(line))

    _, waits = queue(5, Pace(STEP, ahead), line, now)
    _, fresh = queue(5, Pace(STEP, ahead), None, now)

    assert waits == fresh


async def test_what_is_forgotten_takes_no_memory() -> None:
    now = 0.0
    coordinator = LocalCoordinator(lambda: now)

    for tenant in range(10_000):
        now += 1
        await coordinator.take_turn(f"tenant {tenant}", PACE)

    assert len(coordinator) < 2_000
