"""What a message costs on `memory://`, in microseconds: one JSON line per result."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator

import anyio

from asyafw.memory import MemoryTransport
from asyafw.transport import Append, Message, Send

MESSAGES = 100_000
ROUNDS = 5
BODY = b"x" * 300


async def hand_over(limit: int) -> float:
    """Receive and settle with a forward and an event, `limit` messages at a time."""
    async with MemoryTransport(capacity=MESSAGES + 1) as transport:
        await transport.emit(*_sends("here", MESSAGES))
        async with transport.consume("here") as consumer:
            started = time.perf_counter()
            done = 0
            while done < MESSAGES:
                for delivery in await consumer.receive(limit):
                    await delivery.settle(Send("there", delivery.message), Append("events", BODY))
                    done += 1
            return time.perf_counter() - started


async def acknowledge() -> float:
    """Receive a hundred at a time and settle without a word."""
    async with MemoryTransport(capacity=MESSAGES + 1) as transport:
        await transport.emit(*_sends("here", MESSAGES))
        async with transport.consume("here") as consumer:
            started = time.perf_counter()
            done = 0
            while done < MESSAGES:
                for delivery in await consumer.receive(100):
                    await delivery.settle()
                    done += 1
            return time.perf_counter() - started


async def emit() -> float:
    """Emit one message at a time."""
    async with MemoryTransport(capacity=MESSAGES + 1) as transport:
        send = Send("here", Message(BODY))
        started = time.perf_counter()
        for _ in range(MESSAGES):
            await transport.emit(send)
        return time.perf_counter() - started


async def wake(consumers: int) -> float:
    """Emit one at a time to consumers that all wait."""
    elapsed = 0.0
    async with MemoryTransport() as transport, anyio.create_task_group() as tasks:

        async def work() -> None:
            async with transport.consume("here") as consumer:
                while True:
                    for delivery in await consumer.receive(1):
                        await delivery.settle()

        for _ in range(consumers):
            tasks.start_soon(work)
        await asyncio.sleep(0.01)
        send = Send("here", Message(BODY))
        started = time.perf_counter()
        for _ in range(MESSAGES):
            await transport.emit(send)
        while (await transport.lag("here")).backlog:  # noqa: ASYNC110 — the queue has no event
            await asyncio.sleep(0)
        elapsed = time.perf_counter() - started
        tasks.cancel_scope.cancel()
    return elapsed


async def delay() -> float:
    """Emit messages that are due at once, and receive them."""
    async with MemoryTransport(capacity=MESSAGES + 1) as transport:
        started = time.perf_counter()
        await transport.emit(*_sends("here", MESSAGES, delay_s=0.001))
        async with transport.consume("here") as consumer:
            done = 0
            while done < MESSAGES:
                done += len(await consumer.receive(1000))
        return time.perf_counter() - started


def _sends(queue: str, count: int, delay_s: float = 0) -> Iterator[Send]:
    return (Send(queue, Message(BODY), delay_s) for _ in range(count))


CASES: dict[str, Callable[[], Awaitable[float]]] = {
    "receive(100) + settle(Send, Append)": lambda: hand_over(100),
    "receive(1) + settle(Send, Append)": lambda: hand_over(1),
    "receive(100) + settle()": acknowledge,
    "emit(Send)": emit,
    "emit(Send) to 1 waiting consumer": lambda: wake(1),
    "emit(Send) to 16 waiting consumers": lambda: wake(16),
    "emit(Send(delay_s)) + receive(1000)": delay,
}


async def main() -> None:
    for name, case in CASES.items():
        best_s = min([await case() for _ in range(ROUNDS)])
        print(json.dumps({"bench": name, "us": round(best_s / MESSAGES * 1e6, 2)}))  # noqa: T201 - its output


if __name__ == "__main__":
    asyncio.run(main())
