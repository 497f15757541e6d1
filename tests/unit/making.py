"""Messages, runs of handlers and their results, and what has become of them."""

from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from asyafw._actor import Actor
from asyafw._outcome import Outcome, Payload, Step
from asyafw.envelope import CODECS, MSGPACK, Claim, Codec, Envelope, Route, decode_envelope
from asyafw.events import Event, decode_event
from asyafw.transport import Append, Send

both_codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

CLAIM = Claim("j1/m1", "0" * 64, 600_000)
ENVELOPE = Envelope(
    id="m1",
    job="j1",
    route=Route("judge", ("publish",), ("enhance",)),
    payload=Raw(MSGPACK.encode("photo")),
    parent="m0",
    headers={"tenant": "acme"},
    flow="photos",
    created_at=1.0,
    enqueued_at=2.0,
    deadline_at=100.0,
    hops=3,
    attempt=2,
    reply="replies",
    extra={"later": Raw(MSGPACK.encode(5))},
)


def step(
    envelope: Envelope, by: Actor[..., Any], *, codec: Codec = MSGPACK, **changes: Any
) -> Step:
    """A run of the handler that began at 10 and was over at 12."""
    route, headers, attempt = envelope.route, envelope.headers, envelope.attempt
    return replace(Step(envelope, codec, by, route, headers, attempt, 10.0, 12.0), **changes)


def result(value: Any = "photo 2", codec: Codec = MSGPACK) -> Payload:
    return Payload(Raw(codec.encode(value)))


def messages(outcome: Outcome) -> list[Envelope]:
    return [
        decode_envelope(out.message.body if isinstance(out, Send) else out.body)[0]
        for out in outcome.out
        if not isinstance(out, Append)
    ]


def events(outcome: Outcome) -> list[Event]:
    return [decode_event(out.body) for out in outcome.out if isinstance(out, Append)]
