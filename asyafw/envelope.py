"""The message: a route, a payload and the bookkeeping that travels with them.

An envelope is msgpack or JSON, recognised by its first byte, and keeps the codec it came with.
Its payload stays undecoded until an actor needs it.
"""

import hashlib
import secrets
import time
from functools import lru_cache
from re import compile as regex
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta, MsgspecError, Raw, Struct, ValidationError, field, json, msgpack
from msgspec.structs import fields

from asyafw.coordination import Turn
from asyafw.exceptions import (
    AsyafwError,
    ConfigurationError,
    DecodeError,
    InvalidName,
    LimitExceeded,
)

__all__ = [
    "CODECS",
    "DECODING_ERRORS",
    "JSON",
    "LONGEST_WAIT_S",
    "MSGPACK",
    "Claim",
    "Codec",
    "Count",
    "Envelope",
    "Failure",
    "Fork",
    "Id",
    "Limits",
    "Route",
    "Seconds",
    "check_name",
    "child_id",
    "codec_of",
    "decode_envelope",
    "encode_envelope",
    "is_header",
    "new_id",
]

_NAME = regex(r"[a-z0-9][a-z0-9-]{0,62}")

# Bounds for hostile bytes: what passes them can neither exhaust a worker's memory
# nor be refused for ever by a transport or a database. `Limits` holds those for hand-offs.
_LONGEST_ROUTE = 1024
_MOST_SIBLINGS = 2**20
LONGEST_WAIT_S: Final = 1e9
"""No time-out and no delay is longer, in seconds; some thirty years."""

Id: TypeAlias = Annotated[str, Meta(max_length=128)]
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]  # neither infinite nor NaN
_Attempt: TypeAlias = Annotated[int, Meta(ge=1, lt=2**31)]
_Total: TypeAlias = Annotated[int, Meta(ge=1, le=_MOST_SIBLINGS)]
_Wait: TypeAlias = Annotated[float, Meta(ge=0, le=LONGEST_WAIT_S)]
_Log: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")]


@lru_cache(maxsize=4096)
def check_name(name: str) -> str:
    """Return `name` if it can name an actor or a flow.

    Raises:
        InvalidName: it does not match ``[a-z0-9][a-z0-9-]{0,62}``.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(f"{name!r:.80} is no name: use {_NAME.pattern}")
    return name


def is_header(name: object, text: object) -> bool:
    """Tell whether a header can travel: headers map text to text."""
    return isinstance(name, str) and isinstance(text, str)


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

    Raises:
        ConfigurationError: a bound is not positive, or above what any worker takes.
    """

    hops: int = 64
    route: int = 256
    children: int = 100_000
    payload_bytes: int = 512 * 1024

    def __post_init__(self) -> None:
        for name, highest in _HIGHEST_LIMITS.items():
            if not 1 <= getattr(self, name) <= highest:
                raise ConfigurationError(f"Limits({name}=...) is between 1 and {highest}")


_HIGHEST_LIMITS = {
    "hops": 2**31 - 1,
    "route": _LONGEST_ROUTE,
    "children": _MOST_SIBLINGS,
    "payload_bytes": 2**31 - 1,
}


class Route(Struct, frozen=True):
    """Where a message was, is, and will go."""

    curr: str
    next: tuple[str, ...] = ()
    prev: tuple[str, ...] = ()

    def advance(self) -> "Route":
        """Move on to the next actor.

        Raises:
            IndexError: nobody is next.
        """
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
    attempts: Count = 1
    traceback: str = ""


class Fork(Struct, frozen=True, omit_defaults=True):
    """The place of a message among the siblings of one fan-out.

    The siblings meet at actor `at` as parts of `join` and go on to `next` from there,
    as the message that they came from, whose own parent is `parent`.
    Where no actor ahead joins, `gather` is true: the actor that fanned out counts them home.
    """

    join: Id
    index: Count
    total: _Total
    at: str
    timeout_s: _Wait
    parent: Id | None = None
    next: tuple[str, ...] = ()
    gather: bool = False


class Claim(Struct, frozen=True):
    """A reference to a payload kept in the blob store.

    `sha256` is in hexadecimal digits, `size_bytes` the encoded payload's length.
    """

    key: Annotated[str, Meta(max_length=1024)]
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, Meta(ge=0, lt=2**50)]


class Envelope(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A message on its way.

    Times are seconds since the Unix epoch.
    `hops` counts hand-offs, `attempt` the runs of the present hop, from 1.
    `reply` names the log that gets the job's events.
    `joined` marks the meeting of a fan-out: the payload is an array of its siblings' payloads,
    null for each that is in `failures` by its index.
    `turns` are what the message has got from rate limits for the present hop, by their keys.
    `extra` holds the fields beside these that this version does not know; they travel on.
    """

    id: Id
    job: Id
    route: Route
    payload: Raw
    v: Count = 1
    parent: Id | None = None
    headers: dict[str, str] = {}
    flow: str | None = None
    created_at: Seconds = 0
    enqueued_at: Seconds = 0
    deadline_at: Seconds | None = None
    hops: Count = 0
    attempt: _Attempt = 1
    reply: _Log | None = None
    forks: tuple[Fork, ...] = ()
    joined: bool = False
    failures: dict[Count, Failure] = {}
    claim: Claim | None = None
    error: Failure | None = None
    turns: dict[str, Turn] = {}
    # On the way out it never has this name; what has it on the way in is one more unknown field.
    extra: Annotated[dict[str, Raw], Meta(min_length=1)] = field(default={}, name="")


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


MSGPACK: Final = Codec(
    "msgpack", msgpack.Encoder().encode, msgpack.decode, msgpack.Decoder, null=b"\xc0"
)
JSON: Final = Codec("json", json.Encoder().encode, json.decode, json.Decoder, null=b"null")
CODECS: Final = {codec.name: codec for codec in (MSGPACK, JSON)}
DECODING_ERRORS: Final = (MsgspecError, RecursionError, ValueError, OverflowError)
"""What a codec raises for bytes that it cannot decode as a type.

Deep nesting, bad UTF-8 and numbers beyond all bounds escape msgspec's own errors.
"""

_ENVELOPE_DECODERS = {codec.name: codec.decoder(Envelope) for codec in CODECS.values()}
_FIELDS = frozenset(f.encode_name for f in fields(Envelope)) - {""}
_JSON_START = frozenset(b"{ \t\r\n")


def codec_of(body: bytes) -> Codec:
    """Tell the codec of an encoded object by its first byte."""
    return JSON if body and body[0] in _JSON_START else MSGPACK


def encode_envelope(envelope: Envelope, codec: Codec) -> bytes:
    """Encode an envelope whose payload is already in that codec."""
    encoded: bytes = codec.encode(envelope)
    if envelope.extra:
        known = codec.decode(encoded, type=dict[str, Raw])
        del known[""]
        unknown = {name: raw for name, raw in envelope.extra.items() if name not in _FIELDS}
        encoded = codec.encode(unknown | known)
    return encoded


def decode_envelope(body: bytes) -> tuple[Envelope, Codec]:
    """Decode an envelope, leaving its payload undecoded.

    Raises:
        DecodeError: whatever else these bytes are.
    """
    codec = codec_of(body)
    try:
        envelope = _decode(body, codec)
        _check(envelope)
    except (AsyafwError, *DECODING_ERRORS) as error:
        raise DecodeError(f"not an envelope: {error}") from error
    return envelope, codec


def _decode(body: bytes, codec: Codec) -> Envelope:
    decode = _ENVELOPE_DECODERS[codec.name].decode
    try:
        envelope: Envelope = decode(body)
    except ValidationError:
        pass
    else:
        if not envelope.extra:
            return envelope
    found: dict[str, Raw] = codec.decode(body, type=dict[str, Raw])
    sorted_out: dict[str, Any] = {name: raw for name, raw in found.items() if name in _FIELDS}
    if unknown := {name: raw for name, raw in found.items() if name not in _FIELDS}:
        sorted_out[""] = unknown
    envelope = decode(codec.encode(sorted_out))
    return envelope  # noqa: RET504 — it has a type now


def _check(envelope: Envelope) -> None:
    _check_route(envelope.route)
    if envelope.flow is not None:
        check_name(envelope.flow)
    for fork in envelope.forks:
        if fork.index >= fork.total:
            raise LimitExceeded(f"number {fork.index} of {fork.total} siblings, counted from 0")
        check_name(fork.at)
        _check_names(fork.next)


@lru_cache(maxsize=512)
def _check_route(route: Route) -> None:
    check_name(route.curr)
    _check_names(route.next)
    _check_names(route.prev)


def _check_names(names: tuple[str, ...]) -> None:
    if len(names) > _LONGEST_ROUTE:
        raise LimitExceeded(f"its route holds more than {_LONGEST_ROUTE} names")
    for name in names:
        check_name(name)
