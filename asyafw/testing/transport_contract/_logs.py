"""Logs are kept, and read by everyone who asks."""

from collections.abc import AsyncIterator

import anyio

from asyafw.testing.transport_contract._harness import (
    Behaviour,
    Harness,
    check,
    read,
    together,
    unique,
)
from asyafw.transport import Append, Entry, Transport

__all__ = ["BEHAVIOURS"]

_LONG_TICKS = 100
_POLL_S = 0.005


async def a_log_is_read_in_the_order_of_its_entries(harness: Harness) -> None:
    """What one sender appended comes as it was appended, each entry with a position of its own."""
    log = unique("log")
    written = [b"", bytes(range(256)), b"x" * 256 * 1024, *(b"%d" % n for n in range(20))]
    async with harness.open() as transport:
        for body in written:
            await transport.emit(Append(log, body))

        entries = await read(harness, _everything(harness, transport, log), len(written))

    check([e.body for e in entries], written, "entries are read as they were appended")
    check(len({e.position for e in entries}), len(written), "positions differ")


async def a_log_replays_from_an_age(harness: Harness) -> None:
    """A reader gets what is younger than it asks for, and nothing older."""
    log, tick_s = unique("log"), harness.tick_s
    async with harness.open() as transport:
        await transport.emit(Append(log, b"old"))
        await harness.pass_time(4 * tick_s)
        await transport.emit(Append(log, b"young"))

        (young,) = await read(harness, transport.tail(log, since_s=2 * tick_s), 1)
        both = await read(harness, _everything(harness, transport, log), 2)

    check(young.body, b"young", "nothing older is read")
    check([e.body for e in both], [b"old", b"young"], "nothing younger is left out")


async def a_log_replays_from_a_position(harness: Harness) -> None:
    """A reader goes on behind any entry that was read before, through another connection too."""
    log = unique("log")
    async with harness.open() as transport, harness.open() as other:
        await transport.emit(*(Append(log, b"%d" % n) for n in range(5)))
        entries = await read(harness, _everything(harness, transport, log), 5)

        for at, entry in enumerate(entries[:-1]):
            rest = await read(harness, other.tail(log, after=entry.position), 4 - at)
            check(rest, entries[at + 1 :], "what follows a position is read")
        tail = other.tail(log, after=entries[-1].position)
        await _nothing_is_read(harness, tail)


async def a_reader_begins_with_what_is_new(harness: Harness) -> None:
    """Who asks for no age gets what is appended from now on."""
    log = unique("log")
    got: list[Entry] = []
    async with harness.open() as transport:
        await transport.emit(Append(log, b"old"))
        await harness.pass_time(harness.tick_s)

        async def read_one() -> None:
            got.extend(await read(harness, transport.tail(log), 1))

        with anyio.fail_after(harness.patience_s):
            async with together() as tasks:
                tasks.start_soon(read_one)
                while not got:
                    # Nothing tells when a reader has begun, so there is always another entry.
                    await transport.emit(Append(log, b"new"))
                    await anyio.sleep(_POLL_S)

    check(got[0].body, b"new", "nothing old is read")


async def a_reader_goes_on_as_the_log_grows(harness: Harness) -> None:
    """Having read everything, it waits for more."""
    log = unique("log")
    async with harness.open() as transport, harness.open() as other:
        await transport.emit(Append(log, b"first"))
        tail = _everything(harness, transport, log)
        await read(harness, tail, 1)

        for n in range(5):
            rest: list[Entry] = []
            with anyio.fail_after(harness.patience_s):
                async with together() as tasks:

                    async def read_one(rest: list[Entry] = rest) -> None:
                        rest.append(await anext(tail))

                    tasks.start_soon(read_one)
                    await anyio.wait_all_tasks_blocked()
                    await other.emit(Append(log, b"%d" % n))
            check([e.body for e in rest], [b"%d" % n], "the next entry is read")


async def every_reader_sees_every_entry(harness: Harness) -> None:
    """Readers take nothing from each other."""
    log = unique("log")
    async with harness.open() as transport, harness.open() as other:
        await transport.emit(*(Append(log, b"%d" % n) for n in range(3)))
        tails = [_everything(harness, t, log) for t in (transport, transport, other)]

        first = [await read(harness, tail, 3) for tail in tails]
        await other.emit(Append(log, b"3"))
        second = [await read(harness, tail, 1) for tail in tails]

    for entries, more in zip(first, second, strict=True):
        got = [e.body for e in (*entries, *more)]
        check(got, [b"0", b"1", b"2", b"3"], "every reader sees every entry")
    check(first, [first[0]] * 3, "a position is the same for all")


async def logs_keep_apart(harness: Harness) -> None:
    """An entry is in the log that it was appended to, and in no other."""
    one, two = unique("one"), unique("two")
    async with harness.open() as transport:
        await transport.emit(Append(one, b"one"), Append(two, b"two"))

        tail = _everything(harness, transport, one)

        check([e.body for e in await read(harness, tail, 1)], [b"one"], "its own entry")
        await _nothing_is_read(harness, tail)


def _everything(harness: Harness, transport: Transport, log: str) -> AsyncIterator[Entry]:
    return transport.tail(log, since_s=_LONG_TICKS * harness.tick_s)


async def _nothing_is_read(harness: Harness, tail: AsyncIterator[Entry]) -> None:
    entries: list[Entry] = []
    with anyio.move_on_after(harness.quiet_s):
        entries.append(await anext(tail))
    check(entries, [], "nothing is read")


BEHAVIOURS: tuple[Behaviour, ...] = (
    a_log_is_read_in_the_order_of_its_entries,
    a_log_replays_from_an_age,
    a_log_replays_from_a_position,
    a_reader_begins_with_what_is_new,
    a_reader_goes_on_as_the_log_grows,
    every_reader_sees_every_entry,
    logs_keep_apart,
)
