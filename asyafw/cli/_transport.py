"""Commands that look into the queues themselves."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from asyafw._connect import open_transport
from asyafw.cli._errors import say
from asyafw.cli._process import run_loop
from asyafw.transport import Transport

__all__ = ["hint_at_memory", "is_memory", "on_transport"]

T = TypeVar("T")


def on_transport(url: str, act: Callable[[Transport], Awaitable[T]]) -> T:
    """Open the transport of a URL for as long as `act` takes, and give what it gives.

    Raises:
        ConfigurationError: there is no such transport.
        TransportError: it cannot be reached, or failed.
    """

    async def main() -> T:
        async with open_transport(url).transport as transport:
            return await act(transport)

    hint_at_memory(url)
    return run_loop(main)


def is_memory(url: str) -> bool:
    """Tell whether a URL means queues of this very process."""
    return url.partition("://")[0].lower() == "memory"


def hint_at_memory(url: str) -> None:
    """Say why there is nothing to be seen, if it is for that reason."""
    if is_memory(url):
        say(
            f"{url} is empty in every new process; "
            "name a broker by --transport URL or ASYAFW_TRANSPORT"
        )
