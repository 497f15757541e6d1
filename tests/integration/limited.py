"""When limited messages ran, and what became of them."""

import time
from collections import Counter

from asyafw.coordination._turns import LATE_US
from asyafw.worker import Worker

# What a busy machine may add between the moment of the decision and that of the start.
_NOISE_S = 0.3


class Starts:
    """The times at which handlers began."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.numbers: list[int] = []

    def note(self, number: int) -> int:
        self.times.append(time.monotonic())
        self.numbers.append(number)
        return number

    def keep_to(self, rate: float, burst: int = 1) -> None:
        """Check that no two of them are closer than the rate allows, nor the whole much slower."""
        times = sorted(self.times)
        slack_s = LATE_US / 1e6 + _NOISE_S + (burst - 1) / rate
        for first, begun in enumerate(times):
            for last in range(first + 1, len(times)):
                assert times[last] - begun >= (last - first) / rate - slack_s
        assert times[-1] - times[0] <= (len(times) - burst) / rate + 2


def outcomes(actor: str, *workers: Worker) -> Counter[str]:
    """Count what has become of the messages of an actor in all workers."""
    counted = Counter[str]()
    for worker in workers:
        counted.update(worker.metrics.actor(actor).outcomes)
    return counted
