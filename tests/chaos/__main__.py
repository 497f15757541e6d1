"""Break a broker and its workers, and check that nothing is lost and nothing comes out twice."""

import argparse
import secrets
import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from asyafw.cli._process import run_loop
from tests.chaos.redis_broker import RedisBroker
from tests.chaos.report import as_line, as_table
from tests.chaos.runner import run
from tests.chaos.scene import Broker, Request

_BROKERS = {"redis": RedisBroker}


def main() -> int:
    """Run what the command line asks for; 1 if an invariant was violated."""
    options = _options()
    broker: Broker = _BROKERS[options.broker]()
    request = Request(
        seed=options.seed if options.seed is not None else secrets.randbelow(10**6),
        seconds=options.seconds,
        jobs=options.jobs,
        workers=options.workers,
        rate=options.rate,
        kill_every_s=options.kill_every,
        only=options.only or (),
    )
    folder = Path(options.folder or mkdtemp(prefix="asyafw-chaos-"))
    folder.mkdir(exist_ok=True)
    sys.stdout.write(f"seed {request.seed}, histories in {folder}\n")
    sys.stdout.flush()
    report = run_loop(partial(run, broker, request, folder))
    sys.stdout.write(f"{as_table(report)}\n\n{as_line(report)}\n")
    if report.verdict.violations:
        return 1
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--broker", choices=sorted(_BROKERS), default="redis")
    add("--seed", type=int, help="decides what is submitted and what breaks; else drawn")
    add("--seconds", type=float, default=38, help="how long to break things")
    add("--jobs", type=int, default=0, help="go on until so many were acknowledged")
    add("--workers", type=int, default=6)
    add("--rate", type=float, default=1_000, help="jobs a second, at most")
    add("--kill-every", type=float, default=25, metavar="S", help="poison that kills its worker")
    add("--only", action="append", metavar="FAULT", help="use this fault, and no other")
    add("--folder", help="where to keep the histories; else they are kept if something is wrong")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
