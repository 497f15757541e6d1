"""Whose turn it is under a rate limit; pure.

The decision is the generic cell rate algorithm in its form of virtual scheduling
(ATM Forum, Traffic Management 4.0, 4.4.2; https://brandur.org/rate-limiting explains it):
a limit is one number, the time at which the next message is due, which each message moves on.
Here it is two such numbers. Who comes first gets a place at the *end of the line*,
and returns when that place is due. Then it passes the *gate*, which is the limit:
the line only spreads those who wait, so that they do not all come back at once, to be refused.
Who is late, because no worker had time for it, finds the gate free or waits for its next opening;
those behind it wait as long, and nobody goes through sooner than the limit allows.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

__all__ = ["EARLY_US", "LATE_US", "Line", "Pace", "Turn", "Wait", "forget_line_at", "take_turn"]

EARLY_US: Final = 1_000
"""A message may come so much before its turn, as clocks and queues are rounded."""

LATE_US: Final = 100_000
"""A message may come so late and still take its turn, as queues are not exact."""


class Pace(Struct, frozen=True):
    """How fast messages may follow each other.

    After this message the next is due `step_us` microseconds later;
    one may be up to `ahead_us` microseconds ahead of when it is due, which allows bursts.
    """

    step_us: int
    ahead_us: int = 0


class Turn(Struct, frozen=True, omit_defaults=True):
    """When a message may run, in microseconds since the Unix epoch.

    It is `sure` once the message has passed the gate: then nobody else has that place.
    """

    at_us: Annotated[int, Meta(ge=0, lt=2**53)]
    sure: bool = False


class Wait(Struct, frozen=True):
    """A turn, and the coordinator's time."""

    turn: Turn
    now_us: int

    @property
    def us(self) -> int:
        """How many microseconds the turn is away; 0 if it has come."""
        away_us = self.turn.at_us - self.now_us
        return away_us if away_us > EARLY_US else 0


class Line(Struct, frozen=True):
    """When the next place at the end of the line is due, and when the gate next opens."""

    end_us: int = 0
    gate_us: int = 0


def take_turn(
    line: Line, now_us: int, pace: Pace, turn: Turn | None, within_us: int | None
) -> tuple[Line, Wait]:
    """Decide when a message may run, be it its first call or with the `turn` that it got then.

    Gives the line as it is afterwards.
    A turn more than `within_us` microseconds away is told and not taken.
    """
    if turn is not None and _stands(turn, now_us):
        return line, Wait(turn, now_us)
    end, gate = line.end_us, line.gate_us
    due = max(end, gate) if turn is None else gate
    at = max(now_us, due - pace.ahead_us)
    sure = turn is not None or at - now_us <= EARLY_US
    if turn is None:
        end = max(now_us, due) + pace.step_us
    if sure:
        gate = max(now_us - LATE_US, gate) + pace.step_us
    wait = Wait(Turn(at, sure), now_us)
    if within_us is not None and wait.us > within_us:
        return line, wait
    return Line(end, gate), wait


def _stands(turn: Turn, now_us: int) -> bool:
    """Tell if a turn has not come, or is to be taken as it is."""
    return now_us < turn.at_us - EARLY_US or (turn.sure and now_us <= turn.at_us + LATE_US)


def forget_line_at(line: Line) -> int:
    """Tell from when on a line is as good as a new one."""
    return max(line.end_us, line.gate_us) + LATE_US
