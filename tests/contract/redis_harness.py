from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import anyio
from asyafw_redis import from_url
from asyafw_redis._transport import RedisTransport

from asyafw.transport import Transport


class RedisHarness:
    """A prefix of its own on a server that others use, too."""

    patience_s = 5.0
    quiet_s = 0.1
    tick_s = 0.15
    lease_s = 0.6
    counts_crashes = True

    def __init__(self, url: str) -> None:
        self.url = f"{url}?prefix={uuid4().hex[:8]}&lease_s={self.lease_s}"

    def open(self) -> AbstractAsyncContextManager[Transport]:
        return from_url(self.url)

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, RedisTransport)
        await transport.crash()

    async def pass_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)
