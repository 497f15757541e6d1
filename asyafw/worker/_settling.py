"""How a delivery is settled or given back, through whatever happens to the connection."""

import logging
from collections.abc import Sequence

from asyafw._backoff import back_off
from asyafw.exceptions import TransportClosed, TransportError
from asyafw.transport import Delivery, Out

__all__ = ["release", "settle"]

_logger = logging.getLogger("asyafw.worker")


async def settle(delivery: Delivery, out: Sequence[Out], actor: str) -> bool | None:
    """Settle; while it is unknown whether that happened, do it again.

    Meanwhile the slot is taken, and the result is not computed a second time.
    Gives False if somebody else has the message, None if the transport was closed.

    Raises:
        ValueError: what is to be emitted makes no sense to the transport.
    """
    failures = 0
    while True:
        try:
            return await delivery.settle(*out)
        except TransportClosed:
            return None
        except TransportError as error:
            failures += 1
            await back_off(failures, f"{actor} cannot settle a message", error)


async def release(delivery: Delivery, actor: str) -> None:
    """Hand a message back; if that fails it comes back by itself, later."""
    try:
        await delivery.release()
    except TransportError as error:
        _logger.warning("cannot release a message of %s: %s", actor, error)
