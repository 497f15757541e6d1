"""The message: a route, a payload and the bookkeeping that travels with them.

An envelope is msgpack or JSON, recognised by its first byte, and keeps the codec it came with.
Its payload stays undecoded until an actor needs it.
"""

import hashlib
import secrets
import time
from functools import lru_cache
from re import compile as regex
from typing import Annotated, Any, Final

from msgspec import Meta, MsgspecError, Raw, Struct, ValidationError, field, json, msgpack
from msgspec.structs import fields

from asyafw.exceptions import AsyafwError, DecodeError, InvalidName, LimitExceeded

__all__ = [
    "CODECS",
    "JSON",
    "MSGPACK",
    "Claim",
    "Codec",
    "Envelope",
    "Failure",
    "Fork",
    "Limits",
    "Route",
    "check_name",
    "child_id",
    "codec_of",
    "decode_envelope",
    "encode_envelope",
    "new_id",
]

_NAME = regex(r"[a-z0-9][a-z0-9-]{0,62}")
_LONGEST_ROUTE = 1024  # a bound for hostile bytes; `Limits.route` is the one for hand-offs
_Count = Annotated[int, Meta(ge=0, le=2**31)]


@lru_cache(maxsize=4096)
def check_name(name: str) -> str:
    """Return `name` if it can name an actor or a flow.

    Raises:
        InvalidName: it does not match ``[a-z0-9][a-z0-9-]{0,62}``.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(f"{name[:80]!r} is no name: use {_NAME.pattern}")
    return name


def new_id() -> str:
    """Make an id of 32 hexadecimal digits that sorts by its time of creation to the millisecond."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def child_id(parent: str, hops: int, actor: str, index: int) -> str:
    """Derive the id of a message that `actor` made from its `parent`.

    The same hand-off gives the same id, so that a repeated one is recognisable;
    `hops` keeps apart two visits of one message to the same actor.
    """
    seed = f"{parent}/{hops}/{actor}/{index}".encode()
    return hashlib.blake2b(seed, digest_size=16).hexdigest()


class Limits(Struct, frozen=True):
    """Bounds that no message passes.

    `hops` is how often a message may be handed on, `route` how many names its route may hold,
    `children` how many messages one fan-out may make,
    `payload_bytes` the encoded size above which a payload needs a claim check.
    """

    hops: int = 64
    route: int = 256
    children: int = 100_000
    payload_bytes: int = 512 * 1024


class Route(Struct, frozen=True):
    """Where a message was, is, and will go."""

    curr: str
    next: tuple[str, ...] = ()
    prev: tuple[str, ...] = ()

    def advance(self) -> "Route":
        """Move on to the next actor."""
        return Route(self.next[0], self.next[1:], (*self.prev, self.curr))

    def prepend(self, *names: str) -> "Route":
        """Visit `names` before the rest."""
        return self.replace(*names, *self.next)

    def append(self, *names: str) -> "Route":
        """Visit `names` after the rest."""
        return self.replace(*self.next, *names)

    def replace(self, *names: str) -> "Route":
        """Visit `names` instead of the rest."""
        return Route(self.curr, names, self.prev)

    def stop(self) -> "Route":
        """Visit nobody else."""
        return self.replace()


class Failure(Struct, frozen=True, omit_defaults=True):
    """Why a message gave up.

    `type` is the exception's qualified name; `attempts` counts the runs of the handler.
    """

    type: str
    message: str
    actor: str
    attempts: int = 1
    traceback: str = ""


class Fork(Struct, frozen=True, omit_defaults=True):
    """The place of a message among the siblings of one fan-out.

    The siblings meet at actor `at` as parts of `join` and go on to `next` from there.
    Where no actor ahead joins, `gather` is true: the actor that fanned out counts them home.
    """

    join: str
    index: int
    total: int
    at: str
    timeout_s: float
    next: tuple[str, ...] = ()
    gather: bool = False


class Claim(Struct, frozen=True):
    """A reference to a payload kept in the blob store.

    `sha256` is in hexadecimal digits, `size_bytes` the encoded payload's length.
    """

    key: str
    sha256: str
    size_bytes: int


class Envelope(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A message on its way.

    Times are seconds since the Unix epoch.
    `hops` counts hand-offs, `attempt` the runs of the present hop that failed or were retried, from 1.
    `reply` names the log that gets the job's events.
    `joined` marks the meeting of a fan-out: the payload is an array of its siblings' payloads,
    null for each that is in `failures` by its index.
    `extra` holds the fields that this version does not know; they travel on.
    """

    id: str
    job: str
    route: Route
    payload: Raw
    v: _Count = 1
    parent: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    flow: str | None = None
    created_at: float = 0
    enqueued_at: float = 0
    deadline_at: float | None = None
    hops: _Count = 0
    attempt: _Count = 1
    reply: str | None = None
    forks: tuple[Fork, ...] = ()
    joined: bool = False
    failures: dict[int, Failure] = field(default_factory=dict)
    claim: Claim | None = None
    error: Failure | None = None
    extra: dict[str, Raw] = field(default_factory=dict, name="")


class Codec(Struct, frozen=True):
    """One of the two encodings of envelopes, payloads and events."""

    name: str
    encode: Any
    decode: Any
    decoder: Any
    null: bytes

    def array(self, items: list[bytes]) -> bytes:
        """Make an encoded array of encoded items."""
        raws = [Raw(item) for item in items]
        encoded: bytes = self.encode(raws)
        return encoded


MSGPACK: Final = Codec("msgpack", msgpack.Encoder().encode, msgpack.decode, msgpack.Decoder, b"\xc0")
JSON: Final = Codec("json", json.Encoder().encode, json.decode, json.Decoder, b"null")
CODECS: Final = {codec.name: codec for codec in (MSGPACK, JSON)}

_ENVELOPE_DECODERS = {codec.name: codec.decoder(Envelope) for codec in CODECS.values()}
_FIELDS = frozenset(f.encode_name for f in fields(Envelope)) - {""}
_JSON_START = frozenset(b"{ \t\r\n")


def codec_of(body: bytes) -> Codec:
    """Tell the codec of an encoded object by its first byte."""
    return JSON if body[:1] and body[0] in _JSON_START else MSGPACK


def encode_envelope(envelope: Envelope, codec: Codec) -> bytes:
    """Encode an envelope whose payload is already in that codec."""
    encoded: bytes
    if envelope.extra:
        known = codec.decode(codec.encode(envelope), type=dict[str, Raw])
        known.pop("")
        encoded = codec.encode(envelope.extra | known)
    else:
        encoded = codec.encode(envelope)
    return encoded


def decode_envelope(body: bytes) -> tuple[Envelope, Codec]:
    """Decode an envelope, leaving its payload undecoded.

    Raises:
        DecodeError: whatever else these bytes are.
    """
    codec = codec_of(body)
    try:
        try:
            envelope: Envelope = _ENVELOPE_DECODERS[codec.name].decode(body)
        except ValidationError:
            envelope = _decode_with_unknown_fields(body, codec)
        _check(envelope)
    # Deep nesting and bad UTF-8 escape msgspec's own errors.
    except (AsyafwError, MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise DecodeError(f"not an envelope: {error}") from error
    return envelope, codec


def _decode_with_unknown_fields(body: bytes, codec: Codec) -> Envelope:
    found: dict[str, Raw] = codec.decode(body, type=dict[str, Raw])
    known = {name: raw for name, raw in found.items() if name in _FIELDS}
    unknown = {name: raw for name, raw in found.items() if name not in _FIELDS and name}
    envelope: Envelope = _ENVELOPE_DECODERS[codec.name].decode(codec.encode(known | {"": unknown}))
    return envelope


def _check(envelope: Envelope) -> None:
    route = envelope.route
    if len(route.next) + len(route.prev) > _LONGEST_ROUTE:
        raise LimitExceeded(f"its route holds more than {_LONGEST_ROUTE} names")
    check_name(route.curr)
    for name in route.next:
        check_name(name)
