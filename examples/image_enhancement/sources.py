"""Get the bytes of a photo from a path or a URI, within bounds."""

import io
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TypeAlias, cast
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

from msgspec import Struct

from asyafw.exceptions import Reject, Retry

__all__ = ["BOUNDS", "Bounds", "OpenUrl", "fetch"]

OpenUrl: TypeAlias = Callable[[str, float], io.BufferedIOBase]
"""Opens an https URL for reading; no wait on its socket is longer than that many seconds."""

_CHUNK_BYTES = 64 * 1024
_MAY_PASS = {408, 425, 429}


class Bounds(Struct, frozen=True):
    """How much a photo may ask for: bytes of its file, pixels of its picture, seconds to arrive."""

    size_bytes: int = 50_000_000
    pixels: int = 25_000_000
    seconds: float = 30.0


BOUNDS = Bounds()


def fetch(uri: str, bounds: Bounds = BOUNDS, open_url: OpenUrl | None = None) -> bytes:
    """Read what is at a path, a ``file://`` URI or an ``https://`` URI.

    It blocks: call it in a thread.

    Raises:
        Reject: there is no such file, it is too large, or the scheme is another one.
        Retry: the server or the network failed in a way that may pass.
    """
    scheme, _, rest = uri.partition("://")
    if not rest:
        return _read(uri, bounds)
    match scheme.lower():
        case "https":
            return _download(uri, bounds, open_url or _open_https)
        case "file":
            return _read(_path_of(uri), bounds)
        case _:
            raise Reject(f"{uri}: a photo comes from a path, file:// or https://, not {scheme}://")


def _path_of(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise Reject(f"{uri}: is on another machine; file:///PATH has three slashes")
    return unquote(parts.path)


def _read(path: str, bounds: Bounds) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return _bounded(file.read(bounds.size_bytes + 1), path, bounds)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise Reject(f"{path}: cannot be read: {reason}") from error


def _download(uri: str, bounds: Bounds, open_url: OpenUrl) -> bytes:
    ends_at = time.monotonic() + bounds.seconds
    data = bytearray()
    try:
        with open_url(uri, bounds.seconds) as response:
            # read1() returns with what has come, so that a trickle does not outlast the bound.
            while chunk := response.read1(_CHUNK_BYTES):
                data += chunk
                if len(data) > bounds.size_bytes:
                    break
                if time.monotonic() > ends_at:
                    raise Retry(f"{uri}: did not arrive within {bounds.seconds:g} s")
    except HTTPError as error:
        error.close()
        outcome = Retry if error.code >= 500 or error.code in _MAY_PASS else Reject
        raise outcome(f"{uri}: {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise Retry(f"{uri}: {error}") from error
    except ValueError as error:
        raise Reject(f"{uri}: is no URL: {error}") from error
    return _bounded(bytes(data), uri, bounds)


def _open_https(url: str, timeout_s: float) -> io.BufferedIOBase:
    """Open a URL, following redirects as long as they are https too."""
    opener = OpenerDirector()
    for handler in (HTTPSHandler, HTTPRedirectHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler):
        opener.add_handler(handler())
    request = Request(url, headers={"User-Agent": "asyafw-example"})  # noqa: S310 — https is all it can open
    return cast("io.BufferedIOBase", opener.open(request, timeout=timeout_s))


def _bounded(data: bytes, name: str, bounds: Bounds) -> bytes:
    if len(data) > bounds.size_bytes:
        raise Reject(f"{name}: is larger than {bounds.size_bytes:,} bytes")
    return data
