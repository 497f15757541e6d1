import importlib.util
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

from asyafw.blobs import Blobs
from asyafw.envelope import Claim
from asyafw.exceptions import BlobError, BlobUnavailable, ConfigurationError
from asyafw.retry import RetryPolicy

DATA = b"a payload too large for a message"
STORES = ["file", "memory", "s3"]


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server with a bucket called "payloads"."""
    missing = [name for name in ("moto", "flask", "flask_cors") if not _has(name)]
    if missing:
        reason = f"its S3 server needs {', '.join(missing)}: pip install --group test"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = next(line.split()[-1] for line in server.stderr if "Running on http:" in line)
            httpx.put(f"{url}/payloads").raise_for_status()
            yield url
        finally:
            server.terminate()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a user of S3, but for the endpoint."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


@pytest.fixture
def s3(s3_server: str, aws: pytest.MonkeyPatch) -> Blobs:
    aws.setenv("AWS_ENDPOINT_URL", s3_server)
    return Blobs("s3://payloads/large")


@pytest.fixture(params=STORES)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        found: Blobs = request.getfixturevalue("s3")
        return found
    return Blobs("memory:///" if request.param == "memory" else f"file://{tmp_path}/large")


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def claim_of(data: bytes, key: str = "aa/none") -> Claim:
    return Claim(key=key, sha256=sha256(data).hexdigest(), size_bytes=len(data))


@pytest.mark.parametrize("data", [b"", DATA, bytes(6_000_000)], ids=len)
async def test_what_was_put_comes_back(blobs: Blobs, data: bytes) -> None:
    claim = await blobs.put(data)

    assert claim == claim_of(data, claim.key)
    assert await blobs.get(claim) == data


async def test_putting_again_gives_the_same_claim(blobs: Blobs) -> None:
    first = await blobs.put(DATA)

    again = await blobs.put(DATA)

    assert again == first
    assert await blobs.get(first) == DATA


async def test_different_payloads_have_different_keys(blobs: Blobs) -> None:
    assert (await blobs.put(b"one")).key != (await blobs.put(b"two")).key


async def test_what_was_never_put_is_not_found_for_good(blobs: Blobs) -> None:
    with pytest.raises(BlobError, match=r"blob aa/none cannot be fetched: .*not found") as caught:
        await blobs.get(claim_of(DATA))

    assert not caught.value.transient
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size_bytes", [len(DATA) - 1, len(DATA) + 1])
async def test_a_blob_of_another_size_than_claimed_is_refused(
    blobs: Blobs, size_bytes: int
) -> None:
    claim = await blobs.put(DATA)

    with pytest.raises(BlobError, match=f"has 33 bytes; its claim says {size_bytes}"):
        await blobs.get(Claim(claim.key, claim.sha256, size_bytes))


async def test_a_blob_of_another_content_than_claimed_is_refused(blobs: Blobs) -> None:
    claim = await blobs.put(DATA)

    with pytest.raises(BlobError, match="another sha256"):
        await blobs.get(claim_of(DATA.upper(), claim.key))


async def test_putting_again_mends_a_damaged_blob(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    claim = await blobs.put(DATA)
    (tmp_path / claim.key).write_bytes(DATA.upper())

    await blobs.put(DATA)

    assert await blobs.get(claim) == DATA


async def test_blobs_of_one_folder_are_seen_by_all_who_open_it(tmp_path: Path) -> None:
    claim = await Blobs(f"file://{tmp_path}").put(DATA)

    assert await Blobs(f"file://{tmp_path}").get(claim) == DATA


@pytest.mark.parametrize(
    "key",
    [
        "",
        "..",
        "../secret",
        "aa/../../secret",
        "/etc/passwd",
        "aa//b",
        ".hidden",
        "aa/",
        "a\0b",
        "ä",
    ],
)
async def test_a_key_that_leads_elsewhere_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    blobs = Blobs(f"file://{tmp_path}/large")

    with pytest.raises(BlobError, match="is no key of a blob"):
        await blobs.get(claim_of(DATA, key))


async def test_large_data_does_not_keep_the_event_loop_waiting() -> None:
    blobs = Blobs("memory:///")
    done = anyio.Event()
    turns = 0

    async def put() -> None:
        await blobs.put(bytes(32_000_000))
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put)
        while not done.is_set():
            await checkpoint()
            turns += 1

    assert turns > 10


@pytest.fixture
def nobody() -> Iterator[socket.socket]:
    """An address at which connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_store_that_is_away_is_worth_another_attempt(
    aws: pytest.MonkeyPatch, nobody: socket.socket
) -> None:
    aws.setenv("AWS_ENDPOINT_URL", address(nobody))
    nobody.close()
    blobs = Blobs("s3://payloads/large")

    with pytest.raises(BlobUnavailable, match="blob aa/none cannot be fetched: ") as fetched:
        await blobs.get(claim_of(DATA))
    with pytest.raises(BlobUnavailable, match="a blob of 33 bytes cannot be kept: ") as kept:
        await blobs.put(DATA)

    for caught in (fetched, kept):
        assert caught.value.__cause__ is not None
        assert RetryPolicy().delay_s(caught.value, attempt=1, random=0) is not None


async def test_giving_up_does_not_wait_for_the_store(
    aws: pytest.MonkeyPatch, nobody: socket.socket
) -> None:
    aws.setenv("AWS_ENDPOINT_URL", address(nobody))
    blobs = Blobs("s3://payloads/large")

    with anyio.move_on_after(0.05) as scope:
        await blobs.get(claim_of(DATA))

    assert scope.cancelled_caught


@pytest.fixture
def no_rights(s3: Blobs, s3_server: str) -> Iterator[Blobs]:
    """A store whose server does not know its credentials."""
    rights = f"{s3_server}/moto-api/reset-auth"
    httpx.post(rights, content=b"0").raise_for_status()
    yield s3
    httpx.post(rights, content=b"inf").raise_for_status()


async def test_wrong_credentials_are_final(no_rights: Blobs) -> None:
    with pytest.raises(BlobError, match="cannot be kept: check the credentials") as caught:
        await no_rights.put(DATA)

    assert not caught.value.transient


async def test_a_bucket_that_does_not_exist_is_final(
    s3_server: str, aws: pytest.MonkeyPatch
) -> None:
    aws.setenv("AWS_ENDPOINT_URL", s3_server)

    with pytest.raises(BlobError, match="not found") as caught:
        await Blobs("s3://elsewhere").put(DATA)

    assert not caught.value.transient


@pytest.mark.parametrize(
    "url", ["", "large", "/var/lib/large", "s3://", "file://large", "ftp://host/x", "memory://x"]
)
def test_a_url_that_names_no_store_says_what_would(url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{url}.* names no blob store") as caught:
        Blobs(url)

    assert "file:///folder, s3://bucket/prefix" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_a_wrong_url(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="names no blob store"):
        Blobs(f"file://{tmp_path}/file/large")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/prefix",
        "s3://AKIA:hunt/er2@bucket",
        "https://user:hunter2@host/bucket",
        "s3://bucket?secret_access_key=hunter2",
        "abfs://container:hunter2@account/folder",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="leave them to the environment") as caught:
        Blobs(url)

    told = "".join(traceback.format_exception(caught.value, limit=0))
    assert "hunt" not in told


def test_an_at_sign_may_stand_in_a_place(tmp_path: Path) -> None:
    Blobs(f"file://{tmp_path}/a@b")
    Blobs("abfs://container@account.dfs.core.windows.net/folder")


ALONE = """
import sys
from asyafw.blobs import Blobs
from asyafw.exceptions import MissingExtra

assert "obstore" not in sys.modules
sys.modules["obstore"] = None  # as where it is not installed
try:
    Blobs("memory:///")
except MissingExtra as error:
    assert "asyafw[blobs]" in str(error)
else:
    raise AssertionError
"""


def test_without_obstore_only_a_store_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
