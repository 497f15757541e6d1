"""Text for people, who read it on a terminal."""

import time
from datetime import UTC, datetime

__all__ = ["age", "counted", "moment", "printable"]

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))
# What a message says must not command the terminal: control characters are shown by their codes.
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}


def printable(text: str) -> str:
    """Make control characters visible, beside tabs and ends of lines."""
    return text.translate(_CONTROLS)


def age(seconds: float | None) -> str | None:
    """Tell a duration in its largest unit, rounded down: ``3 min``; None stays None."""
    if seconds is None:
        return None
    for unit, length_s in _UNITS:
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def moment(at: float) -> str:
    """Tell a time of the Unix epoch, and how long ago it was."""
    iso = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return f"{iso} ({age(time.time() - at)} ago)"


def counted(number: int, noun: str) -> str:
    """Tell how many there are: ``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
