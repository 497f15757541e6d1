"""Names: all who open the same one in a process meet."""

from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from asyafw.clock import SYSTEM_CLOCK, Clock
from asyafw.exceptions import ConfigurationError
from asyafw.memory._broker import Broker
from asyafw.memory._log import Bounds
from asyafw.memory._transport import MemoryTransport

__all__ = ["from_url"]

_OPTIONS = {"capacity": int, "log_capacity": int, "retention_s": float}


class _Named(Struct):
    """A broker and the options that were given for it by name."""

    broker: Broker
    options: dict[str, float]


# The state of the process that a name stands for: this is what `memory://NAME` means.
_named: dict[str, _Named] = {}


def from_url(url: str, *, clock: Clock | None = None) -> MemoryTransport:
    """Make a handle from ``memory://NAME?capacity=…&log_capacity=…&retention_s=…``.

    Handles with the same name, be it the empty one, share their queues and logs
    for as long as the process lives. An option counts for all of them, whoever gives it.
    So does `clock`, while one that was given it is open.

    Raises:
        ConfigurationError: an option is unknown, has a bad value, or another value than before.
    """
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.fragment:
        raise ConfigurationError(f"{url!r} is not memory://NAME, with options behind a '?'")
    options = _options(url, parts.query)
    named = _named.setdefault(parts.netloc, _Named(Broker(SYSTEM_CLOCK, Bounds()), {}))
    for option, value in options.items():
        if named.options.setdefault(option, value) != value:
            raise ConfigurationError(
                f"{url!r}: memory://{parts.netloc} already has {option}={named.options[option]}"
            )
        setattr(named.broker.bounds, option, value)
    return MemoryTransport(clock, broker=named.broker)


def _options(url: str, query: str) -> dict[str, float]:
    options: dict[str, float] = {}
    for option, text in parse_qsl(query, keep_blank_values=True):
        if option not in _OPTIONS:
            raise ConfigurationError(
                f"{url!r}: unknown option {option!r}; there are {', '.join(_OPTIONS)}"
            )
        try:
            options[option] = _OPTIONS[option](text)
        except ValueError:
            options[option] = 0
        if not options[option] > 0:
            raise ConfigurationError(f"{url!r}: {option} must be a positive number, not {text!r}")
    return options
