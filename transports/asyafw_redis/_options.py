"""From a URL to what it says."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from asyafw.exceptions import ConfigurationError

__all__ = ["OPTIONS", "Address", "Options", "parse"]


class Address(Struct, frozen=True):
    """A TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Options(Struct, frozen=True):
    """What a URL says, checked.

    `addresses` are those of the server, which is one, or of the Sentinels that know the
    `service`; a `path` is that of a Unix socket. What is a time has its unit in its name.
    """

    addresses: tuple[Address, ...] = ()
    path: str | None = None
    service: str | None = None
    username: str | None = None
    password: str | None = None
    db: int = 0
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: str = "full"
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    prefix: str = "asyafw"
    durability: str = "strict"
    lease_s: float = 30.0
    timeout_s: float = 5.0
    retention_s: float = 3600.0

    def __str__(self) -> str:
        """Say where the server is, without anything that is secret."""
        where = self.path or ", ".join(map(str, self.addresses))
        return f"Sentinel's {self.service!r} at {where}" if self.service else f"Redis at {where}"


def _one_of(*words: str) -> Callable[[str], str]:
    def parsed(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return parsed


def _text(text: str) -> str:
    if not text:
        raise ValueError("a text")
    return text


def _prefix(text: str) -> str:
    if not text or set(text) & set(" {}*?[]\\"):
        raise ValueError("a text without spaces, braces and what is special in a pattern")
    return text


def _seconds(least_s: float) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        problem = f"a number of seconds, from {least_s:g} to 1e9"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(problem) from None
        if not least_s <= value <= 1e9:  # noqa: PLR2004 — as the message says
            raise ValueError(problem)
        return value

    return parsed


OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "prefix": _prefix,
    "durability": _one_of("strict", "relaxed"),
    "lease_s": _seconds(0.1),
    "timeout_s": _seconds(0.1),
    "retention_s": _seconds(1),
    "ca_file": _text,
    "cert_file": _text,
    "key_file": _text,
    "verify": _one_of("full", "ca", "none"),
    "sentinel_username": _text,
    "sentinel_password": _text,
}
"""The options of the URL and what parses each; it raises ValueError with what it wants."""

_PORT, _SENTINEL_PORT = 6379, 26379
_TLS_OPTIONS = ("ca_file", "cert_file", "key_file", "verify")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


def parse(url: str) -> Options:
    """Take a URL apart.

    Raises:
        ConfigurationError: it is not one of the forms that the documentation lists.
            The message holds no password.
    """
    scheme = url.partition("://")[0].lower()
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"the {scheme}:// URL cannot be read: {error}") from error
    if parts.fragment:
        raise _problem(scheme, "it has a '#': write %23 where that is part of a password")
    user, at, hosts = parts.netloc.rpartition("@")
    username, colon, password = user.partition(":")
    tls, sentinel = scheme.startswith("rediss"), scheme.endswith("+sentinel")
    found: dict[str, Any] = {
        "tls": tls,
        "username": unquote(username) or None if at else None,
        "password": unquote(password) or None if colon else None,
    }
    if scheme == "unix":
        if hosts or not parts.path.strip("/"):
            raise _problem(scheme, "write unix:///path/to/redis.sock")
        return Options(**found, path=unquote(parts.path), **_options(scheme, parts.query, tls=tls))
    port = _SENTINEL_PORT if sentinel else _PORT
    found["addresses"] = tuple(_address(scheme, host, port) for host in hosts.split(","))
    words = [unquote(word) for word in parts.path.strip("/").split("/") if word]
    if sentinel:
        if not words:
            raise _problem(scheme, f"it lacks the service's name: {scheme}://HOST:PORT/SERVICE")
        found["service"] = words.pop(0)
    elif len(found["addresses"]) > 1:
        raise _problem(scheme, f"several hosts are Sentinels: {scheme}+sentinel://A,B/SERVICE")
    if len(words) > 1 or not all(word.isascii() and word.isdecimal() for word in words):
        raise _problem(scheme, f"its path is the number of a database, not {'/'.join(words)!r}")
    found["db"] = int(words[0]) if words else 0
    return Options(**found, **_options(scheme, parts.query, tls=tls, sentinel=sentinel))


def _address(scheme: str, text: str, port: int) -> Address:
    host, _, tail = text.rpartition("]")
    if host:  # an IPv6 address
        host, tail = host.removeprefix("["), tail.removeprefix(":")
    else:
        host, _, tail = text.partition(":")
    if tail and not (tail.isascii() and tail.isdecimal() and 0 < int(tail) < 2**16):
        raise _problem(scheme, f"{tail!r} is no port")
    return Address(host or "localhost", int(tail) if tail else port)


def _options(
    scheme: str, query: str, *, tls: bool = False, sentinel: bool = False
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name == "db" and scheme == "unix":
            parsed: Callable[[str], Any] = _database
        elif name in OPTIONS:
            parsed = OPTIONS[name]
        else:
            raise _problem(scheme, f"unknown option {name!r}; there are {', '.join(OPTIONS)}")
        if name in found:
            raise _problem(scheme, f"{name} is given twice")
        if name in _TLS_OPTIONS and not tls:
            raise _problem(
                scheme, f"{name} is for TLS: write {scheme.replace('redis', 'rediss')}://"
            )
        if name in _SENTINEL_OPTIONS and not sentinel:
            raise _problem(scheme, f"{name} is for {scheme}+sentinel://")
        try:
            found[name] = parsed(text)
        except ValueError as error:
            # It may be a password in the wrong place.
            raise _problem(scheme, f"{name} is {error}") from None
    if ("cert_file" in found) != ("key_file" in found) and "key_file" in found:
        raise _problem(scheme, "key_file needs cert_file")
    return found


def _database(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("the number of a database")
    return int(text)


def _problem(scheme: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"the {scheme}:// URL cannot be used: {problem}")
