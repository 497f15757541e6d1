"""The wait before a transport that failed is asked again."""

import logging
from random import random

import anyio

from asyafw.exceptions import TransportError
from asyafw.retry import exponential

__all__ = ["back_off"]

_PAUSE_S = exponential(0.1)
_LONGEST_PAUSE_S = 10.0

_logger = logging.getLogger("asyafw.worker")


async def back_off(failures: int, problem: str, error: TransportError) -> None:
    """Log what cannot be done, and wait; longer after each failure in a row."""
    pause_s = min(_PAUSE_S(failures), _LONGEST_PAUSE_S) * (0.5 + random() / 2)  # noqa: S311 — no secret
    _logger.warning("%s, again in %.1f s: %s", problem, pause_s, error)
    await anyio.sleep(pause_s)
