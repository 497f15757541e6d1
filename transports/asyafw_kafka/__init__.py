"""The Kafka transport."""

from importlib.util import find_spec

from asyafw.exceptions import ConfigurationError, MissingExtra
from asyafw.transport import Transport

__all__ = ["from_url"]


def from_url(url: str) -> Transport:
    """Make the transport of a ``kafka://`` URL.

    Raises:
        MissingExtra: the Kafka client is not installed.
        ConfigurationError: this transport is not part of this version yet.
    """
    scheme = url.partition("://")[0]
    if find_spec("aiokafka") is None:
        raise MissingExtra("kafka", needed_for=f"{scheme}://")
    raise ConfigurationError(f"{scheme}:// is not part of this version yet; use memory://")
