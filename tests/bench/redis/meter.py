"""What a worker tells of itself: one JSON line per event on its stdout."""

import cProfile
import os
import pstats
import resource
import sys
import time
from itertools import count
from pathlib import Path

from msgspec import Struct, json

from tests.bench.redis.job import Job

__all__ = ["Begun", "Done", "Event", "Meter", "Ready"]


class Ready(Struct, frozen=True, tag="ready"):
    """The worker receives."""


class Begun(Struct, frozen=True, tag="begun"):
    """The warm-up is over."""


class Done(Struct, frozen=True, tag="done"):
    """The last message was handled by the last handler; times and CPU are those since the warm-up.

    `resident_bytes` is the most memory that the process ever had.
    """

    wall_s: float
    cpu_s: float
    resident_bytes: int
    latencies_s: list[float]


Event = Ready | Begun | Done


class Meter:
    """Counts the messages that handlers have seen; after the last of all the process ends."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._last = job.count * len(job.steps)
        self._number = count(1)  # its `next` is atomic, which handlers in threads need
        self._began_s = self._began_cpu_s = 0.0
        self._latencies_s: list[float] = []
        # By CPU time: what a busy machine does in between is not the worker's.
        self._profile = cProfile.Profile(time.thread_time)

    def ready(self) -> None:
        """Say that the worker receives."""
        _tell(Ready())

    def seen(self, sent_at: float) -> None:
        """Count a message that was sent at that time and is now with a handler."""
        number, job = next(self._number), self._job
        if job.every_s and number > job.warm_up:
            self._latencies_s.append(time.monotonic() - sent_at)
        if number == job.warm_up:
            self._begin()
        elif number == self._last:
            self._end()

    def _begin(self) -> None:
        _tell(Begun())
        if self._job.is_profiled:
            self._profile.enable()
        self._began_s, self._began_cpu_s = time.perf_counter(), _cpu_s()

    def _end(self) -> None:
        wall_s, cpu_s = time.perf_counter() - self._began_s, _cpu_s() - self._began_cpu_s
        if self._job.is_profiled:
            self._profile.disable()
            pstats.Stats(self._profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
            sys.stderr.flush()
        _tell(Done(wall_s, cpu_s, _resident_bytes(), self._latencies_s))
        os._exit(0)  # how long a library takes to stop is not measured


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident_bytes() -> int:
    # Not from getrusage, which remembers the process that this one was started from.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _tell(event: Event) -> None:
    sys.stdout.buffer.write(json.encode(event) + b"\n")
    sys.stdout.buffer.flush()
