"""Redis, as the thing that is killed, restarted and made to forget."""

import random
from contextlib import ExitStack
from typing import Final, Self

import anyio
import redis
from anyio import to_thread

from tests.chaos.faults import Fault
from tests.servers.redis import RedisServer, redis_server

__all__ = ["RedisBroker"]

_OPTIONS: Final = (
    *("--appendonly", "yes"),
    # With `everysec`, replies may be up to 2 s ahead of what was written, if the disk is slow:
    # https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency/
    *("--appendfsync", "always"),
    # What is loaded at a restart is short, and being rewritten when the server is killed, too.
    *("--auto-aof-rewrite-min-size", "8mb"),
)
_LONGEST_DOWN_S: Final = 1.0
# Longer than a command may take, and shorter than a lease, which goes on meanwhile.
_LONGEST_STOPPED_S: Final = 1.5


class RedisBroker:
    """A server from ``with`` to its end; its data survive its deaths."""

    name = "redis"
    lease_s = 2.0

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._server: RedisServer | None = None

    def __enter__(self) -> Self:
        self._server = self._stack.enter_context(redis_server(*_OPTIONS))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def port(self) -> int:
        """Where it listens, dead or alive."""
        return self._running.port

    def url(self, port: int, *, timeout_s: float = 1) -> str:
        """Give the URL by which to reach it through this port, and what may take how long."""
        options = f"lease_s={self.lease_s:g}&timeout_s={timeout_s:g}&retention_s=120"
        return f"redis://127.0.0.1:{port}?{options}"

    def faults(self) -> list[Fault]:
        """Tell what may befall it."""
        return [
            Fault("Redis killed", self._die),
            Fault("Redis stopped", self._stop),
            Fault("scripts forgotten", self._forget),
        ]

    @property
    def _running(self) -> RedisServer:
        assert self._server is not None
        return self._server

    async def _die(self, rng: random.Random) -> str:
        down_s = rng.uniform(0, _LONGEST_DOWN_S)
        await to_thread.run_sync(self._running.kill)
        await anyio.sleep(down_s)
        await to_thread.run_sync(self._running.start)
        return f"for {down_s:.1f} s"

    async def _stop(self, rng: random.Random) -> str:
        stopped_s = rng.uniform(0.3, _LONGEST_STOPPED_S)
        self._running.pause()
        await anyio.sleep(stopped_s)
        self._running.resume()
        return f"for {stopped_s:.1f} s"

    async def _forget(self, _: random.Random) -> str:
        def flush() -> None:
            with self._running.client(socket_timeout=5) as client:
                client.script_flush()

        try:
            await to_thread.run_sync(flush)
        except redis.RedisError as error:
            return f"failed: {error}"
        return "all"
