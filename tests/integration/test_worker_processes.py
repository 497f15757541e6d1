import os
from pathlib import Path

from asyafw import Limits
from tests.integration import handlers
from tests.integration.running import running, submit_all


async def test_a_handler_runs_in_a_process_that_is_kept() -> None:
    async with running(handlers.pid_of) as run:
        pids = [await run.result(None) for _ in range(3)]

    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()


async def test_a_timeout_kills_the_process(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    async with running(handlers.sleeps_for_ever) as run:
        error = await run.error(str(note))

    assert error.startswith("HandlerTimeout: sleeps-for-ever ran for")
    assert not _lives(int(note.read_text()))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


TOLD = {
    handlers.raises_own: "tests.integration.handlers.OwnError: as it was",
    handlers.raises_what_cannot_be_made_again: (
        "RuntimeError: tests.integration.handlers.TwoArgumentsError: a hole in the bucket"
    ),
    handlers.raises_what_cannot_travel: "RuntimeError: tests.integration.handlers.OwnError: locked",
    handlers.gives_what_cannot_travel: "TypeError: cannot pickle '_thread.lock' object",
    handlers.leaves: "HandlerExited: the handler raised SystemExit(3)",
    handlers.dies: "ProcessCrashed: the process that ran dies died",
}


async def test_what_goes_wrong_in_a_process_is_told_and_others_go_on() -> None:
    async with running(*TOLD, handlers.pid_of) as run:
        errors = {actor: await run.error(None, actor.name) for actor in TOLD}
        told = (await run.letters())[0].error
        pid = await run.result(None, "pid-of")

    assert errors == TOLD
    assert told is not None
    assert 'in raises_own\n    raise OwnError("as it was")' in told.traceback
    assert isinstance(pid, int)


async def test_a_generator_yields_what_it_yielded_then() -> None:
    async with running(handlers.tiles_elsewhere) as run:
        result = await run.result(3)

    assert result == [{"x": 0}, {"x": 1}, {"x": 2}]


async def test_a_generator_without_an_end_has_one() -> None:
    async with running(handlers.tiles_without_end, limits=Limits(children=100)) as run:
        error = await run.error(None)

    assert error.startswith("LimitExceeded: tiles-without-end yields more than 100 children")


async def test_as_many_processes_run_at_a_time_as_the_concurrency_says(tmp_path: Path) -> None:
    async with running(handlers.meets_another) as run:
        jobs = await submit_all(run, [str(tmp_path)] * 2)
        results = [await job.result(30) for job in jobs]

    assert results == [2, 2]
