"""What is measured, and how: each workload gives figures by their names."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from tests.bench.redis.job import SLOTS, Job
from tests.bench.redis.meter import Begun, Done, Ready
from tests.bench.redis.process import Contestant
from tests.bench.redis.watch import Server
from tests.servers.redis import DURABLE, redis_server

__all__ = ["WORKLOADS", "Figures", "Run", "Workload"]

Figures: TypeAlias = Mapping[str, float]

_CHAIN: Final = ("first", "second", "third")
_FEWEST: Final = 1_000
_MOST: Final = 100_000
_PAUSE_S: Final = 0.05
_EVERY_S: Final = 0.02
_SETTLED_S: Final = 2.0


class Run(Struct):
    """One contestant on one server, and how long a measurement should take.

    `rates` keeps what it did per second before, by workload, from which follows how many messages
    it is sent the next time.
    """

    contestant: Contestant
    python: str
    server: Server
    target_s: float
    rates: dict[str, float]
    is_profiled: bool = False

    def job(
        self, steps: tuple[str, ...], count: int = 0, *, every_s: float = 0, pause_s: float = 0
    ) -> Job:
        """Describe what the contestant is to do."""
        return Job(
            self.server.url,
            steps,
            count=count,
            warm_up=max(1, count // 10),
            every_s=every_s,
            pause_s=pause_s,
            is_profiled=self.is_profiled,
        )


class Workload(Struct, frozen=True):
    """`measure` runs it.

    What hardly varies is run only `once`, whatever the number of rounds; what takes hardly any
    of the machine, by all contestants `together`, each with a server of its own.
    """

    name: str
    measure: Callable[[Run], Figures]
    once: bool = False
    together: bool = False
    needs_slots: bool = False


def _no_op(run: Run) -> Figures:
    return _preloaded("noop", run, ("only",))


def _chain(run: Run) -> Figures:
    return _preloaded("chain", run, _CHAIN)


def _preloaded(name: str, run: Run, steps: tuple[str, ...]) -> Figures:
    """Send messages, then start a worker; again with more of them if it took too little time."""
    count = round(run.rates.get(name, 0) * run.target_s)
    count = min(max(count, _FEWEST), _MOST)
    figures, wall_s = _once_preloaded(run, run.job(steps, count))
    is_first = name not in run.rates
    run.rates[name] = figures["per_s"]
    if is_first and wall_s < run.target_s / 2:
        return _preloaded(name, run, steps)
    return figures


def _once_preloaded(run: Run, job: Job) -> tuple[dict[str, float], float]:
    run.server.clear()
    empty = run.server.stand()
    with run.contestant.serve(run.python, job) as serving:
        run.contestant.send(run.python, job)
        queued_bytes = run.server.stand().memory_bytes - empty.memory_bytes
        serving.start()
        serving.wait_for(Begun)
        before = run.server.stand()
        done = serving.wait_for(Done)
        after = run.server.stand()
    hops = job.count * len(job.steps) - job.warm_up
    figures = {
        "per_s": hops / len(job.steps) / done.wall_s,
        "hops_per_s": hops / done.wall_s,
        "cpu_us_per_hop": done.cpu_s / hops * 1e6,
        "server_us_per_hop": (after.cpu_s - before.cpu_s) / hops * 1e6,
        "commands_per_hop": after.calls_since(before) / hops,
        "reads_per_hop": after.calls_since(before, "xreadgroup") / hops,
        "scripts_per_hop": after.calls_since(before, "evalsha") / hops,
        "resident_mb": done.resident_bytes / 1e6,
        "queued_mb_per_10k": queued_bytes / job.count * 10_000 / 1e6,
        "messages": job.count,
    }
    return figures, done.wall_s


def _io(run: Run) -> Figures:
    """Handlers that wait, in all slots: how near their number comes to what it could be."""
    ideal_per_s = SLOTS / _PAUSE_S
    job = run.job(("only",), round(ideal_per_s * max(run.target_s, 0.5)), pause_s=_PAUSE_S)
    figures, _ = _once_preloaded(run, job)
    return {
        "per_s": figures["per_s"],
        "percent_of_ideal": figures["per_s"] / ideal_per_s * 100,
        "cpu_us_per_hop": figures["cpu_us_per_hop"],
    }


def _latency(run: Run) -> Figures:
    """Messages that come one by one, from before they are sent to their handler."""
    job = run.job(("only",), round(4 * run.target_s / _EVERY_S), every_s=_EVERY_S)
    run.server.clear()
    with run.contestant.serve(run.python, job) as serving:
        serving.start()
        serving.wait_for(Ready)
        time.sleep(_SETTLED_S / 4)
        run.contestant.send(run.python, job)
        latencies_ms = [latency_s * 1e3 for latency_s in serving.wait_for(Done).latencies_s]
    percentiles = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return {"p50_ms": percentiles[49], "p99_ms": percentiles[98]}


def _idle(run: Run) -> Figures:
    """What a worker without work asks of the server, with one actor and with three."""
    figures: dict[str, float] = {}
    for steps in (_CHAIN[:1], _CHAIN):
        per_s = _commands_per_s(run, steps)
        figures[f"commands_per_s_{len(steps)}"] = sum(per_s.values())
        figures |= {f"{name}_per_s_{len(steps)}": rate for name, rate in per_s.items() if rate}
    return figures


def _commands_per_s(run: Run, steps: tuple[str, ...]) -> Figures:
    with redis_server(*DURABLE) as started:
        server = Server(started)
        job = replace(run.job(steps), url=server.url)
        with run.contestant.serve(run.python, job) as serving:
            serving.start()
            serving.wait_for(Ready)
            time.sleep(_SETTLED_S)
            before, began_s = server.stand(), time.perf_counter()
            time.sleep(8 * run.target_s)
            after, elapsed_s = server.stand(), time.perf_counter() - began_s
    return {name: after.calls_since(before, name) / elapsed_s for name in after.commands}


WORKLOADS: Final = (
    Workload("noop", _no_op),
    Workload("chain", _chain),
    Workload("io", _io, once=True, needs_slots=True),
    Workload("latency", _latency, once=True),
    Workload("idle", _idle, once=True, together=True),
)
