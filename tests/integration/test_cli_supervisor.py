import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyafw.cli._keeper import Restarts, Service
from asyafw.cli._supervisor import Supervisor
from asyafw.retry import fixed
from tests.integration.cli import LIMIT_S

CHILD = """
import os, signal, sys, time

INDEX = os.environ["ASYAFW_PROCESS_INDEX"]
EAR = os.open("ear", os.O_WRONLY)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def tell(what):
    os.write(EAR, f"{what} {INDEX}\\n".encode())


def serve():
    os.write(int(os.environ["ASYAFW_BOND"]), b"\\n")


def wait():
    signal.sigwait([signal.SIGTERM])


def drain():
    wait()
    tell("ended")


def is_first():
    path = f"first-{INDEX}"
    found = os.path.exists(path)
    open(path, "w").close()
    return not found


"""

SERVES = "tell('begun'); serve(); drain()"
AT_ONCE = Restarts(backoff=fixed(0))
NEVER = Restarts(backoff=fixed(3600), longest_s=3600)


class Lines(logging.Handler):
    """What is said, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []
        self._more = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.getMessage())

    def add(self, line: str) -> None:
        self.all.append(line)
        self._more.set()

    async def has(self, text: str, times: int = 1) -> list[str]:
        """Wait for lines with `text`, and give them."""
        with anyio.fail_after(LIMIT_S):
            while len(found := [line for line in self.all if text in line]) < times:
                self._more = anyio.Event()
                await self._more.wait()
        return found

    async def first(self, number: int) -> list[str]:
        """Wait for so many lines, and give them."""
        await self.has("", number)
        return self.all[:number]


class Stage:
    """Runs scripts as processes of a supervisor; `told` is what they tell, `log` what it logs."""

    def __init__(self, log: Lines) -> None:
        self.told = Lines()
        self.log = log
        self.code: int | None = None
        os.mkfifo("ear")
        self._ear = os.open("ear", os.O_RDONLY | os.O_NONBLOCK)

    @asynccontextmanager
    async def supervise(
        self,
        script: str,
        *,
        changes: AsyncIterator[str] | None = None,
        on_terminal: bool = False,
        **service: Any,
    ) -> AsyncGenerator[Supervisor]:
        """Supervise until the end, which comes of what is done meanwhile, and leaves nobody."""
        command = [sys.executable, "-I", "-S", "-c", CHILD + script]
        service = {"command": command, "patience_s": LIMIT_S, "restarts": AT_ONCE, **service}
        supervisor = Supervisor(Service(**service), changes, on_terminal=on_terminal)
        mouth = os.open("ear", os.O_WRONLY)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            try:
                async with anyio.create_task_group() as running:
                    running.start_soon(self._run, supervisor)
                    yield supervisor
                    running.cancel_scope.deadline = anyio.current_time() + LIMIT_S
            finally:
                supervisor.act_on(signal.SIGTERM)
                supervisor.act_on(signal.SIGTERM)
                os.close(mouth)
                tasks.cancel_scope.deadline = anyio.current_time() + LIMIT_S
        assert not tasks.cancel_scope.cancelled_caught, "processes are left"
        os.close(self._ear)

    def mark(self, name: str) -> None:
        """Make a file that scripts look for."""
        Path(name).touch()

    def unmark(self, name: str) -> None:
        """Remove such a file."""
        Path(name).unlink()

    async def _run(self, supervisor: Supervisor) -> None:
        self.code = await supervisor.run()

    async def _listen(self) -> None:
        heard = b""
        await anyio.wait_readable(self._ear)
        while more := os.read(self._ear, 65536):
            *lines, heard = (heard + more).split(b"\n")
            for line in lines:
                self.told.add(line.decode())
            await anyio.wait_readable(self._ear)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.chdir(tmp_path)
    logger, log = logging.getLogger("asyafw.cli"), Lines()
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(log)
    yield Stage(log)
    logger.removeHandler(log)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_all_processes_drain(stage: Stage, signum: signal.Signals) -> None:
    async with stage.supervise(SERVES, count=3):
        await stage.told.has("begun", 3)

        os.kill(os.getpid(), signum)

    assert stage.code == 0
    assert sorted(stage.told.all) == sorted(
        f"{what} {index}" for what in ("begun", "ended") for index in range(3)
    )


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("sys.exit(3)", "process 1 ended with 3 after "),
        ("sys.exit()", "process 1 ended with 0 after "),
        ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 was ended by SIGKILL after "),
        (
            "os.kill(os.getpid(), signal.SIGRTMIN + 3)",
            f"process 1 was ended by signal {signal.SIGRTMIN + 3} after ",
        ),
    ],
)
async def test_a_process_that_ends_by_itself_is_started_again(
    stage: Stage, end: str, said: str
) -> None:
    script = f"tell('begun'); serve()\nif INDEX == '1' and is_first(): {end}\ndrain()"
    async with stage.supervise(script, count=2) as supervisor:
        await stage.told.has("begun 1", 2)
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0
    assert stage.told.all.count("begun 0") == 1
    (line,) = await stage.log.has(said)
    assert line.endswith(" s; it starts again in 0.0 s")


async def test_what_cannot_be_started_is_tried_again(stage: Stage) -> None:
    async with stage.supervise("", command=["./nowhere"], count=2) as supervisor:
        await stage.log.has("process 0 cannot be started", 2)
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0


@pytest.mark.parametrize(
    ("failures", "random", "pause_s"),
    [(1, 0, 0.5), (1, 1, 1.0), (2, 1, 2.0), (5, 1, 16.0), (6, 1, 30.0), (9999, 0, 15.0)],
)
def test_pauses_double_from_a_second_to_half_a_minute(
    failures: int, random: float, pause_s: float
) -> None:
    assert Restarts().pause_s(failures, random) == pause_s


def test_failures_count_from_the_last_one_that_served_long() -> None:
    restarts = Restarts(steady_s=60)

    assert restarts.failures(4, served_s=59) == 5
    assert restarts.failures(4, served_s=60) == 1


async def test_failures_in_a_row_are_counted(stage: Stage) -> None:
    counted: list[int] = []

    def backoff(failures: int) -> float:
        counted.append(failures)
        return 0 if failures < 3 else 3600

    restarts = Restarts(backoff=backoff, longest_s=3600)
    async with stage.supervise("serve(); sys.exit(1)", restarts=restarts) as supervisor:
        await stage.log.has("it starts again", 3)
        supervisor.act_on(signal.SIGTERM)

    assert counted == [1, 2, 3]


async def test_a_pause_does_not_delay_the_end(stage: Stage) -> None:
    async with stage.supervise("sys.exit(1)", restarts=NEVER) as supervisor:
        await stage.log.has("it starts again")
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0


async def test_a_command_that_is_wrong_ends_all(stage: Stage) -> None:
    script = f"if INDEX == '1': sys.exit(2)\n{SERVES}"
    async with stage.supervise(script, count=2):
        pass

    assert stage.code == 2
    assert "process 1 ended with 2" in "".join(stage.log.all)
    assert "begun 0" not in stage.told.all or stage.told.all == ["begun 0", "ended 0"]


async def test_a_command_that_has_served_is_not_given_up(stage: Stage) -> None:
    script = f"if is_first(): serve(); sys.exit(2)\n{SERVES}"
    async with stage.supervise(script) as supervisor:
        await stage.told.has("begun")
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0


@pytest.mark.parametrize("end", ["sys.exit(1)", "os.abort()"])
async def test_a_process_that_does_not_end_well_is_told_by_the_exit_code(
    stage: Stage, end: str
) -> None:
    script = f"tell('begun'); drain()\nif INDEX == '0': {end}"
    async with stage.supervise(script, count=2) as supervisor:
        await stage.told.has("begun", 2)
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 1


async def test_a_process_that_has_not_begun_ends_well(stage: Stage) -> None:
    script = "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]); tell('begun'); wait()"
    async with stage.supervise(script) as supervisor:
        await stage.told.has("begun")
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_kills(stage: Stage, signum: signal.Signals) -> None:
    # With what the processes have started themselves.
    script = "os.fork(); tell('begun'); wait(); tell('asked'); time.sleep(3600)"
    async with stage.supervise(script, count=2) as supervisor:
        await stage.told.has("begun", 4)
        supervisor.act_on(signum)
        await stage.told.has("asked", 2)

        supervisor.act_on(signum)

    assert stage.code == 128 + signum


async def test_a_process_that_does_not_end_is_killed(stage: Stage) -> None:
    script = "tell('begun'); wait(); wait()"
    async with stage.supervise(script, patience_s=0) as supervisor:
        await stage.told.has("begun")
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 1
    assert "the worker does not end, and is killed" in stage.log.all


async def test_a_hangup_replaces_processes_one_at_a_time(stage: Stage) -> None:
    async with stage.supervise(SERVES, count=2) as supervisor:
        await stage.told.has("begun", 2)

        os.kill(os.getpid(), signal.SIGHUP)
        await stage.log.has("replaced all")
        told = await stage.told.first(6)
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0
    assert told[2:] == ["ended 0", "begun 0", "ended 1", "begun 1"]


async def test_processes_stay_when_their_replacement_does_not_serve(stage: Stage) -> None:
    script = f"if os.path.exists('broken'): sys.exit(2)\n{SERVES}"
    async with stage.supervise(script, count=2, restarts=NEVER) as supervisor:
        supervisor.act_on(signal.SIGHUP)
        await stage.log.has("replaced all")
        so_far = len(stage.told.all)
        stage.mark("broken")

        supervisor.act_on(signal.SIGHUP)
        await stage.log.has("does not serve")
        told = stage.told.all[so_far:]
        stage.unmark("broken")
        supervisor.act_on(signal.SIGHUP)
        await stage.log.has("replaced all", 2)
        supervisor.act_on(signal.SIGTERM)

    assert stage.code == 0
    assert told == ["ended 0"]


async def test_another_hangup_begins_again(stage: Stage) -> None:
    script = f"if os.path.exists('broken'): tell('hangs'); drain()\nelse: {SERVES}"
    async with stage.supervise(script, count=2) as supervisor:
        await stage.told.has("begun", 2)
        stage.mark("broken")
        supervisor.act_on(signal.SIGHUP)
        await stage.told.has("hangs")
        stage.unmark("broken")

        supervisor.act_on(signal.SIGHUP)
        await stage.log.has("replaced all")
        told = await stage.told.first(8)
        supervisor.act_on(signal.SIGTERM)

    assert told[2:] == ["ended 0", "hangs 0", "ended 0", "begun 0", "ended 1", "begun 1"]


async def test_a_hangup_during_a_drain_changes_nothing(stage: Stage) -> None:
    async with stage.supervise(SERVES, count=2) as supervisor:
        await stage.told.has("begun", 2)

        supervisor.act_on(signal.SIGTERM)
        supervisor.act_on(signal.SIGHUP)

    assert stage.code == 0
    assert len(stage.told.all) == 4
    assert not any("replacing" in line for line in stage.log.all)


async def test_the_end_of_the_terminal_lets_processes_drain(stage: Stage) -> None:
    async with stage.supervise(SERVES, on_terminal=True) as supervisor:
        await stage.told.has("begun")

        supervisor.act_on(signal.SIGHUP)
        supervisor.act_on(signal.SIGHUP)

    assert stage.code == 0
    assert stage.told.all == ["begun 0", "ended 0"]


async def test_a_change_restarts_all_processes_also_those_that_failed(stage: Stage) -> None:
    send, receive = anyio.create_memory_object_stream[str]()
    script = f"if INDEX == '1' and is_first(): tell('fails'); sys.exit(2)\n{SERVES}"
    async with (
        send,
        receive,
        stage.supervise(script, count=2, restarts=None, changes=aiter(receive)) as supervisor,
    ):
        await stage.told.has("begun 0")
        (said,) = await stage.log.has("process 1 ended with 2")

        await send.send("a.py")
        await stage.told.has("begun", 3)
        supervisor.act_on(signal.SIGTERM)

    assert said.endswith("it starts again when a file changes")
    assert "restarting, because of changes in a.py" in stage.log.all
    assert stage.told.all.count("begun 0") == 2
    assert stage.code == 0
