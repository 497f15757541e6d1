"""The raw limit: redis-py with hiredis, and as little else as a hand-off can be made of.

A loop reads a hundred messages, decodes their envelopes and payloads, encodes what follows,
and settles: acknowledge, give up if that was no longer ours, delete, add to the next stream,
which is a log behind the last step. The variant is how a hundred settlements travel:

``pipeline``
    a script for each, in one pipeline of redis-py's client;
``batch``
    one script for all, on connections that are spared the client: hiredis packs the command,
    and no timer is started for a reply. Two such loops take turns with the server.

It has no slots, so it does not take part where handlers wait.
"""

# redis-py types its replies too loosely for the strict mode.
# pyright: basic

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from msgspec import Raw, Struct, msgpack

from redis.asyncio import Redis
from tests.bench.redis.contestant import main
from tests.bench.redis.job import SLOTS, Item, Job
from tests.bench.redis.meter import Meter

LOOPS = 2
BLOCK_MS = 4000

SETTLE = """
if redis.call('XACK', KEYS[1], 'bench', ARGV[1]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '*', 'b', ARGV[2])
return 1
"""
SETTLE_ALL = """
local done = 0
for n = 1, #ARGV, 4 do
  if redis.call('XACK', ARGV[n], 'bench', ARGV[n + 1]) == 1 then
    redis.call('XDEL', ARGV[n], ARGV[n + 1])
    redis.call('XADD', ARGV[n + 2], '*', 'b', ARGV[n + 3])
    done = done + 1
  end
end
return done
"""


class Envelope(Struct):
    """As much of an envelope as every message has."""

    id: str
    job: str
    curr: str
    next: tuple[str, ...]
    prev: tuple[str, ...]
    payload: Raw
    created_at: float
    enqueued_at: float
    hops: int = 0


class Payload(Struct):
    number: int
    sent_at: float
    text: str


_decode = msgpack.Decoder(Envelope).decode
_decode_payload = msgpack.Decoder(Payload).decode
_encode = msgpack.Encoder().encode


async def send(job: Job) -> None:
    async with Redis.from_url(job.url) as redis:
        async for items in job.batches():
            async with redis.pipeline(transaction=False) as pipeline:
                for item in items:
                    pipeline.xadd(job.steps[0], {"b": _envelope(item, job.steps)})
                await pipeline.execute()


async def serve(job: Job, meter: Meter) -> None:
    async with Redis.from_url(job.url, socket_timeout=None) as redis:
        for step in job.steps:
            await redis.xgroup_create(step, "bench", "0", mkstream=True)
        meter.ready()
        if job.variant == "pipeline":
            await _pipelined(redis, job, meter)
        async with asyncio.TaskGroup() as tasks:
            for number in range(LOOPS):
                tasks.create_task(_batched(redis, job, meter, f"loop {number}"))


async def _pipelined(redis: Any, job: Job, meter: Meter) -> None:
    settle = await redis.script_load(SETTLE)
    streams: dict[Any, Any] = dict.fromkeys(job.steps, ">")
    while True:
        read = await redis.xreadgroup("bench", "one", streams, SLOTS, BLOCK_MS)
        async with redis.pipeline(transaction=False) as pipeline:
            for stream, entries in read:
                for position, fields in entries:
                    to, body = _handled(fields[b"b"], meter)
                    pipeline.evalsha(settle, 2, stream, to, position, body)
            await pipeline.execute()


async def _batched(redis: Any, job: Job, meter: Meter, consumer: str) -> None:
    connection: Any = redis.connection_pool.make_connection()
    await connection.connect()

    async def call(*command: Any) -> Any:
        await connection.send_packed_command(pack_command(command), check_health=False)
        return await connection.read_response(disable_decoding=True)

    settle = await call("SCRIPT", "LOAD", SETTLE_ALL)
    group = ("XREADGROUP", "GROUP", "bench", consumer, "COUNT", SLOTS, "BLOCK", BLOCK_MS, "STREAMS")
    read = (*group, *job.steps, *(">" for _ in job.steps))
    while True:
        settled: list[Any] = []
        for stream, entries in _pairs(await call(*read)):
            for position, (_, body) in entries:
                settled += (stream, position, *_handled(body, meter))
        if settled:
            await call("EVALSHA", settle, 0, *settled)


def _pairs(reply: Any) -> Sequence[Any]:
    """Streams and their entries; of a map in RESP3, of nothing if the time was over."""
    return list(reply.items()) if isinstance(reply, dict) else reply or ()


def _handled(body: bytes, meter: Meter) -> tuple[str, bytes]:
    """Handle a message, and give the stream and the body that follow."""
    envelope = _decode(body)
    payload = _decode_payload(envelope.payload)
    meter.seen(payload.sent_at)
    to, *later = envelope.next or ("log",)
    envelope.prev = (*envelope.prev, envelope.curr)
    envelope.curr, envelope.next = to, tuple(later)
    envelope.payload = Raw(_encode(payload))
    envelope.enqueued_at = time.time()
    envelope.hops += 1
    return to, _encode(envelope)


def _envelope(item: Item, steps: tuple[str, ...]) -> bytes:
    number, now = f"{item['number']:032d}", time.time()
    payload = Raw(_encode(item))
    return _encode(Envelope(number, number, steps[0], steps[1:], (), payload, now, now))


if __name__ == "__main__":
    main(["redis", "hiredis", "msgspec", "uvloop"], send, serve)
