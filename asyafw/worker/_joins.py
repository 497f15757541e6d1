"""What the parts of a completed join are."""

from typing import Any

from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._forks import joined, met
from asyafw.blobs import Blobs
from asyafw.envelope import Codec, Envelope, Failure, decode_envelope
from asyafw.exceptions import BlobError, BlobUnavailable
from asyafw.transport import Delivery
from asyafw.worker._claims import checked_out

__all__ = ["open_join"]


async def open_join(
    delivery: Delivery, actor: Actor[..., Any], blobs: Blobs | None
) -> tuple[Envelope, Codec, int]:
    """Make one message of the parts.

    The number is that of its siblings if they are only gathered, which no handler sees; else 0.
    A sibling whose payload is gone or damaged counts as missing.

    Raises:
        DecodeError: no part is an envelope.
        BlobUnavailable: what a sibling brought cannot be fetched now.
    """
    parts = [*(delivery.parts or ())]
    meeting = met(delivery.message, parts, actor)
    if meeting is None:
        return *decode_envelope(parts[0] or b""), 0
    envelope, codec, siblings, gathers = meeting
    if gathers:
        return envelope, codec, len(siblings)
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
    return joined(envelope, codec, items), codec, 0
