import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyafw._connect import GROUP, open_transport, redacted
from asyafw.envelope import JSON, MSGPACK
from asyafw.exceptions import ConfigurationError, MissingExtra, UnknownScheme
from asyafw.memory import MemoryTransport
from asyafw.transport import Transport

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package with one module that declares a transport, both named by the scheme."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def installed(scheme: str, source: str) -> None:
        info = tmp_path / f"{scheme}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {scheme}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{scheme} = {scheme}:from_url\n")
        (tmp_path / f"{scheme}.py").write_text(source)

    yield installed
    for name in set(sys.modules) - before:
        del sys.modules[name]


RECORDS = """
from asyafw.memory import MemoryTransport

def from_url(url):
    transport = MemoryTransport()
    transport.url = url
    return transport
"""


def url_of(transport: Any) -> str:
    """What the transport of `RECORDS` was made from."""
    url: str = transport.url
    return url


def message_of(where: Any, error: type[ConfigurationError] = ConfigurationError) -> str:
    with pytest.raises(error) as caught:
        open_transport(where)
    return str(caught.value)


def test_memory_is_a_transport_like_any_other() -> None:
    transport, codec = open_transport("memory://test-connect")

    assert isinstance(transport, MemoryTransport)
    assert codec is MSGPACK


def test_a_transport_is_taken_as_it_is() -> None:
    transport: Transport = MemoryTransport()

    assert open_transport(transport) == (transport, MSGPACK)


@pytest.mark.parametrize("value", [None, 6379, b"redis://localhost"])
def test_what_is_neither_url_nor_transport_is_refused(value: Any) -> None:
    assert f"not a {type(value).__name__}" in message_of(value)


def test_a_transport_of_another_package_is_found(install: Install) -> None:
    install("quark", RECORDS)

    transport, codec = open_transport("quark://host/1?depth=3")

    assert url_of(transport) == "quark://host/1?depth=3"
    assert codec is MSGPACK


def test_schemes_have_no_case(install: Install) -> None:
    install("quark", RECORDS)

    assert url_of(open_transport("QUARK://host").transport) == "QUARK://host"


def test_only_the_transport_of_the_url_is_imported(install: Install) -> None:
    install("quark", RECORDS)
    install("lepton", "raise RuntimeError")

    open_transport("quark://host")

    assert "quark" in sys.modules
    assert "lepton" not in sys.modules


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        ("quark://host?codec=json", "quark://host"),
        ("quark://a,b:1/x?codec=json&y=%20&z", "quark://a,b:1/x?y=%20&z"),
        ("quark://host?y=1&codec=json", "quark://host?y=1"),
        ("quark://u:p%3F@host?y=codec=1&codec=json&z=2", "quark://u:p%3F@host?y=codec=1&z=2"),
    ],
)
def test_the_codec_is_taken_out_of_the_url(install: Install, url: str, rest: str) -> None:
    install("quark", RECORDS)

    transport, codec = open_transport(url)

    assert url_of(transport) == rest
    assert codec is JSON


def test_msgpack_can_be_asked_for(install: Install) -> None:
    install("quark", RECORDS)

    assert open_transport("quark://host?codec=msgpack").codec is MSGPACK


@pytest.mark.parametrize("options", ["codec=xml", "codec=", "codec", "codec=json&codec=json"])
def test_a_bad_codec_is_refused(options: str) -> None:
    told = message_of(f"memory://user:hunter2@x?{options}")

    assert "codec is one of msgpack, json, not" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "redis", "://host", "redis:/host", "a b://c"]
)
def test_a_url_without_a_scheme_is_refused(url: str) -> None:
    assert f"{url!r} is no transport's URL: it begins with a scheme" in message_of(url)


@pytest.mark.parametrize("url", ["user:hunter2@localhost", "user:hunter2@redis://localhost"])
def test_credentials_without_a_scheme_are_not_repeated(url: str) -> None:
    assert "hunter2" not in message_of(url)


def test_an_unknown_scheme_tells_which_there_are(install: Install) -> None:
    install("quark", RECORDS)

    told = message_of("amqp://user:hunter2@host", UnknownScheme)

    assert "no transport has the scheme 'amqp'; there are " in told
    assert {"kafka", "memory", "quark", "redis"} <= set(told.partition("there are ")[2].split(", "))
    assert "hunter2" not in told


def test_an_unknown_scheme_tells_the_nearest() -> None:
    assert message_of("reddis://host", UnknownScheme).endswith("; did you mean 'redis'?")


def test_a_missing_extra_passes_through(install: Install) -> None:
    missing = (
        "from asyafw.exceptions import MissingExtra\n"
        "def from_url(url):\n"
        "    raise MissingExtra('quark', 'quark://')\n"
    )
    install("quark", missing)

    assert "pip install 'asyafw[quark]'" in message_of("quark://host", MissingExtra)


@pytest.mark.parametrize("source", ["import no_such_client", "from_uri = 1"])
def test_a_broken_transport_is_told(install: Install, source: str) -> None:
    install("quark", source)

    told = message_of("quark://host")

    assert told.startswith("the transport of 'quark', quark:from_url, cannot be imported: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0?y=1", "redis://localhost:6379/0?y=1"),
        ("redis://user:hunter2@host/0", "redis://***@host/0"),
        ("redis://:hun@ter/2?x@host/0", "redis://***@host/0"),
        ("redis://hunter2@host", "redis://***@host"),
        ("rediss://hunter2\n@host", "rediss://***@host"),
        ("user:hunter2@host", "***@host"),
        ("kafka://h?sasl_password=hunter2&x=1", "kafka://h?sasl_password=***&x=1"),
        ("kafka://h?x=1&API-Key=hunter2#f", "kafka://h?x=1&API-Key=***#f"),
        ("kafka://h?Token=hunter2&secret=hunter2", "kafka://h?Token=***&secret=***"),
        ("kafka://h?passes", "kafka://h?passes"),
        ("", ""),
    ],
)
def test_what_is_shown_of_a_url_holds_no_credentials(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_no_traceback_of_ours_holds_credentials() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_transport("memory://user:hunter2@x?codec=xml")

    assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))
