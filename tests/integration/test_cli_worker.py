import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.integration.cli import LIMIT_S, PIPELINE, call, environment, running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return tmp_path


def answer(address: str, page: str) -> tuple[int, str]:
    try:
        with urlopen(f"{address}{page}", timeout=LIMIT_S) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_a_worker_answers_for_its_state(folder: Path) -> None:
    arguments = ("worker", "pipeline", "--status", "127.0.0.1:0", "--log-format", "json")
    with running(folder, *arguments, FIRST="hold") as worker:
        address = json.loads(worker.logged("status on"))["event"].removeprefix("status on ")
        worker.logged("serving")
        assert worker.line() == "begun hold"

        healthy, ready = answer(address, "/healthz"), answer(address, "/readyz")
        code, metrics = answer(address, "/metrics")
        worker.signal(signal.SIGTERM)
        while (draining := answer(address, "/readyz")) == ready:
            assert worker.process.poll() is None
        (folder / "go").touch()
        end = worker.end()

    assert (healthy, ready) == ((200, "ok\n"), (200, "ok\n"))
    assert code == 200
    assert 'asyafw_in_flight{actor="hold"} 1.0' in metrics
    assert draining == (503, "the worker is draining\n")
    assert end[0] == 0


def test_a_worker_that_opens_is_healthy_and_not_ready(folder: Path) -> None:
    with running(folder, "worker", "pipeline", "--status", "localhost:0", FIRST="never") as worker:
        address = json.loads(worker.logged("status on"))["event"].removeprefix("status on ")
        assert worker.line() == "opening"

        healthy, ready = answer(address, "/healthz"), answer(address, "/readyz")

    assert healthy == (200, "ok\n")
    assert ready == (503, "the worker is starting\n")


def test_logs_are_as_they_are_asked_for(folder: Path) -> None:
    lines: dict[str, str] = {}
    for form in ("json", "console"):
        arguments = ("worker", "pipeline", "--log-format", form, "--actors", "judge,enhance")
        with running(folder, *arguments) as worker:
            lines[form] = worker.logged("serving")
            worker.signal(signal.SIGTERM)
            assert worker.end()[0] == 0
    quiet = call(
        folder, "run", "pipeline", "--flow", "photos", "--payload", '{"uri": "bad"}',
        "--log-level", "critical",
    )  # fmt: skip

    assert json.loads(lines["json"])["event"] == "serving judge, enhance on memory://"
    assert re.search(r"serving judge, enhance on memory://", lines["console"])
    assert not lines["console"].startswith("{")
    assert len(quiet.stderr.splitlines()) == 1


def test_credentials_are_not_logged(folder: Path) -> None:
    (folder / "shared_transport.py").write_text(
        "from asyafw import memory\n\n\ndef from_url(url):\n    return memory.from_url('memory://')\n"
    )
    metadata = folder / "shared_transport-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: shared-transport\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[asyafw.transports]\nshared = shared_transport:from_url\n"
    )
    with running(
        folder, "worker", "pipeline", ASYAFW_TRANSPORT="shared://me:hunter2@host"
    ) as worker:
        assert "shared://***@host" in worker.logged("serving")
        worker.signal(signal.SIGTERM)
        _, _, err = worker.end()

    assert "hunter2" not in err


def test_a_change_restarts_the_worker_and_drains_the_old_one(folder: Path) -> None:
    with running(folder, "worker", "pipeline", "--reload", FIRST="hold") as worker:
        assert worker.line() == "begun hold"
        worker.logged("serving")

        (folder / "pipeline.py").write_text(PIPELINE.replace('"begun"', '"anew"'))
        worker.logged("restarting")
        worker.logged("stopping")
        (folder / "go").touch()
        lines = [worker.line() for _ in range(4)]
        worker.logged("serving")
        worker.signal(signal.SIGINT)
        code, _, err = worker.end()

    assert lines == ["finished hold", "closed", "anew hold", "finished hold"]
    assert code == 0, err
    assert "Traceback" not in err


def test_a_worker_that_cannot_start_waits_for_a_change(folder: Path) -> None:
    (folder / "pipeline.py").write_text("1 / 0\n")
    with running(folder, "worker", "pipeline", "--reload") as worker:
        worker.logged("ZeroDivisionError")
        worker.logged("it starts again when a file changes")

        (folder / "pipeline.py").write_text(PIPELINE)
        worker.logged("serving")
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()

    assert code == 0, err


def test_a_second_signal_ends_a_reloading_worker_at_once(folder: Path) -> None:
    with running(folder, "worker", "pipeline", "--reload", FIRST="hold") as worker:
        assert worker.line() == "begun hold"
        worker.logged("serving")

        worker.signal(signal.SIGINT)
        worker.logged("stopping")
        worker.signal(signal.SIGINT)
        code, out, _ = worker.end()

    assert code == 128 + signal.SIGINT
    assert out == ""


@pytest.mark.parametrize("way", [["-m", "asyafw"], ["-P", "-m", "asyafw"]])
def test_the_folder_of_the_command_is_searched_for_the_target(folder: Path, way: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *way, "check", "pipeline"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr


HEAVY = [
    *("aiokafka", "numpy", "obstore", "opentelemetry", "prometheus_client", "redis"),
    *("rich", "starlette", "structlog", "torch", "typer"),
]


@pytest.mark.parametrize("module", ["asyafw", "asyafw.app", "asyafw.dead_letters"])
def test_importing_asyafw_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )

    assert done.stdout == "[]\n"
