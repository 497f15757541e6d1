"""From a URL to what it says."""

from collections.abc import Callable, Mapping
from re import compile as regex
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct

from asyafw._spelling import did_you_mean
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

    def __repr__(self) -> str:
        # Debuggers and error trackers show what local variables hold.
        return f"<{type(self).__name__} of {self}>"


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
    if not text or not text.isprintable() or set(text) & set(" {}*?[]\\"):
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


def _database(text: str) -> int:
    if not _is_number(text, below=2**31):
        raise ValueError("the number of a database")
    return int(text)


OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "prefix": _prefix,
    "durability": _one_of("strict", "relaxed"),
    "lease_s": _seconds(0.1),
    "timeout_s": _seconds(0.1),
    "retention_s": _seconds(1),
    "db": _database,
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

# A password may hold an "@" or a bracket as it is: the standard library's parser stumbles over
# some of these, and shows them in its errors.
_URL = regex(
    r"(?s)(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?"
)
_HOST = regex(r"(?:\[(?P<v6>[\w:.%]+)\]|(?P<name>[^\s\[\]:@]*))(?::(?P<port>[^:]*))?")


class _Parts(Struct, frozen=True):
    """What stands between the marks of a URL."""

    scheme: str
    user: str | None
    hosts: str
    path: str
    query: str | None

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    @property
    def sentinel(self) -> bool:
        return self.scheme.endswith("+sentinel")


def parse(url: str) -> Options:
    """Take a URL apart.

    Raises:
        ConfigurationError: it is not one of the forms that the documentation lists.
            The message holds no password, and nothing that may be a part of one.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    found = _URL.fullmatch(rest)
    if found is None:
        problem = "it has a '#'"
    else:
        try:
            return _options(_Parts(scheme, *found.group("user", "hosts", "path", "query")))
        except ValueError as error:
            problem = str(error)
    if "@" in rest and (found is None or found["user"] is None):
        # A password ended too early, and its rest was taken for something else.
        problem = "what stands before the '@' holds a '/', '?' or '#': write %2F, %3F or %23"
    raise ConfigurationError(f"the {scheme}:// URL cannot be used: {problem}")


def _options(parts: _Parts) -> Options:
    place = _socket(parts) if parts.scheme == "unix" else _place(parts)
    return Options(tls=parts.tls, **_login(parts), **place, **_named(parts))


def _login(parts: _Parts) -> dict[str, Any]:
    username, _, password = (parts.user or "").partition(":")
    try:
        return {
            "username": unquote(username, errors="strict") or None,
            "password": unquote(password, errors="strict") or None,
        }
    except UnicodeDecodeError:
        raise ValueError("its user or password is not percent-encoded UTF-8") from None


def _socket(parts: _Parts) -> dict[str, Any]:
    if parts.hosts or not parts.path.strip("/"):
        raise ValueError("write unix:///path/to/redis.sock")
    return {"path": unquote(parts.path)}


def _place(parts: _Parts) -> dict[str, Any]:
    scheme = parts.scheme
    place: dict[str, Any] = {
        "addresses": tuple(_address(parts, text) for text in parts.hosts.split(","))
    }
    words = [unquote(word) for word in parts.path.strip("/").split("/") if word]
    if parts.sentinel:
        if not words:
            raise ValueError(f"it lacks the name of the service: {scheme}://HOST:PORT/SERVICE")
        place["service"] = words.pop(0)
    elif len(place["addresses"]) > 1:
        raise ValueError(f"several hosts are Sentinels: {scheme}+sentinel://A,B/SERVICE")
    if words:
        number = "/".join(words)
        if not _is_number(number, below=2**31):
            raise ValueError(f"its path is the number of a database, not {number!r:.80}")
        place["db"] = int(number)
    return place


def _address(parts: _Parts, text: str) -> Address:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no HOST:PORT; an IPv6 address is written as [::1]:6379")
    host, port = found["name"] or found["v6"], found["port"]
    if not host and "," in parts.hosts:
        raise ValueError(f"a host is missing in {parts.hosts!r}")
    if port and not (_is_number(port, below=2**16) and int(port)):
        raise ValueError(f"{port!r} is no port")
    default = _SENTINEL_PORT if parts.sentinel else _PORT
    return Address(unquote(host or "localhost"), int(port) if port else default)


def _named(parts: _Parts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in filter(None, (parts.query or "").split("&")):
        name, _, text = option.partition("=")
        _check_name(parts, name)
        if name in found:
            raise ValueError(f"{name} is given twice")
        try:
            found[name] = OPTIONS[name](unquote(text))
        except ValueError as error:
            # What was given may be a password in the wrong place.
            raise ValueError(f"{name} is {error}") from None
    if "key_file" in found and "cert_file" not in found:
        raise ValueError("key_file needs cert_file")
    return found


def _check_name(parts: _Parts, name: str) -> None:
    scheme = parts.scheme
    if name not in OPTIONS:
        told = f"unknown option {name!r}; there are {', '.join(OPTIONS)}"
        raise ValueError("; ".join(filter(None, (told, did_you_mean(name, OPTIONS)))))
    if name == "db" and scheme != "unix":
        place = "HOST:PORT/SERVICE" if parts.sentinel else "HOST:PORT"
        raise ValueError(f"the number of the database ends the path: {scheme}://{place}/3")
    if name in _TLS_OPTIONS and not parts.tls:
        secure = "rediss+sentinel" if parts.sentinel else "rediss"
        raise ValueError(f"{name} is for TLS: write {secure}://")
    if name in _SENTINEL_OPTIONS and not parts.sentinel:
        found = "rediss+sentinel" if parts.tls else "redis+sentinel"
        raise ValueError(f"{name} is for Sentinels: write {found}://")


def _is_number(text: str, *, below: int) -> bool:
    # A long one would take its time to be converted.
    is_short = text.isascii() and text.isdecimal() and len(text) <= len(str(below))
    return is_short and int(text) < below
