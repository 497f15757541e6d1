import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyafw.envelope import MSGPACK
from asyafw.events import EVENTS, Event, decode_event
from asyafw.exceptions import TransportUnavailable
from asyafw.memory import MemoryTransport
from asyafw.telemetry import Metrics
from asyafw.transport import Out
from asyafw.worker._notices import Notices


class Recorder(MemoryTransport):
    """Remembers how many entries were emitted together, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.away = False

    async def emit(self, *out: Out) -> None:
        await checkpoint()
        if self.away:
            raise TransportUnavailable
        self.sizes.append(len(out))
        await super().emit(*out)


def report(number: int) -> Event:
    return Event(kind="progress", job="j", id="m", at=1, hop=number)


async def test_events_are_sent_together() -> None:
    told: list[int] = []
    async with Recorder() as transport, anyio.create_task_group() as tasks:
        notices, log = Notices(MSGPACK, Metrics()), transport.tail(EVENTS)
        tasks.start_soon(notices.run, transport)
        for number in range(3):
            notices.add(report(number))
        with anyio.fail_after(5):
            told += [decode_event((await anext(log)).body).hop for _ in range(3)]
        tasks.cancel_scope.cancel()

    assert told == [0, 1, 2]
    assert transport.sizes == [3]


async def test_an_event_may_go_to_a_log_of_its_own() -> None:
    async with Recorder() as transport:
        notices, log = Notices(MSGPACK, Metrics()), transport.tail("mine")
        notices.add(report(1), "mine")
        await notices.flush(transport)
        told = decode_event((await anext(log)).body)

    assert told == report(1)


async def test_the_oldest_are_dropped_and_counted_when_there_are_too_many() -> None:
    metrics = Metrics()
    async with Recorder() as transport:
        notices, log = Notices(MSGPACK, metrics), transport.tail(EVENTS)
        for number in range(10_500):
            notices.add(report(number))
        await notices.flush(transport)
        first = decode_event((await anext(log)).body)

    assert metrics.events_dropped == 500
    assert first.hop == 500
    assert transport.sizes == [500] * 20


async def test_what_cannot_be_sent_is_dropped_and_counted() -> None:
    metrics = Metrics()
    async with Recorder() as transport:
        notices = Notices(MSGPACK, metrics)
        notices.add(report(1))
        transport.away = True
        await notices.flush(transport)
        transport.away = False
        notices.add(report(2))
        await notices.flush(transport)

    assert metrics.events_dropped == 1
    assert transport.sizes == [1]


async def test_flushing_waits_for_what_is_on_its_way() -> None:
    sent: list[int] = []
    async with Recorder() as transport, anyio.create_task_group() as tasks:
        notices = Notices(MSGPACK, Metrics())
        notices.add(report(1))
        tasks.start_soon(notices.flush, transport)
        await checkpoint()
        sent.append(len(transport.sizes))
        await notices.flush(transport)
        sent.append(len(transport.sizes))

    assert sent == [0, 1]


@pytest.mark.parametrize("count", [1, 499, 500, 501])
async def test_nothing_is_left_behind(count: int) -> None:
    async with Recorder() as transport:
        notices = Notices(MSGPACK, Metrics())
        for number in range(count):
            notices.add(report(number))
        await notices.flush(transport)

    assert sum(transport.sizes) == count
