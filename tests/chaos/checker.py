"""What must hold of a run, whatever broke in it; pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from msgspec import Struct

from tests.chaos.history import End, Invoke, Letter, Ok, Plan, Record, Run, Struck, Unknown
from tests.chaos.workload import expected

__all__ = ["MOST_RERUNS", "Aftermath", "Verdict", "check"]

MOST_RERUNS: Final = 0.02
"""How many of a hundred handlers may run again, as a fraction."""


class Aftermath(Struct, frozen=True):
    """What was found once everything had been healed and time had been given.

    `left` names what a queue still held, `idle` the workers that handled nothing of the last
    load, `stuck` those that did not leave when they were told to, `crashed` those that ended by
    themselves.
    """

    left: Mapping[str, str] = {}
    idle: Sequence[str] = ()
    stuck: Sequence[str] = ()
    crashed: Sequence[str] = ()


class Verdict(Struct, frozen=True):
    """What was counted, and what was violated: for each invariant the offending ids."""

    counts: Mapping[str, int]
    faults: Mapping[str, int]
    reruns: float
    violations: Mapping[str, Sequence[str]]


def check(
    records: Iterable[Record], aftermath: Aftermath, *, most_reruns: float = MOST_RERUNS
) -> Verdict:
    """Judge a run by its histories, in whatever order they come.

    lost                a job was accepted and never ended
    ended twice         a job has two last events
    handed on twice     one step of one message was emitted twice
    submitted twice     one submission came out as two jobs
    unexpected          what came out had never gone in
    corrupted           a job ended otherwise than it must, or with another output
    missing letters     poison is not among the dead letters
    extra letters       what is among the dead letters does not belong there
    rerun               more handlers ran again than may
    left over           a queue is not empty
    idle, stuck         a worker does not work, or does not leave
    crashed             a worker ended by itself, or told of an error that nobody caught
    """
    histories = _Histories()
    for record in records:
        histories.add(record)
    found = histories.violations()
    for queue, left in aftermath.left.items():
        found["left over"].append(f"{queue}: {left}")
    found["idle"].extend(aftermath.idle)
    found["stuck"].extend(aftermath.stuck)
    found["crashed"].extend(aftermath.crashed)
    reruns = histories.reruns / max(1, histories.counts["runs"])
    if reruns > most_reruns:
        found["rerun"].append(f"{reruns:.2%} of the handlers")
    violations = {name: offenders for name, offenders in found.items() if offenders}
    return Verdict(dict(histories.counts), dict(histories.faults), reruns, violations)


class _Histories:
    """Takes the records in, and then finds what is wrong."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.reruns = 0
        self._plans: dict[int, Plan] = {}
        # The jobs of a submission, of which there should be one: as acknowledged, and as seen.
        self._jobs: dict[int, str] = {}
        self._seen: dict[str, int] = {}
        self._ends: dict[str, End] = {}
        self._positions: set[str] = set()
        self._letters: defaultdict[str, list[Letter]] = defaultdict(list)
        self._nonces: dict[int, int] = {}
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, record: Record) -> None:
        match record:
            case Run():
                self._add_run(record)
            case Invoke():
                self.counts["submitted"] += 1
                self._plans[record.plan.n] = record.plan
            case Ok():
                self.counts["acknowledged"] += 1
                self._jobs[record.n] = record.job
            case Unknown():
                self.counts["unknown"] += 1
            case End():
                self._add_end(record)
            case Letter():
                self.counts["dead letters"] += 1
                self._letters[record.job].append(record)
                self._seen.setdefault(record.job, record.n)
            case Struck():
                self.faults[record.fault] += 1

    def _add_run(self, run: Run) -> None:
        self.counts["runs"] += 1
        self._seen.setdefault(run.job, run.n)
        step = hash((run.id, run.hops, run.actor, run.attempt))
        nonce = self._nonces.setdefault(step, run.nonce)
        if nonce != run.nonce:
            self._found["handed on twice"].append(f"{run.job} at {run.actor}")
        else:
            self.counts["steps"] = len(self._nonces)
            self.reruns = self.counts["runs"] - len(self._nonces)

    def _add_end(self, end: End) -> None:
        if end.position in self._positions:
            # The same entry of the log, told again by the reader.
            self.counts["ends told again"] += 1
            return
        self._positions.add(end.position)
        self.counts["ended"] += 1
        if end.job in self._ends:
            self._found["ended twice"].append(end.job)
        self._ends.setdefault(end.job, end)

    def violations(self) -> "defaultdict[str, list[str]]":
        acknowledged = {job: n for n, job in self._jobs.items()}
        known = self._seen | acknowledged
        began = Counter(known.values())
        for job in self._ends.keys() - known.keys():
            # Nothing else knows of it.
            self._found["unexpected"].append(job)
        for job, n in known.items():
            plan = self._plans.get(n)
            if plan is None:
                self._found["unexpected"].append(f"{job} of {n}")
            elif began[n] > 1:
                self._found["submitted twice"].append(f"{job} of {n}")
            else:
                self._check_job(job, plan)
        return self._found

    def _check_job(self, job: str, plan: Plan) -> None:
        """Check a job that was acknowledged, or of which something was seen."""
        end, must = self._ends.get(job), expected(plan)
        letters = [(each.actor, each.error) for each in self._letters[job]]
        wanted = [must.letter] if must.letter is not None and end is not None else []
        if end is None:
            self._found["lost"].append(f"{job} of {plan.n}")
        elif (end.kind, end.error, end.output) != (must.kind, must.error, must.output):
            was = f"{end.kind} {end.error or end.output}"
            self._found["corrupted"].append(f"{job} of {plan.n}: {was}")
        missing, extra = Counter(wanted), Counter(letters)
        for actor, error in chain((missing - extra).elements()):
            self._found["missing letters"].append(f"{job} of {plan.n}: {error} at {actor}")
        for actor, error in chain((extra - missing).elements()):
            self._found["extra letters"].append(f"{job} of {plan.n}: {error} at {actor}")
