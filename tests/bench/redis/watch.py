"""What a server says of itself: its CPU time, its commands and its memory."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tests.servers.redis import RedisServer

__all__ = ["Server", "Stand"]


class Stand(Struct, frozen=True):
    """The counters of a server at one time.

    `commands` counts the calls of each, those of scripts included.
    """

    cpu_s: float
    memory_bytes: int
    commands: Mapping[str, int]

    def calls_since(self, earlier: "Stand", *names: str) -> int:
        """Count the calls since then, of these commands or of all."""
        return sum(
            self.commands.get(name, 0) - earlier.commands.get(name, 0)
            for name in names or self.commands
        )


class Server:
    """A Redis as its bystander sees it."""

    def __init__(self, started: RedisServer) -> None:
        self.url = started.url
        self._redis: Any = started.client()

    def clear(self) -> None:
        """Delete everything."""
        self._redis.flushall()

    def stand(self) -> Stand:
        """Read the counters; this costs the server one command, INFO, which is not counted."""
        info: dict[str, Any] = self._redis.info("everything")
        commands = {
            name.removeprefix("cmdstat_"): stat["calls"]
            for name, stat in info.items()
            if name.startswith("cmdstat_") and name != "cmdstat_info"
        }
        return Stand(
            cpu_s=info["used_cpu_user"] + info["used_cpu_sys"],
            memory_bytes=info["used_memory"] - info["mem_aof_buffer"],
            commands=commands,
        )
