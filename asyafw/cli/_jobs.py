"""Submit payloads as jobs, a bounded number at a time, and tell how each ends."""

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

import anyio
from anyio.abc import ObjectSendStream
from msgspec import Struct

from asyafw._spelling import did_you_mean
from asyafw.app import App
from asyafw.cli._payloads import STDIN, Line, decode, read, stdin_lines
from asyafw.cli._results import Results
from asyafw.client import Client, Job
from asyafw.exceptions import AsyafwError, LimitExceeded, PayloadError, ResultTimeout, UnknownFlow

__all__ = ["Follow", "Plan", "input_type", "lines_of", "submit_all"]

Follow: TypeAlias = Callable[[Job], Coroutine[Any, Any, None]]
"""Shows what happens to a job until its end."""


class Plan(Struct, frozen=True):
    """How jobs are submitted.

    `target` is a flow or a route, whose first actor takes `type`.
    Without `wait` a job is done once it is accepted.
    """

    target: str | Sequence[str]
    type: Any = Any
    in_flight: int = 1
    wait: bool = True
    timeout_s: float | None = None
    headers: Mapping[str, str] = {}
    deadline_s: float | None = None
    idempotency_key: str | None = None


class _Pending(Struct, frozen=True):
    line: Line
    at: float
    job: Job | None = None
    error: AsyafwError | None = None


def input_type(app: App, target: str | Sequence[str]) -> Any:
    """Tell what a flow or a route takes; Any where its first actor is another app's.

    Raises:
        UnknownFlow: the app has no flow of that name.
    """
    if isinstance(target, str):
        if target not in app.flows:
            there = f"there are {', '.join(app.flows)}" if app.flows else "the app has none"
            hint = did_you_mean(target, app.flows) or there
            raise UnknownFlow(f"there is no flow {target!r}; {hint}")
        target = app.flows[target]
    first = app.actors.get(target[0])
    return Any if first is None else first.input_type


def lines_of(source: str, type_: Any) -> AsyncIterator[Line]:
    """Give the payloads of ``JSON``, ``@file`` or ``-``; those of standard input as they come.

    Raises:
        ConfigurationError: the file cannot be read.
        PayloadError: the only payload is no JSON, or not of the type.
    """
    if source == STDIN:
        return stdin_lines()
    line = read(source)
    decode(line.text, type_)
    return _only(line)


async def _only(line: Line) -> AsyncIterator[Line]:
    yield line


async def submit_all(
    client: Client,
    plan: Plan,
    lines: AsyncIterator[Line],
    results: Results,
    follow: Follow | None = None,
) -> None:
    """Submit each line and tell how its job ends, in the order of the lines.

    No more than `Plan.in_flight` are under way at a time: others are not even read.

    Raises:
        PayloadError, LimitExceeded: the payload is no line of many, and cannot be submitted.
        TransportError: it is unknown whether a job was accepted.
    """
    room = anyio.Semaphore(plan.in_flight)
    send, receive = anyio.create_memory_object_stream[_Pending](plan.in_flight)

    async def submit(sent: ObjectSendStream[_Pending]) -> None:
        async with sent:
            async for line in lines:
                await room.acquire()
                results.unfinished += 1
                pending = await _submitted(client, plan, line)
                if follow is not None and pending.job is not None:
                    tasks.start_soon(follow, pending.job)
                await sent.send(pending)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit, send)
        async with receive:
            async for pending in receive:
                await _finish(pending, plan, results)
                room.release()


async def _submitted(client: Client, plan: Plan, line: Line) -> _Pending:
    try:
        job = await client.submit(
            plan.target,
            decode(line.text, plan.type),
            headers=plan.headers,
            deadline_s=plan.deadline_s,
            idempotency_key=plan.idempotency_key,
        )
    except (PayloadError, LimitExceeded) as error:
        if not line.number:
            raise
        return _Pending(line, time.monotonic(), error=error)
    return _Pending(line, time.monotonic(), job)


async def _finish(pending: _Pending, plan: Plan, results: Results) -> None:
    job, line = pending.job, pending.line
    if job is None:
        await results.failed(line, None, pending.error or PayloadError())
    elif not plan.wait:
        await results.submitted(line, job.id)
    else:
        try:
            result = await _result(job, pending.at, plan.timeout_s)
        except AsyafwError as error:
            await results.failed(line, job.id, error)
        else:
            await results.succeeded(line, job.id, result)


async def _result(job: Job, since: float, timeout_s: float | None) -> Any:
    if timeout_s is None:
        return await job.result(type=Any)
    try:
        return await job.result(max(0.0, since + timeout_s - time.monotonic()), type=Any)
    except ResultTimeout:
        raise ResultTimeout(job.id, f"job {job.id} did not end in {timeout_s:g} s") from None
