from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.chaos.checker import Aftermath, Verdict, check
from tests.chaos.history import (
    End,
    Invoke,
    Letter,
    Ok,
    Output,
    Plan,
    Record,
    Recorder,
    Run,
    Unknown,
    read_histories,
)
from tests.chaos.workload import FLOWS, expected

LINE = Plan(0, "line", size=60)
TREE = Plan(1, "tree", size=60, width=3)
REJECTED = Plan(2, "line", size=60, fate="reject", place="second")
KILLER = Plan(3, "tree", size=60, width=2, fate="kill", place="part", child=1)
PLANS = (LINE, TREE, REJECTED, KILLER)


def job(plan: Plan) -> str:
    return f"job-{plan.n}"


def run_of(plan: Plan, hops: int = 0, nonce: int = 7) -> Run:
    actor = FLOWS[plan.flow][hops]
    return Run(plan.n, job(plan), job(plan), hops, actor, attempt=1, delivery=1, nonce=nonce)


def end_of(plan: Plan) -> End:
    must = expected(plan)
    return End(job(plan), must.kind, f"1-{plan.n}", must.output, must.error)


def letters_of(plan: Plan) -> list[Letter]:
    letter = expected(plan).letter
    return [] if letter is None else [Letter(plan.n, job(plan), *letter)]


def story_of(plan: Plan) -> list[Record]:
    runs = [run_of(plan, hops) for hops in range(3)]
    return [Invoke(plan), Ok(plan.n, job(plan)), *runs, end_of(plan), *letters_of(plan)]


def all_went_well() -> list[Record]:
    return [record for plan in PLANS for record in story_of(plan)]


def judged(records: Sequence[Record], **aftermath: Sequence[str] | dict[str, str]) -> Verdict:
    return check(records, Aftermath(**aftermath))  # type: ignore[arg-type]


def violated(records: Sequence[Record]) -> dict[str, list[str]]:
    return {name: list(offenders) for name, offenders in judged(records).violations.items()}


def without(records: Sequence[Record], *unwanted: Record) -> list[Record]:
    assert all(record in records for record in unwanted)
    return [record for record in records if record not in unwanted]


def test_a_good_history_violates_nothing() -> None:
    verdict = judged(all_went_well())

    assert verdict.violations == {}
    assert verdict.reruns == 0
    assert verdict.counts == {
        "submitted": 4,
        "acknowledged": 4,
        "runs": 12,
        "steps": 12,
        "ended": 4,
        "dead letters": 2,
    }


def test_the_order_of_the_records_does_not_matter() -> None:
    assert violated(all_went_well()[::-1]) == {}


def test_an_acknowledged_job_that_never_ends_is_lost() -> None:
    records = without(all_went_well(), end_of(TREE))

    assert violated(records) == {"lost": ["job-1 of 1"]}


def test_an_unknown_submission_may_come_to_nothing() -> None:
    assert violated([Invoke(LINE), Unknown(0, "cut")]) == {}


def test_an_unknown_submission_may_come_out() -> None:
    records = [*without(story_of(LINE), Ok(0, "job-0")), Unknown(0, "cut")]

    assert violated(records) == {}


def test_an_unknown_submission_that_began_must_end() -> None:
    records: list[Record] = [Invoke(LINE), Unknown(0, "cut"), run_of(LINE)]

    assert violated(records) == {"lost": ["job-0 of 0"]}


def test_an_unknown_submission_that_comes_out_as_two_jobs_is_a_duplicate() -> None:
    again = replace(run_of(LINE), job="job-x", id="job-x")
    records = [*without(story_of(LINE), Ok(0, "job-0")), Unknown(0, "cut"), again]

    assert violated(records) == {"submitted twice": ["job-0 of 0", "job-x of 0"]}


def test_a_job_ends_once() -> None:
    records = [*all_went_well(), replace(end_of(LINE), position="9-9")]

    assert violated(records) == {"ended twice": ["job-0"]}


def test_an_end_that_is_read_twice_is_one_end() -> None:
    verdict = judged([*all_went_well(), end_of(LINE)])

    assert verdict.violations == {}
    assert verdict.counts["ends told again"] == 1


def test_two_nonces_at_one_step_are_a_second_hand_off() -> None:
    records = [*all_went_well(), run_of(LINE, hops=1, nonce=8)]

    assert violated(records) == {"handed on twice": ["job-0 at second"]}


def test_one_nonce_at_one_step_is_a_handler_that_runs_again() -> None:
    verdict = check([*all_went_well(), run_of(LINE, hops=1)], Aftermath(), most_reruns=0.1)

    assert verdict.violations == {}
    assert verdict.reruns == 1 / 13


def test_a_retry_is_no_handler_that_runs_again() -> None:
    verdict = judged([*all_went_well(), replace(run_of(LINE, hops=1), attempt=2)])

    assert verdict.violations == {}
    assert verdict.reruns == 0


def test_too_many_handlers_that_run_again_are_a_violation() -> None:
    records = [*all_went_well(), run_of(LINE, hops=1)]

    assert violated(records) == {"rerun": ["7.69% of the handlers"]}


@pytest.mark.parametrize(
    ("record", "offender"),
    [
        (End("job-x", "succeeded", "9-9"), "job-x"),
        (Letter(99, "job-y", "first", "Reject"), "job-y of 99"),
        (replace(run_of(LINE), n=99, job="job-z", id="job-z"), "job-z of 99"),
    ],
)
def test_what_never_went_in_must_not_come_out(record: Record, offender: str) -> None:
    assert violated([*all_went_well(), record]) == {"unexpected": [offender]}


@pytest.mark.parametrize(
    ("plan", "changes"),
    [
        (LINE, {"n": 1}),
        (LINE, {"crc": 0}),
        (LINE, {"trail": ("first", "third")}),
        (TREE, {"parts": (0, 1)}),
        (TREE, {"parts": (0, None, 2)}),
        (TREE, {"parts": (0, -1, 2)}),
        (KILLER, {"parts": (0, 1)}),
    ],
)
def test_another_output_is_corrupted(plan: Plan, changes: dict[str, object]) -> None:
    end = end_of(plan)
    assert end.output is not None
    wrong = replace(end, output=replace(end.output, **changes))
    records = [wrong if record == end else record for record in all_went_well()]

    assert list(violated(records)) == ["corrupted"]


def test_another_end_is_corrupted() -> None:
    wrong = End("job-0", "failed", "1-0", error="ValueError")
    records = [wrong if record == end_of(LINE) else record for record in all_went_well()]

    assert violated(records) == {"corrupted": ["job-0 of 0: failed ValueError"]}


@pytest.mark.parametrize("plan", [REJECTED, KILLER])
def test_poison_must_be_among_the_dead_letters(plan: Plan) -> None:
    (letter,) = letters_of(plan)

    assert violated(without(all_went_well(), letter)) == {
        "missing letters": [f"{job(plan)} of {plan.n}: {letter.error} at {letter.actor}"]
    }


@pytest.mark.parametrize(
    "letter", [*letters_of(REJECTED), Letter(0, "job-0", "third", "WorkerCrashed")]
)
def test_nothing_else_may_be_among_the_dead_letters(letter: Letter) -> None:
    assert violated([*all_went_well(), letter]) == {
        "extra letters": [f"{letter.job} of {letter.n}: {letter.error} at {letter.actor}"]
    }


def test_poison_must_be_blamed_for_what_it_did() -> None:
    (letter,) = letters_of(KILLER)
    records = without(all_went_well(), letter)

    found = violated([*records, replace(letter, error="Reject")])

    assert found == {
        "missing letters": ["job-3 of 3: WorkerCrashed at part"],
        "extra letters": ["job-3 of 3: Reject at part"],
    }


def test_what_is_left_over_or_does_not_work_is_a_violation() -> None:
    verdict = judged(
        all_went_well(),
        left={"first": "1 wait"},
        idle=["worker 2"],
        stuck=["worker 3"],
        crashed=["worker 4"],
    )

    assert verdict.violations == {
        "left over": ["first: 1 wait"],
        "idle": ["worker 2"],
        "stuck": ["worker 3"],
        "crashed": ["worker 4"],
    }


def test_histories_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    for plan in PLANS:
        with Recorder(tmp_path / f"{plan.n}.jsonl") as recorder:
            for record in story_of(plan):
                recorder.add(record)
    with (tmp_path / "0.jsonl").open("ab") as killed_while_writing:
        killed_while_writing.write(b'{"e":"ok"')

    assert list(read_histories(tmp_path)) == all_went_well()


def test_the_output_of_a_tree_whose_children_all_failed_is_empty() -> None:
    plan = Plan(0, "tree", size=60, width=1, fate="reject", place="part", child=0)

    assert expected(plan).output == Output(0, crc=0, trail=("merge",), parts=(None,))
