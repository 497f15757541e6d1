"""What a run came to, for people and for programs."""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import to_builtins
from msgspec.json import encode

from tests.chaos.runner import Report

__all__ = ["as_line", "as_table"]

_MOST_SHOWN: Final = 10
_NAMES: Final = (
    "lost",
    "ended twice",
    "handed on twice",
    "submitted twice",
    "unexpected",
    "corrupted",
    "missing letters",
    "extra letters",
    "left over",
    "idle",
    "stuck",
    "crashed",
)


def as_table(report: Report) -> str:
    """Write a Markdown table, and below it the offending ids, if there are any."""
    rows = list(_rows(report))
    width = max(len(name) for name, _ in rows)
    lines = [f"| {name:<{width}} | {value} |" for name, value in rows]
    lines.insert(1, f"|{'-' * (width + 2)}|---|")
    for name, offenders in report.verdict.violations.items():
        lines += ["", f"{name}, {len(offenders)}:", *offenders[:_MOST_SHOWN]]
    return "\n".join(lines)


def as_line(report: Report) -> str:
    """Write one line of JSON."""
    built: dict[str, Any] = to_builtins(report)
    verdict = built["verdict"]
    verdict["violations"] = {
        name: {"count": len(offenders), "first": offenders[:_MOST_SHOWN]}
        for name, offenders in verdict["violations"].items()
    }
    return encode({"ok": not verdict["violations"], **built}).decode()


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    verdict, counts = report.verdict, report.verdict.counts
    yield "seed", str(report.request.seed)
    yield f"{report.request.workers} workers, seconds of faults", f"{report.broken_s:.0f}"
    yield "jobs acknowledged", f"{counts['acknowledged']:,}"
    yield "submissions of unknown result", f"{counts.get('unknown', 0):,}"
    yield "jobs per second", f"{report.jobs_per_s:,.0f}"
    yield "handlers run", f"{counts['runs']:,}"
    yield from ((name, f"{count:,}") for name, count in sorted(verdict.faults.items()))
    yield "ends of workers", ", ".join(f"{n} {how}" for how, n in sorted(report.exits.items()))
    yield "dead letters, all of them poison", f"{counts.get('dead letters', 0):,}"
    for name in _NAMES:
        yield name, f"{len(verdict.violations.get(name, ())):,}"
    yield "handlers that ran again", f"{verdict.reruns:.2%}"
    yield "seconds until everything was at rest", f"{report.drain_s:.1f}"
