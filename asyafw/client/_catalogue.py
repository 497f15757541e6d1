"""What a client knows of an app."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import GenericAlias, NoneType
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._signature import without
from asyafw._spelling import did_you_mean
from asyafw.blobs import Blobs
from asyafw.client._record import Result
from asyafw.envelope import DECODING_ERRORS, MSGPACK, Codec, Envelope, Limits, check_name
from asyafw.exceptions import (
    BlobError,
    ConfigurationError,
    LimitExceeded,
    PayloadError,
    UnknownActor,
    UnknownFlow,
)

__all__ = ["Catalogue"]


class Catalogue(Struct, frozen=True):
    """What a client knows of an app: its flows, its actors, and what may travel."""

    flows: Mapping[str, Sequence[str]] = {}
    actors: Mapping[str, Actor[..., Any]] = {}
    known: frozenset[str] = frozenset()
    limits: Limits = Limits()
    blobs: Blobs | None = None
    codec: Codec = MSGPACK

    def resolve(self, target: str | Sequence[str]) -> tuple[str | None, Sequence[str]]:
        """Give the flow, None for an explicit route, and the route.

        Raises:
            UnknownFlow, UnknownActor: there is no such target.
            LimitExceeded: the route is too long.
        """
        flow = target if isinstance(target, str) else None
        if flow is not None and flow not in self.flows:
            if flow in self.known:
                raise UnknownFlow(
                    f"{flow!r} is an actor and no flow: submit to the route [{flow!r}]"
                )
            raise UnknownFlow(f"there is no flow {flow!r}; {_hint(flow, self.flows)}")
        names = target if flow is None else self.flows[flow]
        if not names:
            raise ConfigurationError("a route names at least one actor")
        for name in names:
            check_name(name)
            if self.known and name not in self.known:
                raise UnknownActor(f"there is no actor {name!r}; {_hint(name, self.known)}")
        if len(names) > self.limits.route:
            raise LimitExceeded(f"the route holds more than {self.limits.route} names")
        return flow, names

    async def with_payload(self, envelope: Envelope, payload: Any) -> Envelope:
        """Give an envelope its payload, or a claim for one that is too large to travel.

        Raises:
            PayloadError: it does not match the type of the first actor.
            LimitExceeded: it is too large, and there is no store for it.
        """
        first = envelope.route.curr
        encoded = _encoded(payload, self.actors.get(first), first, self.codec)
        if len(encoded) <= self.limits.payload_bytes:
            return replace(envelope, payload=Raw(encoded))
        if self.blobs is None:
            raise LimitExceeded(
                f"the payload has {len(encoded)} bytes, more than the "
                f"{self.limits.payload_bytes} that travel in a message: "
                "submit a reference to them, or set App(blobs=...)"
            )
        return replace(envelope, claim=await self.blobs.put(encoded))

    async def decoded(self, result: Result, type_: Any) -> Any:
        """Decode a result as `type_`, or, if that is None, as its actor declares.

        Raises:
            PayloadError: it is something else.
            BlobError: it is in a store, and cannot be fetched.
        """
        raw, event = result.raw, result.event
        if event.claim is not None:
            if self.blobs is None:
                raise BlobError("the result is in a store, and App(blobs=...) is not set")
            raw = await self.blobs.get(event.claim)
        actor = self.actors.get(event.actor or "")
        return _decode(raw, result.codec, _result_types(actor) if type_ is None else (type_,))


def _hint(name: str, names: Iterable[str]) -> str:
    return did_you_mean(name, names) or f"there are {', '.join(sorted(names)) or 'none'}"


def _encoded(payload: Any, actor: Actor[..., Any] | None, name: str, codec: Codec) -> bytes:
    try:
        encoded: bytes = codec.encode(payload)
        if actor is not None:
            codec.decode(encoded, type=actor.input_type)
    except (TypeError, *DECODING_ERRORS) as error:
        raise PayloadError(f"the payload does not fit {name}: {error}") from error
    return encoded


def _result_types(actor: Actor[..., Any] | None) -> tuple[Any, ...]:
    """What a result may be: what its actor gives, or, where it gave None, what it took."""
    if actor is None:
        return (Any,)
    taken: Any = actor.input_type
    if actor.join:
        taken = GenericAlias(list, (taken | None,))
    return (without(actor.output_type, NoneType), taken, Any)


def _decode(raw: bytes, codec: Codec, types: Sequence[Any]) -> Any:
    *others, last = types
    for type_ in others:
        with suppress(*DECODING_ERRORS):
            return codec.decode(raw, type=type_)
    try:
        return codec.decode(raw, type=last)
    except DECODING_ERRORS as error:
        raise PayloadError(f"the result is something else: {error}") from error
