"""Servers that speak TLS: whom one trusts, who one is, and what is said where that fails."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyafw_redis import from_url
from msgspec import Struct

from asyafw.exceptions import ConfigurationError, TransportUnavailable
from tests.integration.whole_job import app, do_everything
from tests.servers.certificates import Authority
from tests.servers.redis import DURABLE, RedisServer, free_port, redis_server

TIMEOUT_S = 1.0


class Secure(Struct):
    """A server with a port in the clear, one for TLS and one for TLS with certificates of both."""

    server: RedisServer
    port: int
    folder: Path

    def url(self, *options: str, host: str = "localhost") -> str:
        files = (f"ca_file={self.folder}/authority.pem", f"timeout_s={TIMEOUT_S}")
        return f"rediss://{host}:{self.port}?{'&'.join((*files, *options))}"

    def login(self, name: str) -> str:
        return f"cert_file={self.folder}/{name}.pem&key_file={self.folder}/{name}.key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: the server's for one of its names, a client's, and some of somebody else's."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    authority.issue("server", "DNS:localhost")
    authority.issue("client")
    Authority(folder, "other").issue("stranger", "DNS:localhost")
    return folder


def start(folder: Path, clients: str, program: str = "redis-server") -> Iterator[Secure]:
    port = free_port()
    options = (
        *(*DURABLE, "--tls-port", str(port), "--tls-auth-clients", clients),
        *("--tls-ca-cert-file", str(folder / "authority.pem")),
        *("--tls-cert-file", str(folder / "server.pem")),
        *("--tls-key-file", str(folder / "server.key")),
    )
    with redis_server(*options, program=program) as server:
        yield Secure(server, port, folder)


@pytest.fixture(scope="module", params=["redis-server", "valkey-server"])
def either(request: pytest.FixtureRequest, folder: Path) -> Iterator[Secure]:
    yield from start(folder, "yes", request.param)


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Secure]:
    yield from start(folder, "no")


@pytest.fixture(scope="module")
def mutual(folder: Path) -> Iterator[Secure]:
    yield from start(folder, "yes")


async def opens(url: str) -> None:
    async with from_url(url) as transport:
        assert (await transport.lag("q")).backlog == 0


async def problem(url: str) -> str:
    """Tell what is said, soon, of a server that cannot be reached."""
    began = time.monotonic()
    with pytest.raises(TransportUnavailable) as caught:
        async with from_url(url):
            pass
    assert time.monotonic() - began < TIMEOUT_S + 1
    return str(caught.value)


async def test_an_app_runs_with_certificates_of_both(either: Secure) -> None:
    url = either.url(either.login("client"))

    await do_everything(app.worker(url), app.connect(url), from_url(url))


async def test_one_trusts_the_authority_that_is_named(secure: Secure) -> None:
    await opens(secure.url())


async def test_the_certificate_of_another_authority_is_refused(secure: Secure) -> None:
    told = await problem(secure.url().replace("authority.pem", "other.pem"))

    assert told.startswith(
        f"Redis at localhost:{secure.port} cannot be reached by TLS: its certificate is not valid: "
    )


async def test_without_a_file_the_authorities_of_the_system_count(
    secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"rediss://localhost:{secure.port}?timeout_s=1"

    told = await problem(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.folder / "authority.pem"))

    assert "its certificate is not valid" in told
    await opens(url)


async def test_with_a_file_those_of_the_system_do_not_count(
    secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.folder / "authority.pem"))

    told = await problem(secure.url().replace("authority.pem", "other.pem"))

    assert "its certificate is not valid" in told


async def test_the_name_of_the_host_counts_unless_told_otherwise(secure: Secure) -> None:
    told = await problem(secure.url(host="127.0.0.1"))

    assert told.startswith(f"Redis at 127.0.0.1:{secure.port} cannot be reached by TLS: ")
    assert "mismatch" in told
    assert "127.0.0.1" in told
    await opens(secure.url("verify=ca", host="127.0.0.1"))


async def test_the_authority_counts_without_the_name(secure: Secure) -> None:
    url = secure.url("verify=ca", host="127.0.0.1").replace("authority.pem", "other.pem")

    assert "its certificate is not valid" in await problem(url)


async def test_any_certificate_will_do_if_one_says_so(secure: Secure) -> None:
    await opens(f"rediss://127.0.0.1:{secure.port}?verify=none")


@pytest.mark.parametrize("login", [None, "stranger"])
async def test_a_client_without_a_good_certificate_is_told(
    mutual: Secure, login: str | None
) -> None:
    told = await problem(mutual.url(*(() if login is None else (mutual.login(login),))))

    assert f"Redis at localhost:{mutual.port} cannot be reached" in told
    assert "our certificate, or that we have none" in told


async def test_a_certificate_and_its_key_may_be_in_one_file(mutual: Secure, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("".join((mutual.folder / f"client.{e}").read_text() for e in ("pem", "key")))

    await opens(mutual.url(f"cert_file={both}"))


async def test_a_certificate_that_was_replaced_is_used_for_the_next_connection(
    mutual: Secure, tmp_path: Path
) -> None:
    file = tmp_path / "both.pem"
    for name in ("stranger", "client"):
        (tmp_path / name).write_text(
            "".join((mutual.folder / f"{name}.{e}").read_text() for e in ("pem", "key"))
        )
    (tmp_path / "client").replace(file)

    async with from_url(mutual.url(f"cert_file={file}")) as transport:
        (tmp_path / "stranger").replace(file)
        with pytest.raises(TransportUnavailable, match="cannot be reached"):
            async with transport.consume("q"):
                pass


async def test_plain_text_to_a_port_for_tls_is_told(secure: Secure) -> None:
    told = await problem(f"redis://localhost:{secure.port}?timeout_s={TIMEOUT_S}")

    assert told.startswith(f"Redis at localhost:{secure.port} cannot be reached: ")
    assert "if its port speaks TLS, write rediss://" in told


async def test_tls_to_a_port_in_plain_text_is_told(secure: Secure) -> None:
    told = await problem(f"rediss://localhost:{secure.server.port}?timeout_s={TIMEOUT_S}")

    assert told.startswith(f"Redis at localhost:{secure.server.port} ")
    assert "TLS" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("ca_file={}/server.key", "ca_file={}/server.key holds no certificate in PEM"),
        ("cert_file={}/client.pem", "do not hold a certificate and its key, in PEM"),
        ("cert_file={0}/client.pem&key_file={0}/server.key", "do not hold a certificate and its"),
        ("cert_file={0}/client.pem&key_file={0}/no.key", "key_file={}/no.key cannot be read: No"),
    ],
)
def test_files_that_do_not_hold_what_they_should_are_told_at_once(
    folder: Path, options: str, told: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_url(f"rediss://localhost?{options.format(folder)}")

    assert told.format(folder) in str(caught.value)


def test_nobody_is_asked_for_the_password_of_a_key(folder: Path) -> None:
    encrypt = "openssl ec -in client.key -aes256 -passout pass:hush -out locked.key"
    subprocess.run(encrypt.split(), cwd=folder, check=True, capture_output=True)

    with pytest.raises(ConfigurationError, match="in PEM and not encrypted"):
        from_url(f"rediss://localhost?cert_file={folder}/client.pem&key_file={folder}/locked.key")
