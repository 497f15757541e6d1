"""What a delivery holds."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._forks import joined, met
from asyafw.blobs import Blobs
from asyafw.envelope import Codec, Envelope, Failure, decode_envelope
from asyafw.exceptions import BlobError, BlobUnavailable
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

    A sibling whose payload is gone or damaged counts as missing.

    Raises:
        DecodeError: there is no envelope.
        BlobUnavailable: what a sibling brought cannot be fetched now.
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
    items: list[bytes | None] = []
    lost: dict[int, Failure] = {}
    for index, sibling in enumerate(siblings):
        item: bytes | None = None
        try:
            if sibling is not None:
                item = await checked_out(sibling, blobs)
        except BlobUnavailable:
            raise
        except BlobError as error:
            lost[index] = Failure(type="BlobError", message=str(error), actor=actor.name)
        items.append(item)
    if lost:
        envelope = replace(envelope, failures=envelope.failures | lost)
    return Arrived(joined(envelope, codec, items), codec, deliveries)
