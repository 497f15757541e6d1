"""Redis as a transport: streams for queues and logs, and Lua for what has to be one step."""

from importlib.util import find_spec

from asyafw.exceptions import MissingExtra
from asyafw.transport import Transport

__all__ = ["from_url"]


def from_url(url: str) -> Transport:
    """Make the transport of a URL.

    ``redis://``, ``rediss://`` (TLS) and ``unix://`` lead to a server, ``redis+sentinel://`` and
    ``rediss+sentinel://`` to the master that Sentinels know.
    `docs/reference/urls.md` lists the options.

    Raises:
        MissingExtra: the Redis client is not installed.
        ConfigurationError: the URL is not one of these.
    """
    if find_spec("redis") is None or find_spec("hiredis") is None:
        raise MissingExtra("redis", needed_for=f"{url.partition('://')[0]}://")
    from asyafw_redis._options import parse
    from asyafw_redis._transport import RedisTransport

    return RedisTransport(parse(url))
