import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw.clock import SYSTEM_CLOCK, Clock
from asyafw.testing import ManualClock

pytestmark = pytest.mark.anyio


def test_time_stands_still() -> None:
    clock: Clock = ManualClock(start=100)

    assert clock.now() == clock.now() == 100


async def test_advancing_moves_the_time() -> None:
    clock = ManualClock(start=100)

    await clock.advance(1.5)

    assert clock.now() == 101.5


async def test_sleepers_wake_in_the_order_of_their_time_and_see_it() -> None:
    clock = ManualClock(start=0)
    woken: list[tuple[float, float]] = []

    async def sleep(delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append((delay_s, clock.now()))

    async with anyio.create_task_group() as tasks:
        for delay_s in (3.0, 1.0, 2.0):
            tasks.start_soon(sleep, delay_s)
        await clock.advance(2)
        assert woken == [(1, 1), (2, 2)]
        await clock.advance(1)

    assert woken == [(1, 1), (2, 2), (3, 3)]


async def test_what_a_sleeper_begins_within_an_advance_ends_in_it() -> None:
    clock = ManualClock(start=0)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            for _ in range(200):
                await checkpoint()
            ticks.append(clock.now())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await clock.advance(3)
        tasks.cancel_scope.cancel()

    assert ticks == [1, 2, 3]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock(start=0)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await clock.sleep(1)
    await clock.advance(2)

    assert clock.now() == 2
    assert not clock._sleepers


async def test_sleeping_for_no_time_returns_at_once() -> None:
    clock = ManualClock(start=0)

    with anyio.fail_after(5):
        await clock.sleep(0)
        await clock.sleep(-1)

    assert clock.now() == 0


async def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="does not go back"):
        await ManualClock().advance(-1)


async def test_the_system_clock_tells_seconds_since_the_epoch() -> None:
    before = SYSTEM_CLOCK.now()

    await SYSTEM_CLOCK.sleep(0.01)

    assert SYSTEM_CLOCK.now() >= before > 1_700_000_000
