import io
import re
from collections.abc import Callable
from email.message import Message
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from asyafw.exceptions import Reject, Retry
from examples.image_enhancement.sources import Bounds, OpenUrl, fetch

URL = "https://example.org/photo.jpg"


def answering(body: bytes) -> OpenUrl:
    return lambda _url, _timeout_s: io.BytesIO(body)


def failing(error: Exception) -> OpenUrl:
    def open_url(_url: str, _timeout_s: float) -> io.BufferedIOBase:
        raise error

    return open_url


def status(code: int) -> HTTPError:
    return HTTPError(URL, code, "reason", Message(), None)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.jpg"
    path.write_bytes(b"0123456789")
    return path


@pytest.mark.parametrize(
    "name", [str, Path.as_uri, lambda path: path.as_uri().replace("file://", "FILE://localhost")]
)
def test_a_file_is_read_by_its_path_or_uri(photo: Path, name: Callable[[Path], str]) -> None:
    assert fetch(name(photo)) == b"0123456789"


def test_an_https_address_is_downloaded() -> None:
    asked: list[tuple[str, float]] = []

    def open_url(url: str, timeout_s: float) -> io.BufferedIOBase:
        asked.append((url, timeout_s))
        return io.BytesIO(b"1" * 200_000)

    assert fetch(URL, Bounds(seconds=7), open_url) == b"1" * 200_000
    assert asked == [(URL, 7)]


def test_a_file_may_be_as_large_as_the_bound_and_no_larger(photo: Path) -> None:
    for uri in (str(photo), URL):
        assert fetch(uri, Bounds(size_bytes=10), answering(b"0123456789")) == b"0123456789"
        with pytest.raises(Reject, match="is larger than 9 bytes"):
            fetch(uri, Bounds(size_bytes=9), answering(b"0123456789"))


def test_an_endless_answer_is_cut_off() -> None:
    class Endless(io.RawIOBase):
        def read1(self, size: int) -> bytes:
            return bytes(size)

    with pytest.raises(Reject, match="is larger than 1,000,000 bytes"):
        fetch(URL, Bounds(size_bytes=1_000_000), lambda *_: Endless())  # type: ignore[arg-type]  # no buffer


def test_a_trickle_ends_with_the_time() -> None:
    class Trickle(io.BytesIO):
        def read1(self, _size: int | None = None, /) -> bytes:
            return b"."

    with pytest.raises(Retry, match="did not arrive within 0 s"):
        fetch(URL, Bounds(seconds=0), lambda *_: Trickle())


@pytest.mark.parametrize("uri", ["http://example.org/x", "ftp://example.org/x", "s3://bucket/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(Reject, match=r"comes from a path, file:// or https://, not (http|ftp|s3)"):
        fetch(uri)


@pytest.mark.parametrize("uri", ["", "no/such/photo.jpg", "nul\0byte.jpg", "file:///no/such"])
def test_a_file_that_cannot_be_read_is_refused(uri: str) -> None:
    with pytest.raises(Reject, match="cannot be read"):
        fetch(uri)


def test_a_file_on_another_machine_is_refused() -> None:
    with pytest.raises(Reject, match="is on another machine"):
        fetch("file://server/photo.jpg")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_an_answer_that_stays_the_same_is_refused(code: int) -> None:
    with pytest.raises(Reject, match=f"{code} reason"):
        fetch(URL, open_url=failing(status(code)))


@pytest.mark.parametrize(
    "error",
    [
        status(429),
        status(500),
        status(503),
        URLError("no route"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        IncompleteRead(b""),
    ],
)
def test_what_may_pass_is_worth_another_try(error: Exception) -> None:
    with pytest.raises(Retry, match=f"^{re.escape(URL)}: "):
        fetch(URL, open_url=failing(error))


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(Reject, match="is no URL"):
        fetch("https://[broken/photo.jpg")
