import signal
from pathlib import Path

import pytest

from tests.integration.cli import LIMIT_S, PIPELINE, running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return tmp_path


SIGNALS = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


@SIGNALS
def test_a_worker_finishes_what_is_in_hand_and_exits_with_0(
    folder: Path, signum: signal.Signals
) -> None:
    with running(folder, "worker", "pipeline", FIRST="hold") as worker:
        assert worker.line() == "begun hold"
        worker.logged("serving")

        worker.signal(signum)
        worker.logged("stopping")
        (folder / "go").touch()
        code, out, err = worker.end()

    assert code == 0, err
    assert out.splitlines() == ["finished hold", "closed"]
    assert "Traceback" not in err


@SIGNALS
def test_a_second_signal_ends_a_worker_at_once(folder: Path, signum: signal.Signals) -> None:
    with running(folder, "worker", "pipeline", FIRST="hold") as worker:
        assert worker.line() == "begun hold"
        worker.logged("serving")

        worker.signal(signum)
        worker.logged("stopping")
        worker.signal(signum)
        code, out, _ = worker.end()

    assert code == 128 + signum
    assert out == ""


def test_a_worker_hands_back_what_takes_longer_than_the_drain_timeout(folder: Path) -> None:
    arguments = ("worker", "pipeline", "--drain-timeout", "0.1")
    with running(folder, *arguments, FIRST="endless") as worker:
        assert worker.line() == "begun endless"
        worker.logged("serving")

        worker.signal(signal.SIGTERM)
        code, out, err = worker.end()

    assert code == 0, err
    assert out == "closed\n"
    assert "gives 1 messages back" in err


@pytest.mark.parametrize("actor", ["stuck", "stuck-in-executor"])
def test_a_stuck_thread_does_not_block_the_exit(folder: Path, actor: str) -> None:
    arguments = ("worker", "pipeline", "--drain-timeout", "0.1")
    with running(folder, *arguments, FIRST=actor) as worker:
        assert worker.line() == f"begun {actor}"
        worker.logged("serving")

        worker.signal(signal.SIGTERM)
        code, out, err = worker.end()

    assert code == 0, err
    assert out == "closed\n"


def test_handlers_that_cannot_be_cancelled_do_not_block_the_exit(folder: Path) -> None:
    arguments = ("worker", "pipeline", "--drain-timeout", "0.1")
    with (
        running(folder, *arguments, FIRST="stubborn") as stubborn,
        running(folder, *arguments, FIRST="blocking") as blocking,
    ):
        for worker in (stubborn, blocking):
            assert worker.line().startswith("begun")
            worker.signal(signal.SIGTERM)
        ends = [worker.end() for worker in (stubborn, blocking)]

    assert [code for code, _, _ in ends] == [1, 1]
    assert all("cannot be stopped" in err for _, _, err in ends)


@SIGNALS
def test_a_worker_can_be_stopped_while_it_opens(folder: Path, signum: signal.Signals) -> None:
    with running(folder, "worker", "pipeline", FIRST="never") as worker:
        assert worker.line() == "opening"

        worker.signal(signum)
        code, out, err = worker.end()

    assert code == 0, err
    assert out == ""
    assert "Traceback" not in err


def test_an_interrupt_of_the_terminal_spares_handlers_in_other_processes(folder: Path) -> None:
    with running(folder, "worker", "pipeline", FIRST="elsewhere") as worker:
        worker.logged("serving")
        while not (folder / "begun").exists():
            assert worker.process.poll() is None

        worker.interrupt_all()
        worker.logged("stopping")
        (folder / "go").touch()
        code, _, err = worker.end()

    assert code == 0, err
    assert (folder / "finished").exists()
    assert "KeyboardInterrupt" not in err
    assert "failed for good" not in err


@SIGNALS
def test_run_without_jobs_serves_until_a_signal_and_exits_with_0(
    folder: Path, signum: signal.Signals
) -> None:
    with running(folder, "run", "pipeline", FIRST="hold") as run:
        assert run.line() == "begun hold"
        run.logged("serving")

        run.signal(signum)
        run.logged("stopping")
        (folder / "go").touch()
        code, out, err = run.end()

    assert code == 0, err
    assert out.splitlines() == ["finished hold", "closed"]


@SIGNALS
def test_run_with_jobs_drains_and_exits_as_shells_tell_of_signals(
    folder: Path, signum: signal.Signals
) -> None:
    arguments = ("run", "pipeline", "--flow", "hold", "--payload", '"a"')
    with running(folder, *arguments) as run:
        assert run.line() == "begun a"

        run.signal(signum)
        run.logged("stopping")
        (folder / "go").touch()
        code, out, err = run.end()

    assert code == 128 + signum, err
    assert "finished a" in out
    assert "with 1 job unfinished" in err
    assert "Traceback" not in err


def test_run_can_be_interrupted_while_it_waits_for_input(folder: Path) -> None:
    arguments = ("run", "pipeline", "--flow", "photos", "--payload", "-")
    with running(folder, *arguments) as run:
        run.stdin.write('{"uri": "a"}\n')
        assert run.line() == '{"uri":"a","score":1.0}'

        run.signal(signal.SIGINT)
        code, out, err = run.end()

    assert code == 130, err
    assert out == "closed\n"
    assert "Traceback" not in err


def test_commands_without_a_worker_end_quietly_when_interrupted(folder: Path) -> None:
    with running(folder, "queues", "pipeline", "--watch", "--json") as watch:
        assert watch.line().startswith('[{"queue":"enhance"')

        watch.signal(signal.SIGINT)
        code, _, err = watch.end()

    assert code == 130
    assert "Traceback" not in err


def test_a_reader_that_pauses_does_not_block_the_exit(folder: Path) -> None:
    arguments = ("run", "pipeline", "--flow", "echo", "--payload", "-")
    with running(folder, *arguments, FIRST="quiet") as run:
        for _ in range(4):
            run.stdin.write(f'"{"a" * 100_000}"\n')
        while not (folder / "echoed").exists():
            assert run.process.poll() is None

        run.signal(signal.SIGINT)
        run.logged("stopping")
        code = run.process.wait(LIMIT_S)

    assert code == 130
