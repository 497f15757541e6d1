import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from asyafw.envelope import (
    CODECS,
    DECODING_ERRORS,
    JSON,
    LONGEST_WAIT_S,
    MSGPACK,
    Claim,
    Codec,
    Envelope,
    Failure,
    Fork,
    Limits,
    Route,
    check_name,
    child_id,
    codec_of,
    decode_envelope,
    encode_envelope,
    is_header,
    new_id,
)
from asyafw.exceptions import ConfigurationError, DecodeError, InvalidName
from tests.unit import hostile
from tests.unit.making import both_codecs

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
KNOWN = {
    *("id", "job", "route", "payload", "v", "parent", "headers", "flow", "created_at"),
    *("enqueued_at", "deadline_at", "hops", "attempt", "reply", "forks", "joined", "failures"),
    *("claim", "error"),
}
ROUTE: dict[str, Any] = {"curr": "judge", "next": [], "prev": []}
MINIMAL: dict[str, Any] = {"id": "m1", "job": "j1", "route": ROUTE, "payload": None}
FORK: dict[str, Any] = {"join": "f1", "index": 1, "total": 2, "at": "collect", "timeout_s": 60.0}
FAILURE: dict[str, Any] = {"type": "ValueError", "message": "no face", "actor": "judge"}
CLAIM: dict[str, Any] = {"key": "j1/m1", "sha256": "0" * 64, "size_bytes": 600_000}
MANY = ["judge"] * 1025

codecs = st.sampled_from([*CODECS.values()])
names = st.from_regex(NAME, fullmatch=True)
name_lists = st.lists(names, max_size=4).map(tuple)
ids = st.text(max_size=128)
counts = st.integers(0, 2**31 - 1)
seconds = st.floats(0, 1e12)
objects = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
failures = st.builds(
    Failure,
    type=st.text(),
    message=st.text(),
    actor=st.text(),
    attempts=counts,
    traceback=st.text(),
)


@st.composite
def forks(draw: st.DrawFn) -> Fork:
    total = draw(st.integers(1, 2**20))
    return Fork(
        join=draw(ids),
        index=draw(st.integers(0, total - 1)),
        total=total,
        at=draw(names),
        timeout_s=draw(st.floats(0, LONGEST_WAIT_S)),
        parent=draw(st.none() | ids),
        next=draw(name_lists),
        gather=draw(st.booleans()),
    )


@st.composite
def envelopes(draw: st.DrawFn, codec: Codec) -> Envelope:
    claims = st.builds(
        Claim,
        key=st.text(max_size=1024),
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        size_bytes=st.integers(0, 2**50 - 1),
    )
    return Envelope(
        id=draw(ids),
        job=draw(ids),
        route=draw(st.builds(Route, names, name_lists, name_lists)),
        payload=Raw(codec.encode(draw(objects))),
        v=draw(counts),
        parent=draw(st.none() | ids),
        headers=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        flow=draw(st.none() | names),
        created_at=draw(seconds),
        enqueued_at=draw(seconds),
        deadline_at=draw(st.none() | seconds),
        hops=draw(counts),
        attempt=draw(st.integers(1, 2**31 - 1)),
        reply=draw(st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", fullmatch=True)),
        forks=draw(st.lists(forks(), max_size=2).map(tuple)),
        joined=draw(st.booleans()),
        failures=draw(st.dictionaries(counts, failures, max_size=2)),
        claim=draw(st.none() | claims),
        error=draw(st.none() | failures),
    )


def minimal(codec: Codec, **changed: Any) -> bytes:
    encoded: bytes = codec.encode(MINIMAL | changed)
    return encoded


def plain(body: bytes, codec: Codec) -> Any:
    return codec.decode(body)


@given(st.data(), codecs)
def test_an_envelope_comes_back_as_it_was(data: st.DataObject, codec: Codec) -> None:
    envelope = data.draw(envelopes(codec))

    decoded, found = decode_envelope(encode_envelope(envelope, codec))

    assert found is codec
    assert decoded == envelope


@given(objects, codecs)
def test_a_payload_is_kept_to_the_byte(payload: Any, codec: Codec) -> None:
    sent = codec.encode(payload)

    envelope, _ = decode_envelope(minimal(codec, payload=Raw(sent)))
    again, _ = decode_envelope(encode_envelope(envelope, codec))

    assert bytes(envelope.payload) == sent
    assert bytes(again.payload) == sent


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (MSGPACK, b"\xcf\x00\x00\x00\x00\x00\x00\x00\x01"),  # 1, at its longest
        (MSGPACK, b"\xc4\x03\x00\xff\xc1"),
        (MSGPACK, b"\xa2\xff\xfe"),
        (MSGPACK, b"\xd4\x05\x00"),
        (MSGPACK, b"\x82\xa1a\x01\xa1a\x02"),
        (JSON, b'{ "a" : [ 1 , 2.50 ] }'),
        (JSON, b'{"a":1,"a":2}'),
        (JSON, b'"\\u0061"'),
        (JSON, b'"\xff"'),
        (JSON, b"9" * 5_000),
    ],
)
def test_an_odd_payload_is_kept_to_the_byte(codec: Codec, payload: bytes) -> None:
    envelope, _ = decode_envelope(minimal(codec, payload=Raw(payload)))
    again, _ = decode_envelope(encode_envelope(envelope, codec))

    assert bytes(envelope.payload) == payload
    assert bytes(again.payload) == payload


@both_codecs
def test_an_envelope_says_no_more_than_it_must(codec: Codec) -> None:
    envelope = Envelope(id="m1", job="j1", route=Route("judge"), payload=Raw(codec.null))

    said = plain(encode_envelope(envelope, codec), codec)

    assert set(said) == {"id", "job", "route", "payload"}


@pytest.mark.parametrize("spaces", [b" ", b"\t", b"\r\n", b" \n\t "])
def test_json_may_begin_with_white_space(spaces: bytes) -> None:
    envelope, codec = decode_envelope(spaces + minimal(JSON))

    assert codec is JSON
    assert envelope.id == "m1"


@given(st.binary())
@example(b"")
def test_the_first_byte_tells_the_codec(body: bytes) -> None:
    assert codec_of(body) is (JSON if body[:1] in {b"{", b" ", b"\t", b"\r", b"\n"} else MSGPACK)


@both_codecs
@given(items=st.lists(objects, max_size=5))
def test_an_array_is_made_of_encoded_items(codec: Codec, items: list[Any]) -> None:
    array = codec.array([codec.encode(item) for item in items])

    assert codec.decode(array) == items
    assert array == codec.encode(items)


@both_codecs
def test_null_is_what_none_is_encoded_as(codec: Codec) -> None:
    assert codec.null == codec.encode(None)


@given(
    codec=codecs,
    unknown=st.dictionaries(st.text().filter(lambda name: name not in KNOWN), objects, min_size=1),
    data=st.data(),
)
@example(codec=MSGPACK, unknown={"": {}}, data=None)
@example(codec=MSGPACK, unknown={"": {"hops": 5}}, data=None)
@example(codec=JSON, unknown={"": [1], "later": {"": {"a": [None]}}}, data=None)
def test_unknown_fields_travel_on_wherever_they_stand(
    codec: Codec, unknown: dict[str, Any], data: st.DataObject | None
) -> None:
    known = MINIMAL | {"flow": "photos", "hops": 1, "forks": [FORK]}
    fields = [*(known | unknown).items()]
    if data is not None:
        fields = data.draw(st.permutations(fields))

    envelope, _ = decode_envelope(codec.encode(dict(fields)))
    onward = replace(envelope, hops=envelope.hops + 1)
    arrived = plain(encode_envelope(onward, codec), codec)
    again, _ = decode_envelope(encode_envelope(onward, codec))

    assert {name: codec.decode(raw) for name, raw in envelope.extra.items()} == unknown
    assert {name: value for name, value in arrived.items() if name not in KNOWN} == unknown
    assert arrived["hops"] == 2
    assert again == onward


@both_codecs
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_an_unknown_field_cannot_pass_for_a_known_one(codec: Codec, name: str) -> None:
    smuggled = minimal(codec, **{"": {name: "smuggled"}})

    envelope, _ = decode_envelope(smuggled)
    passed_on = encode_envelope(envelope, codec)

    assert plain(passed_on, codec) == plain(smuggled, codec)
    assert decode_envelope(passed_on)[0] == envelope


@both_codecs
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_extra_cannot_hold_a_known_field(codec: Codec, name: str) -> None:
    raw = Raw(codec.encode("smuggled"))
    envelope = Envelope(
        id="m1",
        job="j1",
        route=Route("judge"),
        payload=Raw(codec.null),
        extra={name: raw, "later": raw},
    )

    said = plain(encode_envelope(envelope, codec), codec)

    assert set(said) == {"id", "job", "route", "payload", "later"}
    assert said["id"] == "m1"


@pytest.mark.parametrize("later", [b"", b',"later":1'], ids=["known", "with an unknown one"])
def test_of_a_field_given_twice_the_last_counts(later: bytes) -> None:
    body = b'{"hops":1,"id":"a","id":"b","job":"j","route":{"curr":"c"},"payload":1,"payload":2,'

    envelope, _ = decode_envelope(body + b'"hops":3' + later + b"}")

    assert (envelope.id, envelope.hops, bytes(envelope.payload)) == ("b", 3, b"2")


@given(st.binary())
def test_no_bytes_raise_anything_but_decode_error(body: bytes) -> None:
    assert_decodes_or_is_refused(body)


@given(st.data(), codecs)
def test_no_damaged_envelope_raises_anything_but_decode_error(
    data: st.DataObject, codec: Codec
) -> None:
    valid = envelopes(codec).map(lambda envelope: encode_envelope(envelope, codec))

    body = data.draw(hostile.mutated(valid))

    assert_decodes_or_is_refused(body)


def assert_decodes_or_is_refused(body: bytes) -> None:
    try:
        envelope, codec = decode_envelope(body)
    except DecodeError:
        return
    assert decode_envelope(encode_envelope(envelope, codec)) == (envelope, codec)


HOSTILE = {**dict(hostile.values()), **dict(hostile.bodies("id", "route", "payload", "later", ""))}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not an envelope: "):
        decode_envelope(body)


@both_codecs
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_bytes_raise_anything_but_decoding_errors(codec: Codec, body: bytes) -> None:
    with pytest.raises(DECODING_ERRORS):
        codec.decode(body, type=Envelope)


@pytest.mark.parametrize("field", ["payload", "later"])
@pytest.mark.parametrize(
    ("codec", "deep"), [(MSGPACK, hostile.DEEP_MSGPACK), (JSON, hostile.DEEP_JSON)], ids=CODECS
)
def test_deep_nesting_is_refused_in_fields_that_stay_undecoded(
    codec: Codec, deep: bytes, field: str
) -> None:
    with pytest.raises(DecodeError):
        decode_envelope(minimal(codec, **{field: Raw(deep)}))


WRONG: list[tuple[str, Any]] = [
    ("id", 1),
    ("id", None),
    ("id", "x" * 129),
    ("job", "x" * 129),
    ("parent", "x" * 129),
    ("route", None),
    ("route", {"curr": "judge", "next": "judge"}),
    ("route", {"curr": "Judge"}),
    ("route", {"curr": "judge\n"}),
    ("route", {"curr": "x" * 64}),
    ("route", {"curr": "judge", "next": ["asyafw.control"]}),
    ("route", {"curr": "judge", "prev": [""]}),
    ("route", {"curr": "judge", "next": MANY}),
    ("route", {"curr": "judge", "prev": MANY}),
    ("v", -1),
    ("headers", {"tenant": 1}),
    ("headers", []),
    ("flow", "no flow"),
    ("created_at", -1),
    ("created_at", "now"),
    ("enqueued_at", 1e300),
    ("deadline_at", -0.1),
    ("hops", -1),
    ("hops", 2**31),
    ("hops", 2**64 - 1),
    ("hops", True),
    ("hops", 1.5),
    ("attempt", 0),
    ("reply", ""),
    ("reply", "a log"),
    ("reply", "events\n"),
    ("reply", "x" * 201),
    ("forks", [None]),
    ("forks", [FORK | {"index": -1}]),
    ("forks", [FORK | {"index": 2}]),
    ("forks", [FORK | {"index": 0, "total": 0}]),
    ("forks", [FORK | {"total": 2**20 + 1}]),
    ("forks", [FORK | {"total": 2**63}]),
    ("forks", [FORK | {"timeout_s": -1}]),
    ("forks", [FORK | {"timeout_s": 1e10}]),
    ("forks", [FORK | {"join": "x" * 129}]),
    ("forks", [FORK | {"parent": "x" * 129}]),
    ("forks", [FORK | {"at": "asyafw.dead-letters"}]),
    ("forks", [FORK | {"next": ["Judge"]}]),
    ("forks", [FORK | {"next": MANY}]),
    ("joined", 1),
    ("failures", [FAILURE]),
    ("failures", {"one": FAILURE}),
    ("failures", {-1: FAILURE}),
    ("failures", {2**31: FAILURE}),
    ("failures", {0: FAILURE | {"attempts": -1}}),
    ("claim", CLAIM | {"key": "x" * 1025}),
    ("claim", CLAIM | {"sha256": "0" * 63}),
    ("claim", CLAIM | {"sha256": "0" * 64 + "\n"}),
    ("claim", CLAIM | {"sha256": "X" * 64}),
    ("claim", CLAIM | {"size_bytes": -1}),
    ("claim", CLAIM | {"size_bytes": 2**50}),
    ("error", FAILURE | {"type": None}),
]


@both_codecs
@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_beyond_its_bounds_is_refused(codec: Codec, field: str, value: Any) -> None:
    with pytest.raises(DecodeError):
        decode_envelope(minimal(codec, **{field: value}))
    with pytest.raises(DecodeError):
        decode_envelope(minimal(codec, **{field: value, "later": 1}))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["created_at", "enqueued_at", "deadline_at", "timeout_s"])
def test_a_time_is_a_finite_number(field: str, number: float) -> None:
    changed = {"forks": [FORK | {field: number}]} if field == "timeout_s" else {field: number}

    with pytest.raises(DecodeError):
        decode_envelope(minimal(MSGPACK, **changed))


@pytest.mark.parametrize("field", ["id", "job", "route", "payload"])
def test_what_lacks_a_field_is_named_for_it(field: str) -> None:
    lacking = {name: value for name, value in MINIMAL.items() if name != field}

    with pytest.raises(DecodeError, match=f"missing required field `{field}`"):
        decode_envelope(MSGPACK.encode(lacking))


def test_a_bad_name_is_told_at_no_great_length() -> None:
    with pytest.raises(DecodeError, match="X is no name") as caught:
        decode_envelope(minimal(MSGPACK, route={"curr": "X" * 100_000}))

    assert len(str(caught.value)) < 200


@both_codecs
def test_values_at_their_bounds_are_taken(codec: Codec) -> None:
    body = minimal(
        codec,
        id="x" * 128,
        route={"curr": "x" * 63, "next": MANY[1:], "prev": MANY[1:]},
        hops=2**31 - 1,
        reply="x" * 200,
        forks=[FORK | {"index": 2**20 - 1, "total": 2**20, "timeout_s": LONGEST_WAIT_S}],
        failures={2**31 - 1: FAILURE},
        claim=CLAIM | {"size_bytes": 2**50 - 1},
    )

    envelope, _ = decode_envelope(body)

    assert envelope.hops == 2**31 - 1


def test_the_dead_letter_of_what_had_no_job_is_an_envelope() -> None:
    envelope, _ = decode_envelope(minimal(MSGPACK, job="", error=FAILURE))

    assert envelope.error == Failure("ValueError", "no face", "judge")


@given(names)
def test_a_name_that_fits_the_pattern_is_given_back(name: str) -> None:
    assert check_name(name) == name


@given(st.text() | st.text(alphabet="az09-_.AÄ\n", max_size=70))
@example("")
@example("-judge")
@example("judge\n")
@example("x" * 64)
@example("٣")
def test_a_name_that_does_not_fit_the_pattern_is_refused(name: str) -> None:
    if NAME.fullmatch(name):
        return

    with pytest.raises(InvalidName, match="is no name: use "):
        check_name(name)


def test_a_header_maps_text_to_text() -> None:
    assert is_header("tenant", "acme")
    assert not is_header("tenant", None)
    assert not is_header(5, "five")


def test_an_id_begins_with_its_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    after = time.time_ns() // 1_000_000

    assert re.fullmatch("[0-9a-f]{32}", made)
    assert before <= int(made[:12], 16) <= after


def test_ids_differ_and_sort_by_their_time() -> None:
    made = [new_id() for _ in range(10_000)]

    assert len(set(made)) == 10_000
    assert [id_[:12] for id_ in made] == sorted(id_[:12] for id_ in made)


lineages = st.tuples(
    st.text(alphabet="ab/0", max_size=3), st.integers(0, 12), names, st.integers(-1, 12)
)


@given(lineages)
def test_the_same_child_has_the_same_id(lineage: tuple[str, int, str, int]) -> None:
    made = child_id(*lineage)

    assert child_id(*lineage) == made
    assert re.fullmatch("[0-9a-f]{32}", made)


@given(lineages, lineages)
@example(("p", 1, "a", 0), ("p", 1, "a", 1))
@example(("p", 1, "a", 0), ("p", 2, "a", 0))
@example(("p", 1, "a", 0), ("p", 1, "b", 0))
@example(("p", 1, "a", 0), ("q", 1, "a", 0))
@example(("p", 1, "2", 3), ("p/1", 2, "3", 3))
@example(("p", 11, "a", 1), ("p", 1, "1a", 1))
def test_different_children_have_different_ids(
    one: tuple[str, int, str, int], other: tuple[str, int, str, int]
) -> None:
    assert (child_id(*one) == child_id(*other)) == (one == other)


@pytest.mark.parametrize("limit", ["hops", "route", "children", "payload_bytes"])
@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_a_limit_that_no_worker_could_keep_is_refused(limit: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"Limits\({limit}=...\) is between 1 and "):
        Limits(**{limit: value})


def test_what_the_widest_limits_allow_can_be_decoded() -> None:
    limits = Limits(hops=2**31 - 1, route=1024, children=2**20)
    fork = FORK | {"index": limits.children - 1, "total": limits.children}
    route = {"curr": "judge", "next": ["judge"] * limits.route}

    envelope, _ = decode_envelope(minimal(MSGPACK, hops=limits.hops, route=route, forks=[fork]))

    assert envelope.hops == limits.hops
