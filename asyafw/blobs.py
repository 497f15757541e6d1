"""The claim-check store: payloads too large for a message stay in a folder or an object store."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from re import compile as regex
from typing import TYPE_CHECKING, Any, Final

from anyio import CapacityLimiter, to_thread

from asyafw.envelope import Claim
from asyafw.exceptions import BlobError, BlobUnavailable, ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Blobs"]

_FORMS: Final = "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
# What `Blobs.put` makes, and what other versions might: no "..", nothing hidden, nothing empty.
_KEY = regex(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
# Together with the time-outs of a request, a store that is away is noticed within half a minute.
_MAX_RETRIES = 3
_RETRY_TIMEOUT = timedelta(seconds=20)
_AT_ONCE = 32


class Blobs:
    """Payloads in a store, each under a key made of its content.

    `url` names a folder, ``file:///var/lib/blobs``, or a bucket, ``s3://bucket/prefix``,
    or another place that `obstore <https://developmentseed.org/obstore>`_ knows.
    ``memory:///`` lives in this object alone, for tests.
    Endpoints and credentials come from the environment, by the names that the store's own tools
    use: ``AWS_ENDPOINT_URL``, ``AWS_ALLOW_HTTP``, ``AWS_ACCESS_KEY_ID``, …

    Nothing is ever deleted. Let the store expire what is older than the longest job:
    a payload that is put again counts as new.

    Raises:
        ConfigurationError: the URL names no store.
        MissingExtra: obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        self._store = _open(url)
        # obstore's own coroutines make a process that ends soon afterwards abort now and then:
        # https://github.com/PyO3/pyo3-async-runtimes/issues/40
        # In a thread, moreover, the hash of large data does not keep the event loop waiting.
        self._threads = CapacityLimiter(_AT_ONCE)

    async def put(self, data: bytes) -> Claim:
        """Keep a payload; putting it again changes nothing but its age.

        Raises:
            BlobUnavailable: the store cannot be reached.
            BlobError: it refuses.
        """
        return await to_thread.run_sync(
            self._put, data, abandon_on_cancel=True, limiter=self._threads
        )

    async def get(self, claim: Claim) -> bytes:
        """Fetch the payload that a claim stands for.

        Raises:
            BlobUnavailable: the store cannot be reached.
            BlobError: it has no such blob, or one of another size or content.
        """
        if not _KEY.fullmatch(claim.key):
            raise BlobError(f"{claim.key[:80]!r} is no key of a blob")
        return await to_thread.run_sync(
            self._get, claim, abandon_on_cancel=True, limiter=self._threads
        )

    def _put(self, data: bytes) -> Claim:
        digest = hashlib.sha256(data).hexdigest()
        claim = Claim(key=f"{digest[:2]}/{digest}", sha256=digest, size_bytes=len(data))
        with _mapped(f"a blob of {len(data)} bytes cannot be kept"):
            # Not only if absent: the store would go by the old age, and expire it too soon.
            self._store.put(claim.key, data)
        return claim

    def _get(self, claim: Claim) -> bytes:
        with _mapped(f"blob {claim.key} cannot be fetched"):
            found = self._store.get(claim.key)
            size_bytes = found.meta["size"]
            if size_bytes != claim.size_bytes:
                raise BlobError(
                    f"blob {claim.key} has {size_bytes} bytes; its claim says {claim.size_bytes}"
                )
            data = bytes(found.bytes())
        if hashlib.sha256(data).hexdigest() != claim.sha256:
            raise BlobError(f"blob {claim.key} has another sha256 than its claim says")
        return data


def _open(url: str) -> "ObjectStore":
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise MissingExtra("blobs", "a blob store") from error
    options: dict[str, Any] = {"mkdir": True} if _scheme(url) == "file" else {}
    retry: Any = {"max_retries": _MAX_RETRIES, "retry_timeout": _RETRY_TIMEOUT}
    try:
        return from_url(url, retry_config=retry, **options)
    except (BaseError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"{url!r} names no blob store ({_first_line(error)}); use {_FORMS}"
        ) from error


def _scheme(url: str) -> str:
    """Give the scheme of a URL that holds nothing else than a place.

    Raises:
        ConfigurationError: it may hold credentials, which obstore would mostly pass over.
    """
    scheme, _, place = url.partition("://")
    before, at, _ = place.partition("@")
    # abfs://container@account is a place.
    is_place = scheme == "file" or (scheme in ("abfs", "abfss") and ":" not in before)
    if "?" in url or (at and not is_place):
        raise ConfigurationError(
            "the URL of a blob store holds no credentials or settings: leave them to the "
            f"environment, as AWS_ACCESS_KEY_ID or AWS_ENDPOINT_URL, and use {_FORMS}"
        )
    return scheme


@contextmanager
def _mapped(problem: str) -> Generator[None, None, None]:
    """Map what obstore raises."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise BlobError(f"{problem}: {_first_line(error)}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise BlobError(f"{problem}: check the credentials; {_first_line(error)}") from error
    except (BaseError, OSError) as error:
        raise BlobUnavailable(f"{problem}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Leave out the server's pages and obstore's own notes."""
    return str(error).partition("\n")[0]
