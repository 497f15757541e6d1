"""Run the contestants in turn, and print what they did: `python -m tests.bench.redis --help`."""

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.redis.process import CONTESTANTS, Contestant, ContestantFailed
from tests.bench.redis.report import Report
from tests.bench.redis.watch import Server
from tests.bench.redis.workloads import WORKLOADS, Run, Workload
from tests.servers.redis import DURABLE, redis_server

_ROUNDS: Final = 3
_LONGEST_S: Final = 270.0  # after which no other round begins that nobody asked for
_TARGET_S: Final = 0.8
_QUICK_TARGET_S: Final = 0.3


def main() -> None:
    """Run what the command line asks for."""
    signal.signal(signal.SIGTERM, _leave)
    options = _options()
    report = Report()
    with redis_server(*DURABLE) as started:
        server = Server(started)
        runs = [
            Run(
                contestant,
                _python(contestant, options.environments),
                server,
                _QUICK_TARGET_S if options.quick else _TARGET_S,
                {},
                is_profiled=options.profile,
            )
            for contestant in _chosen(options.only)
        ]
        with ThreadPoolExecutor() as pool:
            installed = pool.map(partial(_is_installed, report), runs)
            runs = [run for run, is_installed in zip(runs, installed, strict=True) if is_installed]
        if not runs:
            sys.exit("there is nobody to measure")
        workloads = [each for each in WORKLOADS if each.name in options.workload]
        rounds = options.rounds or (1 if options.quick else _ROUNDS)
        latest = None if options.rounds else time.monotonic() + _LONGEST_S
        try:
            for number in range(rounds):
                # Whoever is first in a round is last in the next: what disturbs hits each in turn.
                _round(runs[:: -1 if number % 2 else 1], workloads, number, report)
                if latest is not None and time.monotonic() > latest:
                    break
        finally:
            report.write()


def _leave(*_: object) -> None:
    """End as if by Ctrl-C, so that the server ends, too."""
    raise KeyboardInterrupt


def _round(runs: list[Run], workloads: list[Workload], number: int, report: Report) -> None:
    for workload in workloads:
        if workload.once and number:
            continue
        able = [run for run in runs if run.contestant.has_slots or not workload.needs_slots]
        sys.stderr.write(f"round {number + 1}: {workload.name}\n")
        if workload.together:
            with ThreadPoolExecutor(len(able)) as pool:
                list(pool.map(partial(_measure, workload, report), able))
        else:
            for run in able:
                _measure(workload, report, run)


def _measure(workload: Workload, report: Report, run: Run) -> None:
    try:
        report.add(run.contestant.name, workload.name, workload.measure(run))
    except ContestantFailed as error:
        sys.stderr.write(f"{workload.name}: {error}\n")


def _is_installed(report: Report, run: Run) -> bool:
    try:
        report.versions[run.contestant.name] = run.contestant.versions(run.python)
    except ContestantFailed as error:
        last = str(error).splitlines()[-1]
        sys.stderr.write(f"{run.contestant.name} is left out: {last}\n")
        return False
    return True


def _python(contestant: Contestant, environments: Path | None) -> str:
    """Find the interpreter of a contestant that cannot live with the others."""
    own = environments and environments.absolute() / contestant.name / "bin" / "python"
    return str(own) if own and own.exists() else sys.executable


def _chosen(only: str | None) -> list[Contestant]:
    names = only.split(",") if only else [""]
    return [each for each in CONTESTANTS if any(each.name.startswith(name) for name in names)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.redis")
    names = [workload.name for workload in WORKLOADS]
    add = parser.add_argument
    add("--only", help="beginnings of contestants' names, as in asyafw,raw")
    add("--workload", action="append", choices=names, help="one of them; may be repeated")
    add("--rounds", type=int, help=f"how often each is measured, by default {_ROUNDS}")
    add("--quick", action="store_true", help="one round of short measurements")
    add("--profile", action="store_true", help="tell where the workers' CPU time goes")
    add("--environments", type=Path, help="folder of virtual environments by contestants' names")
    options = parser.parse_args()
    options.workload = options.workload or names
    return options


if __name__ == "__main__":
    main()
