"""What a server's `Retry-After` says."""

import time
from datetime import UTC
from re import compile as regex

__all__ = ["retry_after"]

_SECONDS = regex(r"\d+(\.\d+)?")


def retry_after(
    header: str | None, *, longest_s: float = 3600.0, now: float | None = None
) -> float | None:
    """Read the value of a ``Retry-After`` header, for ``Retry(after_s=...)``.

    It is a number of seconds or a date (RFC 9110, 10.2.3); fractions of seconds are taken, too.
    Gives the seconds to wait, at most `longest_s`, whatever the server says; 0 for a time gone by.
    None, for which `Retry` waits as the actor's policy says, if it is missing or neither of both.
    `now` is in seconds since the Unix epoch.
    """
    text = (header or "").strip()
    if text.isascii() and _SECONDS.fullmatch(text):
        return min(float(text), longest_s)
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        at = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return min(max(0.0, at - (time.time() if now is None else now)), longest_s)
