"""How a delivery is settled or given back when the connection fails."""

import logging
from collections.abc import Sequence

from asyafw._backoff import back_off
from asyafw.exceptions import TransportClosed, TransportError
from asyafw.transport import Delivery, Out

__all__ = ["release", "settle_again"]

_logger = logging.getLogger("asyafw.worker")


async def settle_again(
    delivery: Delivery, out: Sequence[Out], actor: str, error: TransportError
) -> bool | None:
    """Settle what could not be settled because of `error`, until it is known to be.

    Meanwhile the slot is taken, and the result is not computed a second time.
    Gives False if somebody else has the message, or an earlier try was not in vain,
    and None if the transport was closed.
    """
    failures = 0
    while not isinstance(error, TransportClosed):
        failures += 1
        await back_off(failures, f"{actor} cannot settle a message", error)
        try:
            return await delivery.settle(*out)
        except TransportError as another:
            error = another
    return None


async def release(delivery: Delivery, actor: str) -> None:
    """Hand a message back; if that fails it comes back by itself, later."""
    try:
        await delivery.release()
    except TransportError as error:
        _logger.warning("cannot release a message of %s: %s", actor, error)
