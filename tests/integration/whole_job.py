"""Everything that an app asks of a transport, once."""

from collections.abc import AsyncIterator

import anyio
import pytest

from asyafw import App, Context, Join, RateLimit, Retry, RetryPolicy, actor
from asyafw.client import Client
from asyafw.dead_letters import browse
from asyafw.events import DEAD_LETTERS
from asyafw.exceptions import JobCancelled, JobFailed
from asyafw.transport import Transport
from asyafw.worker import Worker

PATIENCE_S = 20.0


@actor(middleware=[RateLimit(1000)])
async def split(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word


@actor
async def shout(word: str, ctx: Context) -> str:
    if ctx.attempt == 1:
        raise Retry("it is to be delayed", after_s=0.05)
    return word.upper()


@actor(join=Join(timeout_s=60))
async def collect(words: list[str]) -> str:
    return " ".join(words)


@actor
async def ponder(name: str, ctx: Context) -> str:
    await ctx.progress(0.5, name)
    await anyio.sleep_forever()
    return name


@actor(retry=RetryPolicy(max_attempts=1))
async def fail(reason: str) -> str:
    raise ValueError(reason)


app = App(
    actors=[split, shout, collect, ponder, fail], flows={"shouts": ["split", "shout", "collect"]}
)


async def do_everything(worker: Worker, client: Client, transport: Transport) -> None:
    """See a job through, one cancelled and one fail, and read the lag; all three are opened."""
    with anyio.fail_after(PATIENCE_S):
        async with transport:
            async with worker, client:
                await _see_through(client)
                await _cancel(client)
                await _fail(client, transport)
            for name in app.actors:
                lag = await transport.lag(name)
                assert (lag.backlog, lag.in_flight, lag.delayed) == (0, 0, 0)


async def _see_through(client: Client) -> None:
    job = await client.submit("shouts", "we have tea")
    assert await job.result() == "WE HAVE TEA"


async def _cancel(client: Client) -> None:
    job = await client.submit(["ponder"], "for ever")
    async for event in job.events():
        if event.kind == "progress":
            await job.cancel()
    with pytest.raises(JobCancelled):
        await job.result()


async def _fail(client: Client, transport: Transport) -> None:
    before = (await transport.lag(DEAD_LETTERS)).backlog
    job = await client.submit(["fail"], "no tea")
    with pytest.raises(JobFailed, match="ValueError in fail: no tea"):
        await job.result()
    letters = await browse(transport, 10)
    assert [letter.actor for letter in letters] == ["fail"] * (before + 1)
