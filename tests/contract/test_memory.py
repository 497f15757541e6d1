import pytest

from asyafw.testing import transport_contract
from tests.contract.memory_harness import MemoryHarness


@pytest.mark.parametrize("behaviour", transport_contract.BEHAVIOURS, ids=transport_contract.name)
async def test_memory_keeps_the_contract(behaviour: transport_contract.Behaviour) -> None:
    await behaviour(MemoryHarness())
