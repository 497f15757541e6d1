from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from asyafw.envelope import CODECS, JSON, MSGPACK, Claim, Codec, Failure, check_name
from asyafw.events import (
    CONTROL,
    DEAD_LETTERS,
    EVENTS,
    Cancel,
    Event,
    Kind,
    append,
    decode_cancel,
    decode_event,
    job_of,
)
from asyafw.exceptions import DecodeError, InvalidName
from asyafw.transport import Append
from tests.unit import hostile
from tests.unit.making import both_codecs

READERS: list[Callable[[bytes], object]] = [decode_event, decode_cancel, job_of]
MINIMAL: dict[str, Any] = {"kind": "accepted", "job": "j1", "id": "m1", "at": 1.5}

all_readers = pytest.mark.parametrize("read", READERS)
codecs = st.sampled_from([*CODECS.values()])
ids = st.text(max_size=128)
counts = st.integers(0, 2**31 - 1)
seconds = st.floats(0, 1e12)


@st.composite
def events(draw: st.DrawFn, codec: Codec) -> Event:
    failures = st.builds(Failure, st.text(), st.text(), st.text(), counts, st.text())
    payloads = st.none() | st.text() | st.integers(0, 9) | st.lists(st.booleans())
    return Event(
        kind=draw(st.sampled_from(get_args(Kind))),
        job=draw(ids),
        id=draw(ids),
        at=draw(seconds),
        flow=draw(st.none() | st.text()),
        actor=draw(st.none() | st.text()),
        hop=draw(counts),
        attempt=draw(counts),
        enqueued_at=draw(seconds),
        started_at=draw(seconds),
        next=draw(st.lists(st.text(), max_size=3).map(tuple)),
        children=draw(st.none() | counts),
        path=draw(st.lists(counts, max_size=3).map(tuple)),
        fraction=draw(st.none() | st.floats(0, 1)),
        message=draw(st.none() | st.text()),
        payload=draw(st.just(UNSET) | payloads.map(lambda value: Raw(codec.encode(value)))),
        claim=draw(st.none() | st.just(Claim("j1/m1", "0" * 64, 600_000))),
        error=draw(st.none() | failures),
    )


@given(st.data(), codecs)
def test_an_event_comes_back_as_it_was(data: st.DataObject, codec: Codec) -> None:
    event = data.draw(events(codec))

    body = append(event, codec).body

    assert decode_event(body) == event
    assert job_of(body) == event.job


@both_codecs
def test_the_result_null_is_not_the_lack_of_a_result(codec: Codec) -> None:
    without = Event(kind="succeeded", job="j1", id="m1", at=1.5, children=3)
    null = Event(kind="succeeded", job="j1", id="m1", at=1.5, payload=Raw(codec.null))

    assert decode_event(append(without, codec).body).payload is UNSET
    assert decode_event(append(null, codec).body).payload == Raw(codec.null)


@both_codecs
@given(job=ids)
def test_a_cancellation_comes_back_as_it_was(codec: Codec, job: str) -> None:
    assert decode_cancel(codec.encode(Cancel(job))) == Cancel(job)


@pytest.mark.parametrize(("log", "appended"), [(None, "asyafw.events"), ("replies", "replies")])
def test_events_go_to_one_log_unless_another_is_named(log: str | None, appended: str) -> None:
    event = Event(kind="started", job="j1", id="m1", at=1.5)

    assert append(event, JSON, log) == Append(appended, JSON.encode(event))


@pytest.mark.parametrize("name", [EVENTS, CONTROL, DEAD_LETTERS])
def test_no_actor_can_have_the_name_of_a_queue_or_log_of_asyafws_own(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_job_ends_by_success_failure_or_cancellation(kind: Kind) -> None:
    event = Event(kind=kind, job="j1", id="m1", at=1.5)

    assert event.ends_job == (kind in {"succeeded", "failed", "cancelled"})


@both_codecs
def test_fields_that_an_event_does_not_know_are_ignored(codec: Codec) -> None:
    body = codec.encode({"later": [1]} | MINIMAL | {"": None})

    assert decode_event(body) == Event(kind="accepted", job="j1", id="m1", at=1.5)


@all_readers
@given(body=st.binary())
def test_no_bytes_raise_anything_but_decode_error(
    read: Callable[[bytes], object], body: bytes
) -> None:
    assert_reads_or_is_refused(read, body)


@all_readers
@given(data=st.data(), codec=codecs)
def test_no_damaged_entry_raises_anything_but_decode_error(
    read: Callable[[bytes], object], data: st.DataObject, codec: Codec
) -> None:
    entries = events(codec) | st.builds(Cancel, ids)

    body = data.draw(hostile.mutated(entries.map(codec.encode)))

    assert_reads_or_is_refused(read, body)


def assert_reads_or_is_refused(read: Callable[[bytes], object], body: bytes) -> None:
    with suppress(DecodeError):
        read(body)


HOSTILE = {
    **dict(hostile.values()),
    **dict(hostile.bodies("kind", "job", "payload", "cancel", "later")),
}


@all_readers
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused(read: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(DecodeError, match="not an entry of this log: "):
        read(body)


@pytest.mark.parametrize("field", ["payload", "later"])
@pytest.mark.parametrize(
    ("codec", "deep"), [(MSGPACK, hostile.DEEP_MSGPACK), (JSON, hostile.DEEP_JSON)], ids=CODECS
)
def test_deep_nesting_is_refused_in_fields_that_stay_undecoded(
    codec: Codec, deep: bytes, field: str
) -> None:
    body = codec.encode(MINIMAL | {field: Raw(deep)})

    with pytest.raises(DecodeError):
        decode_event(body)
    with pytest.raises(DecodeError):
        job_of(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "vanished"),
        ("kind", None),
        ("job", 1),
        ("job", "x" * 129),
        ("id", "x" * 129),
        ("at", float("nan")),
        ("at", float("inf")),
        ("at", -1),
        ("enqueued_at", float("nan")),
        ("started_at", 1e13),
        ("hop", 2**31),
        ("hop", -1),
        ("attempt", 2**63),
        ("children", -1),
        ("path", [2**31]),
        ("path", 1),
        ("next", "judge"),
        ("error", {}),
        ("claim", {"key": "j1/m1", "sha256": "0", "size_bytes": 1}),
    ],
)
def test_a_value_beyond_its_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(DecodeError):
        decode_event(MSGPACK.encode(MINIMAL | {field: value}))
