"""Bytes that attack a decoder."""

from collections.abc import Callable, Iterator

from hypothesis import strategies as st
from msgspec import json, msgpack

DEPTH = 100_000
DEEP_MSGPACK = b"\x91" * DEPTH + b"\xc0"
DEEP_JSON = b"[" * DEPTH + b"]" * DEPTH

_HEADERS = {
    "a huge string": b"\xdb\xff\xff\xff\xff",
    "huge bytes": b"\xc6\xff\xff\xff\xff",
    "a huge array": b"\xdd\xff\xff\xff\xff",
    "a huge map": b"\xdf\xff\xff\xff\xff",
    "a huge extension": b"\xc9\xff\xff\xff\xff\x01",
    "a reserved byte": b"\xc1",
    "bad UTF-8": b"\xa2\xff\xfe",
    "half a surrogate pair": b"\xa3\xed\xa0\x80",
    "deep nesting": DEEP_MSGPACK,
    "deep maps": b"\x81\xa1a" * DEPTH + b"\xc0",
}
_TEXTS = {
    "a number of many digits": b"9" * 5_000,
    "a number beyond all floats": b"1e999",
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "half a surrogate pair": b'"\\ud800"',
    "bad UTF-8": b'"\xff\xfe"',
    "an open string": b'"',
    "deep nesting": DEEP_JSON,
    "deep maps": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
}


def values() -> Iterator[tuple[str, bytes]]:
    """What may stand in place of an encoded object or one of its fields, named."""
    yield from _HEADERS.items()
    yield from _TEXTS.items()


def msgpack_object(key: str, value: bytes) -> bytes:
    return b"\x81" + msgpack.encode(key) + value


def json_object(key: str, value: bytes) -> bytes:
    return b"{" + json.encode(key) + b":" + value + b"}"


def bodies(*keys: str) -> Iterator[tuple[str, bytes]]:
    """Objects of which one field is hostile, named."""
    for key in keys:
        for name, value in _HEADERS.items():
            yield f"msgpack {key}: {name}", msgpack_object(key, value)
        for name, value in _TEXTS.items():
            yield f"json {key}: {name}", json_object(key, value)


def mutated(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Valid bytes of which a few were changed, taken out or put in."""
    return valid.flatmap(lambda body: st.lists(_edits(len(body)), max_size=4).map(_applied(body)))


def _edits(length: int) -> st.SearchStrategy[tuple[int, int, bytes]]:
    return st.tuples(st.integers(0, length), st.integers(0, 4), st.binary(max_size=4))


def _applied(body: bytes) -> Callable[[list[tuple[int, int, bytes]]], bytes]:
    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = body
        for start, removed, inserted in edits:
            changed = changed[:start] + inserted + changed[start + removed :]
        return changed

    return apply
