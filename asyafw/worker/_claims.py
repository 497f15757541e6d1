"""Payloads that are too large to travel in a message, kept in the blob store of the app."""

import logging

from msgspec import Raw
from msgspec.structs import replace

from asyafw._outcome import Payload
from asyafw.blobs import Blobs
from asyafw.envelope import Codec, Envelope
from asyafw.exceptions import BlobError, LimitExceeded

__all__ = ["checked_in", "checked_out", "made_smaller"]

_logger = logging.getLogger("asyafw.worker")


async def checked_in(encoded: bytes, codec: Codec, blobs: Blobs | None, actor: str) -> Payload:
    """Put a result that is too large into the store, and give a claim for it.

    Raises:
        LimitExceeded: there is no store.
        BlobError: it cannot be put there.
    """
    if blobs is None:
        raise LimitExceeded(
            f"{actor} gave {len(encoded)} bytes, more than travel in a message: "
            "give a reference to them, or set App(blobs=...)"
        )
    return Payload(Raw(codec.null), await blobs.put(encoded))


async def checked_out(envelope: Envelope, blobs: Blobs | None) -> bytes:
    """Give the payload of a message, from the store if it has a claim for it.

    Raises:
        BlobError: it cannot be fetched.
    """
    if envelope.claim is None:
        return envelope.payload
    if blobs is None:
        raise BlobError("the payload is in a store, and App(blobs=...) is not set")
    return await blobs.get(envelope.claim)


async def made_smaller(envelope: Envelope, codec: Codec, blobs: Blobs, actor: str) -> Envelope:
    """Put what siblings brought together into the store, if it can be reached."""
    try:
        claim = await blobs.put(bytes(envelope.payload))
    except BlobError as error:
        _logger.warning("a large join of %s stays in its message: %s", actor, error)
        return envelope
    return replace(envelope, payload=Raw(codec.null), claim=claim)
