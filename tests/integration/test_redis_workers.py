"""Workers that are processes on a real Redis, and what becomes of jobs when they die."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from anyio import to_thread

from asyafw import App, actor
from asyafw._connect import open_transport
from asyafw.dead_letters import browse
from asyafw.exceptions import JobFailed
from tests.integration.cli import LIMIT_S, Running, running
from tests.servers.redis import DURABLE, redis_server

PIPELINE = """
import os
import signal
import time
from pathlib import Path

from asyafw import App, Context, RetryPolicy, actor


@actor(concurrency=20)
async def work(name: str) -> str:
    with Path("runs").open("a") as runs:
        runs.write(name + "\\n")
    if name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    import asyncio
    if name.startswith("slow"):
        while not Path("go").exists():
            await asyncio.sleep(0.01)
    return name


@actor(executor="process", concurrency=4, timeout_s=60, retry=RetryPolicy(max_attempts=1))
def compute(name: str) -> int:
    if name == "dies":
        os._exit(1)
    if name == "hangs":
        time.sleep(3600)
    return os.getpid()


app = App([work, compute])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return tmp_path


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with redis_server(*DURABLE) as server:
        yield server.url


@pytest.fixture
def url(server_url: str) -> str:
    return f"{server_url}?prefix={uuid4().hex[:8]}&lease_s=0.5"


@actor
async def work(name: str) -> str:
    raise AssertionError("this process serves nothing")


@actor
async def compute(name: str) -> int:
    raise AssertionError("this process serves nothing")


CLIENTS = App([work, compute])


def runs(folder: Path) -> list[str]:
    path = folder / "runs"
    return path.read_text().split() if path.exists() else []


async def stop(worker: Running) -> None:
    worker.signal(signal.SIGTERM)
    assert (await to_thread.run_sync(worker.end))[0] == 0


async def until(condition: object) -> None:
    assert callable(condition)
    with anyio.fail_after(LIMIT_S):
        while not condition():  # noqa: ASYNC110 — another process tells nobody
            await anyio.sleep(0.02)


async def test_a_message_that_kills_its_worker_is_buried_and_its_neighbours_are_not(
    folder: Path, url: str
) -> None:
    stopping = threading.Event()

    def keep_one_alive() -> int:
        """Do as a supervisor does."""
        deaths = 0
        while not stopping.is_set():
            with running(
                folder, "worker", "pipeline", "--transport", url, "--max-deliveries", "4"
            ) as worker:
                while worker.process.poll() is None and not stopping.is_set():
                    stopping.wait(0.02)
                deaths += worker.process.poll() == -signal.SIGKILL
        return deaths

    async with CLIENTS.connect(url) as client:
        slow = [await client.submit(["work"], f"slow-{n}") for n in range(8)]
        poison = await client.submit(["work"], "poison")
        more = [await client.submit(["work"], f"slow-more-{n}") for n in range(8)]

        deaths: list[int] = []
        results: list[str] = []
        told = ""
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                deaths.append(await to_thread.run_sync(keep_one_alive))

            tasks.start_soon(serve)
            try:
                await until(lambda: runs(folder).count("poison") >= 2)
                (folder / "go").touch()
                with pytest.raises(JobFailed) as failed:
                    await poison.result(LIMIT_S)
                told = str(failed.value)
                results += [await job.result(LIMIT_S) for job in (*slow, *more)]
            finally:
                stopping.set()

        assert "delivered 4 times to work and never settled" in told
        assert len(results) == 16
        assert deaths == [4]
        async with open_transport(url).transport as transport:
            letters = await browse(transport, 10)
        assert [letter.error.type for letter in letters if letter.error] == ["WorkerCrashed"]


async def test_jobs_go_on_when_one_of_two_workers_is_killed(folder: Path, url: str) -> None:
    with (
        running(folder, "worker", "pipeline", "--transport", url) as first,
        running(folder, "worker", "pipeline", "--transport", url) as second,
    ):
        for worker in (first, second):
            await to_thread.run_sync(worker.logged, "serving")
        async with CLIENTS.connect(url) as client:
            jobs = [await client.submit(["work"], f"slow-{n}") for n in range(60)]
            await until(lambda: len(runs(folder)) >= 40)

            first.process.kill()
            (folder / "go").touch()

            assert sorted([await job.result(LIMIT_S) for job in jobs]) == sorted(
                f"slow-{n}" for n in range(60)
            )
        await stop(second)


async def test_the_death_of_one_handler_process_blames_no_other(folder: Path, url: str) -> None:
    with running(folder, "worker", "pipeline", "--transport", url) as worker:
        async with CLIENTS.connect(url) as client:
            names = ["fine", "dies", "fine", "dies", "fine", "fine"]
            jobs = [await client.submit(["compute"], name) for name in names]
            ends: list[str] = []
            for job in jobs:
                try:
                    ends.append(type(await job.result(LIMIT_S)).__name__)
                except JobFailed as error:
                    ends.append(error.error.type)

        await stop(worker)

    assert ends == ["int", "ProcessCrashed", "int", "ProcessCrashed", "int", "int"]


async def test_a_stopped_worker_drains_and_hands_back(folder: Path, url: str) -> None:
    arguments = ("worker", "pipeline", "--transport", url, "--drain-timeout", "0.2")
    with running(folder, *arguments) as worker:
        async with CLIENTS.connect(url) as client:
            jobs = [await client.submit(["work"], f"slow-{n}") for n in range(30)]
            await until(lambda: len(runs(folder)) == 20)

            await stop(worker)

            async with open_transport(url).transport as transport:
                lag = await transport.lag("work")
            assert (lag.backlog, lag.in_flight, lag.arrived) == (30, 0, 30)
            (folder / "go").touch()
            with running(folder, *arguments) as another:
                assert len([await job.result(LIMIT_S) for job in jobs]) == 30
                await stop(another)


async def test_a_worker_that_was_stopped_beyond_its_lease_goes_on(folder: Path, url: str) -> None:
    """What it did in vain is done by another; then it takes part again."""
    with running(folder, "worker", "pipeline", "--transport", url) as frozen:
        async with CLIENTS.connect(url) as client:
            jobs = [await client.submit(["work"], f"slow-{n}") for n in range(5)]
            await until(lambda: len(runs(folder)) == 5)
            frozen.signal(signal.SIGSTOP)
            try:
                with running(folder, "worker", "pipeline", "--transport", url) as other:
                    await until(lambda: len(runs(folder)) == 10)
                    (folder / "go").touch()
                    assert len([await job.result(LIMIT_S) for job in jobs]) == 5
                    await stop(other)
            finally:
                frozen.signal(signal.SIGCONT)

            assert await (await client.submit(["work"], "last")).result(LIMIT_S) == "last"
        await stop(frozen)
    assert sorted(runs(folder)) == sorted([f"slow-{n}" for n in range(5)] * 2 + ["last"])
