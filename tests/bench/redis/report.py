"""The results as JSON lines, and as tables of Markdown."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import json

from tests.bench.redis.workloads import Figures

__all__ = ["Report"]

# Of these more is better, of all others less.
_RATES: Final = ("per_s", "hops_per_s", "percent_of_ideal")
_OURS: Final = "asyafw-jobs"
_COLUMNS: Final = (
    ("no-op/s", "noop", "per_s", "{:,.0f}"),
    ("CPU µs", "noop", "cpu_us_per_hop", "{:.1f}"),
    ("server µs", "noop", "server_us_per_hop", "{:.1f}"),
    ("3-step hops/s", "chain", "hops_per_s", "{:,.0f}"),
    ("CPU µs per hop", "chain", "cpu_us_per_hop", "{:.1f}"),
    ("server µs per hop", "chain", "server_us_per_hop", "{:.1f}"),
    ("50 ms waits, % of ideal", "io", "percent_of_ideal", "{:.1f}"),
    ("p50 ms", "latency", "p50_ms", "{:.2f}"),
    ("p99 ms", "latency", "p99_ms", "{:.2f}"),
    ("idle commands/s, 1 actor", "idle", "commands_per_s_1", "{:.1f}"),
    ("3 actors", "idle", "commands_per_s_3", "{:.1f}"),
    ("worker MB", "noop", "resident_mb", "{:.0f}"),
    ("server MB per 10k", "noop", "queued_mb_per_10k", "{:.1f}"),
)
_COMPARED: Final = ("noop", "chain")


class Report:
    """Gathers figures of rounds."""

    def __init__(self) -> None:
        self.versions: dict[str, Mapping[str, str]] = {}
        self._rounds: dict[tuple[str, str], list[Figures]] = defaultdict(list)

    def add(self, contestant: str, workload: str, figures: Figures) -> None:
        """Take in the figures of one round."""
        self._rounds[workload, contestant].append(figures)

    def write(self) -> None:
        """Write one JSON line for each result, then the tables."""
        for (workload, contestant), rounds in self._rounds.items():
            line = {
                "bench": f"redis.{workload}",
                "contestant": contestant,
                "rounds": len(rounds),
                "best": _rounded(_best(rounds)),
                "median": _rounded(_median(rounds)),
                "versions": self.versions.get(contestant, {}),
            }
            sys.stdout.write(json.encode(line).decode() + "\n")
        sys.stdout.write("\nBest of the rounds, and the median of a rate in brackets.\n\n")
        _write_table(self._table())
        if any((workload, _OURS) in self._rounds for workload in _COMPARED):
            sys.stdout.write(f"\n{_OURS} as a multiple of others.\n\n")
            _write_table(self._ratios())

    def _names(self) -> list[str]:
        return list(dict.fromkeys(contestant for _, contestant in self._rounds))

    def _table(self) -> list[list[str]]:
        shown = [c for c in _COLUMNS if any(workload == c[1] for workload, _ in self._rounds)]
        rows = [["", *(title for title, *_ in shown)]]
        for name in self._names():
            row = [name]
            for _, workload, figure, form in shown:
                rounds = self._rounds.get((workload, name))
                row.append(_cell(rounds, figure, form) if rounds else "–")
            rows.append(row)
        return rows

    def _ratios(self) -> list[list[str]]:
        rows = [["", *(f"{w}: {what}" for w in _COMPARED for what in ("rate", "CPU"))]]
        for name in self._names():
            row = [name]
            for workload in _COMPARED:
                ours, theirs = (self._rounds.get((workload, n)) for n in (_OURS, name))
                for figure in ("per_s", "cpu_us_per_hop"):
                    ratio = _best(ours)[figure] / _best(theirs)[figure] if ours and theirs else 0
                    row.append(f"{ratio:.2f}×" if ratio else "–")
            rows.append(row)
        return rows


def _cell(rounds: Sequence[Figures], figure: str, form: str) -> str:
    best = form.format(_best(rounds)[figure])
    if figure not in _RATES or len(rounds) == 1:
        return best
    return f"{best} ({form.format(_median(rounds)[figure])})"


def _best(rounds: Sequence[Figures]) -> Figures:
    return {
        name: (max if name in _RATES else min)(figures[name] for figures in rounds)
        for name in rounds[0]
    }


def _median(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def _rounded(figures: Figures) -> Figures:
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def _write_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * max(3, width) for width in widths]
    for row in (rows[0], rule, *rows[1:]):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
