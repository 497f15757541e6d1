"""From a URL to a transport, by the entry points that installed packages declare."""

from re import IGNORECASE
from re import compile as regex
from typing import Any, NamedTuple

from asyafw._spelling import did_you_mean
from asyafw.envelope import CODECS, MSGPACK, Codec
from asyafw.exceptions import ConfigurationError, UnknownScheme
from asyafw.transport import Transport

__all__ = ["GROUP", "Connection", "open_transport", "redacted"]

GROUP = "asyafw.transports"
"""The entry points' group: each is named by a scheme, and is a function from a URL to a transport.

The function gets the URL without the options that are the runtime's own.
It raises `ConfigurationError` for a URL that it cannot use.
"""

_SCHEME = regex(r"[a-z][a-z0-9+.-]*", IGNORECASE)
# Up to the last "@", because a password may hold what should have been percent-encoded.
_USER = regex(r"(?s)^([a-z][a-z0-9+.-]*://)?.*@", IGNORECASE)
_SECRET = regex(r"([?&][^=&]*(?:pass|pwd|secret|token|key|cred|auth|sig)[^=&]*=)[^&#]*", IGNORECASE)


class Connection(NamedTuple):
    """A transport, not yet opened, and the codec of what is submitted through it."""

    transport: Transport
    codec: Codec


def open_transport(where: str | Transport) -> Connection:
    """Make the transport of a URL; one that is made already is taken as it is.

    The option ``codec=msgpack`` or ``codec=json`` is the runtime's own, all others the transport's.
    Of the installed transports only that of the URL is imported.

    Raises:
        UnknownScheme: no installed package declares the scheme.
        MissingExtra: what the transport needs is not installed.
        ConfigurationError: the URL is none, or not one that the transport can use.
    """
    if not isinstance(where, str):
        return Connection(_checked(where), MSGPACK)
    scheme, separator, _ = where.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(
            f"{redacted(where)!r} is no transport's URL: it begins with a scheme, "
            "as redis://localhost:6379 does"
        )
    factory = _factory(scheme.lower())
    url, codec = _without_codec(where)
    return Connection(factory(url), codec)


def redacted(url: str) -> str:
    """Leave out of a URL what may be a credential: its user and password, and secret options."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", url))


def _checked(transport: Transport) -> Transport:
    # It may have come from where nobody checks types, as a setting that is not set.
    if not callable(getattr(transport, "consume", None)):
        raise ConfigurationError(
            "a transport is a URL or an object such as MemoryTransport(), "
            f"not a {type(transport).__qualname__}"
        )
    return transport


def _factory(scheme: str) -> Any:
    # Takes as long to import as all of the core, and who only defines actors does without.
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in found:
        there = f"there are {', '.join(sorted(found))}"
        told = filter(None, (there, did_you_mean(scheme, found)))
        raise UnknownScheme(f"no transport has the scheme {scheme!r}; {'; '.join(told)}")
    point = found[scheme]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the transport of {scheme!r}, {point.value}, cannot be imported: {error}"
        ) from error


def _without_codec(url: str) -> tuple[str, Codec]:
    """Take the runtime's own options out of a URL and leave the rest of it as it is."""
    head, _, query = url.partition("?")
    names: list[str] = []
    others: list[str] = []
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name == "codec":
            names.append(value)
        else:
            others.append(option)
    unknown = [name for name in names if name not in CODECS]
    if unknown or len(names) > 1:
        raise ConfigurationError(
            f"{redacted(url)!r}: codec is one of {', '.join(CODECS)}, not {' and '.join(names)!r}"
        )
    codec = CODECS[names[0]] if names else MSGPACK
    return "?".join(filter(None, [head, "&".join(others)])), codec
