"""What a delivery holds."""

from typing import Any

from msgspec import Struct

from asyafw._actor import Actor
from asyafw._forks import joined, met
from asyafw.blobs import Blobs
from asyafw.envelope import Codec, Envelope, decode_envelope
from asyafw.transport import Delivery
from asyafw.worker._claims import checked_out

__all__ = ["Arrived", "opened"]


class Arrived(Struct, frozen=True):
    """A message as it came, at its delivery number `deliveries`.

    `gathers` counts the siblings of a meeting whose actor only gathers them; else it is 0.
    """

    envelope: Envelope
    codec: Codec
    deliveries: int
    gathers: int = 0


async def opened(delivery: Delivery, actor: Actor[..., Any], blobs: Blobs | None) -> Arrived:
    """Read the message, and what its siblings brought if it is a join.

    Raises:
        DecodeError: there is no envelope.
        BlobError: what a sibling brought cannot be fetched.
    """
    message, parts, deliveries = delivery.message, delivery.parts, delivery.attempt
    if parts is None:
        return Arrived(*decode_envelope(message.body), deliveries)
    meeting = met(message, parts, actor)
    if meeting is None:
        return Arrived(*decode_envelope(parts[0] or b""), deliveries)
    envelope, codec, siblings, gathers = meeting
    if gathers:
        return Arrived(envelope, codec, deliveries, len(siblings))
    items = [None if s is None else await checked_out(s, blobs) for s in siblings]
    return Arrived(joined(envelope, codec, items), codec, deliveries)
