import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from urllib.request import urlopen
from uuid import uuid4

import pytest

from tests.integration.cli import LIMIT_S, Running, call, environment, running
from tests.servers.redis import DURABLE, redis_server

WORK = """
import asyncio
import os
from pathlib import Path

from asyafw import App, actor

Path(f"imported-{os.getpid()}").touch()


def tell(line):
    os.write(1, f"{line}\\n".encode())  # whole, where others write, too


@actor(concurrency=1)
async def hold(name: str) -> str:
    tell(f"begun {name} {os.getpid()}")
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    tell(f"finished {name}")
    return name


app = App([hold], {"hold": ["hold"]})
"""


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with redis_server(*DURABLE) as server:
        yield server.url


@pytest.fixture
def url(server_url: str) -> str:
    return f"{server_url}?prefix={uuid4().hex[:8]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


@contextmanager
def two_processes(folder: Path, url: str, *options: str) -> Generator[Running]:
    """Run two that serve."""
    arguments = ("worker", "work", "--processes", "2", "--transport", url, *options)
    with running(folder, *arguments) as worker:
        for _ in range(2):
            worker.logged("serving")
        yield worker


@contextmanager
def two_jobs(folder: Path, url: str) -> Generator[Running]:
    """Submit a job for each process, and wait for their results."""
    arguments = ("submit", "work", "hold", "--payload", "-", "--wait", "--transport", url)
    with running(folder, *arguments) as submit:
        submit.stdin.write('"a"\n"b"\n')
        submit.end_input()
        yield submit


def begun(worker: Running) -> dict[str, int]:
    """Wait until both jobs have begun; tell by which processes."""
    lines = [worker.line().split() for _ in range(2)]
    assert sorted(line[:2] for line in lines) == [["begun", "a"], ["begun", "b"]]
    return {name: int(pid) for _, name, pid in lines}


BOTH = '"a"\n"b"\n'


def test_all_processes_finish_what_is_in_hand_and_only_they_import_the_target(
    folder: Path, url: str
) -> None:
    with two_processes(folder, url) as worker, two_jobs(folder, url) as submit:
        pids = begun(worker)

        worker.signal(signal.SIGTERM)
        for _ in range(3):
            worker.logged("stopping")
        (folder / "go").touch()
        code, out, err = worker.end()
        results = submit.end()

    assert code == 0, err
    assert sorted(out.splitlines()) == ["finished a", "finished b"]
    assert "Traceback" not in err
    assert results[:2] == (0, BOTH)
    assert worker.process.pid not in pids.values()
    assert not (folder / f"imported-{worker.process.pid}").exists()
    assert all((folder / f"imported-{pid}").exists() for pid in pids.values())


def test_a_signal_that_comes_to_all_of_them_counts_once(folder: Path, url: str) -> None:
    with two_processes(folder, url) as worker, two_jobs(folder, url) as submit:
        pids = begun(worker)

        # As systemd does, and Ctrl-C.
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        worker.interrupt_all()
        for _ in range(3):
            worker.logged("stopping")
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        (folder / "go").touch()
        code, _, err = worker.end()
        results = submit.end()

    assert code == 0, err
    assert results[:2] == (0, BOTH)


def test_a_second_signal_ends_all_processes_at_once(folder: Path, url: str) -> None:
    with two_processes(folder, url) as worker, two_jobs(folder, url):
        begun(worker)

        worker.signal(signal.SIGINT)
        worker.logged("stopping")
        worker.signal(signal.SIGINT)
        code, out, _ = worker.end()

    assert code == 128 + signal.SIGINT
    assert out == ""


def test_a_killed_process_is_started_again_and_its_job_too(folder: Path, url: str) -> None:
    url = f"{url}&lease_s=2"
    with two_processes(folder, url) as worker, two_jobs(folder, url) as submit:
        pids = begun(worker)

        os.kill(pids["a"], signal.SIGKILL)
        said = worker.logged("was ended by SIGKILL")
        worker.logged("serving")
        again = worker.line().split()
        (folder / "go").touch()
        results = submit.end()
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()

    assert "it starts again in" in said
    assert again[:2] == ["begun", "a"]
    assert int(again[2]) not in pids.values()
    assert results[:2] == (0, BOTH)
    assert code == 0, err


def test_processes_whose_parent_is_killed_drain_and_leave(folder: Path, url: str) -> None:
    with two_processes(folder, url) as worker, two_jobs(folder, url) as submit:
        begun(worker)

        worker.signal(signal.SIGKILL)
        for _ in range(2):
            worker.logged("stopping")
        (folder / "go").touch()
        # It reads to the end, which comes when nobody holds the streams any more.
        code, out, _ = worker.end()
        results = submit.end()

    assert code == -signal.SIGKILL
    assert sorted(out.splitlines()) == ["finished a", "finished b"]
    assert results[:2] == (0, BOTH)


def test_a_hangup_replaces_the_processes(folder: Path, url: str) -> None:
    with two_processes(folder, url) as worker, two_jobs(folder, url) as submit:
        pids = begun(worker)

        # It is the parent's to act on, also if it comes to all.
        for pid in (*pids.values(), worker.process.pid):
            os.kill(pid, signal.SIGHUP)
        worker.logged("stopping")
        (folder / "go").touch()
        worker.logged("replaced all")
        results = submit.end()
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()

    assert results[:2] == (0, BOTH)
    assert code == 0, err
    assert "was ended by" not in err


TERMINAL = """
import os, pty, sys

streams = os.dup(1), os.dup(2)
pid, terminal = pty.fork()
if pid == 0:
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
    os.execv(sys.executable, [sys.executable, "-m", "asyafw", *sys.argv[1:]])
os.waitpid(pid, 0)
"""


def test_a_closed_terminal_lets_all_processes_drain(folder: Path, url: str) -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", TERMINAL, "worker", "work", "--processes", "2"],
            cwd=folder,
            env=environment(ASYAFW_TRANSPORT=url),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as terminal,
        two_jobs(folder, url) as submit,
    ):
        assert terminal.stdout is not None
        timer = Timer(LIMIT_S, terminal.kill)
        timer.start()
        for _ in range(2):
            assert terminal.stdout.readline().startswith("begun")

        terminal.kill()
        (folder / "go").touch()
        out = terminal.stdout.read()
        results = submit.end()
        timer.cancel()

    assert sorted(out.splitlines()) == ["finished a", "finished b"]
    assert results[:2] == (0, BOTH)


def test_each_process_has_a_number_and_a_status_port(folder: Path, url: str) -> None:
    port = two_ports()
    with two_processes(folder, url, "--status", f"127.0.0.1:{port}") as worker:
        answers = {
            index: urlopen(f"http://127.0.0.1:{port + index}/readyz", timeout=LIMIT_S).status
            for index in range(2)
        }
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()

    assert answers == {0: 200, 1: 200}
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    served = {line["event"]: line["process"] for line in lines if "status on" in line["event"]}
    assert served == {f"status on http://127.0.0.1:{port + index}": index for index in range(2)}
    assert {line.get("process") for line in lines} == {None, 0, 1}
    assert [line["process"] for line in lines if line["event"].startswith("serving")].count(0) == 1


def two_ports() -> int:
    """Find a port that is free, and the one after it, too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except OSError:
                continue


def test_a_target_that_is_wrong_ends_all(folder: Path, url: str) -> None:
    done = call(folder, "worker", "nowhere", "--processes", "2", "--transport", url)

    assert done.returncode == 2
    assert "there is no module 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "it starts again" not in done.stderr


def test_a_change_restarts_all_processes(folder: Path, url: str) -> None:
    with two_processes(folder, url, "--reload") as worker, two_jobs(folder, url) as submit:
        begun(worker)

        (folder / "work.py").write_text(WORK.replace("begun", "anew"))
        worker.logged("restarting")
        for _ in range(2):
            worker.logged("stopping")
        (folder / "go").touch()
        results = submit.end()
        for _ in range(2):
            worker.logged("serving")
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()

    assert results[:2] == (0, BOTH)
    assert code == 0, err
