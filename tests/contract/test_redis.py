from collections.abc import Iterator

import pytest

from asyafw.testing import transport_contract
from tests.contract.redis_harness import RedisHarness
from tests.servers.redis import DURABLE, RedisServer, redis_server


@pytest.fixture(scope="module", params=["redis-server", "valkey-server"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(*DURABLE, program=request.param) as server:
        yield server


@pytest.mark.parametrize("behaviour", transport_contract.BEHAVIOURS, ids=transport_contract.name)
async def test_redis_keeps_the_contract(
    behaviour: transport_contract.Behaviour, server: RedisServer
) -> None:
    await behaviour(RedisHarness(server.url))
