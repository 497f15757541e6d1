import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli import LIMIT_S, PIPELINE, call, environment, running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return tmp_path


PHOTOS = ("run", "pipeline", "--flow", "photos", "--payload")


def test_the_result_of_a_job_is_a_line_of_json(folder: Path) -> None:
    done = call(folder, *PHOTOS, '{"uri": "größe 🦊"}')

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == '{"uri":"größe 🦊","score":1.0}'


def test_results_are_utf_8_whatever_the_locale(folder: Path) -> None:
    done = call(folder, *PHOTOS, '{"uri": "größe"}', PYTHONIOENCODING="ascii")

    assert done.returncode == 0, done.stderr
    assert "größe" in done.stdout


def test_a_payload_can_be_a_file(folder: Path) -> None:
    (folder / "photo.json").write_text('{\n  "uri": "a"\n}\n')

    done = call(folder, *PHOTOS, "@photo.json")

    assert done.stdout.startswith('{"uri":"a","score":1.0}\n')


def test_a_failed_job_is_told_with_its_actor_and_error(folder: Path) -> None:
    done = call(folder, *PHOTOS, '{"uri": "bad ünïcode"}')

    assert done.returncode == 1
    assert "{" not in done.stdout
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: job ")
    assert error.endswith("failed: ValueError in enhance: no such photo: bad ünïcode")


def test_a_failed_job_is_an_object_for_programs(folder: Path) -> None:
    done = call(folder, *PHOTOS, '{"uri": "bad"}', "--json")

    assert done.returncode == 1
    told = json.loads(done.stdout.splitlines()[0])
    assert told.keys() == {"job", "error"}
    assert told["error"] == {
        "type": "ValueError",
        "message": "no such photo: bad",
        "actor": "enhance",
        "attempts": 1,
    }


def test_a_job_that_takes_too_long_has_failed(folder: Path) -> None:
    arguments = ("run", "pipeline", "--flow", "endless", "--payload", '"a"')

    done = call(folder, *arguments, "--timeout", "0.1", "--drain-timeout", "0.1")

    assert done.returncode == 1
    assert "did not end in 0.1 s" in done.stderr


def test_a_thousand_lines_give_their_results_in_order(folder: Path) -> None:
    lines = "".join(f'{{"uri": "{number}"}}\n' for number in range(1000))

    done = call(folder, *PHOTOS, "-", "--log-level", "error", stdin=lines)

    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert [result["uri"] for result in results] == [str(number) for number in range(1000)]


def test_lines_that_fail_do_not_hinder_the_others(folder: Path) -> None:
    lines = '{"uri": "a"}\n\n{"uri": 3}\nno json\n{"uri": "bad"}\n{"uri": "ü"}'

    done = call(folder, *PHOTOS, "-", "--json", stdin=lines)

    assert done.returncode == 1
    told = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert [(each["line"], "result" in each) for each in told] == [
        (1, True),
        (3, False),
        (4, False),
        (5, False),
        (6, True),
    ]
    assert "at `$.uri`" in told[1]["error"]["message"]
    assert told[4]["result"]["uri"] == "ü"


def test_bytes_that_are_no_text_are_a_line_that_fails(folder: Path) -> None:
    done = call(folder, *PHOTOS, "-", stdin=b'{"uri": "\xff"}\n{"uri": "a"}\n')

    assert done.returncode == 1
    assert "line 1: the payload is not JSON" in done.stderr
    assert '{"uri":"a","score":1.0}' in done.stdout


def test_a_result_is_printed_before_the_next_line_is_there(folder: Path) -> None:
    with running(folder, *PHOTOS, "-") as run:
        for name in ("a", "b"):
            run.stdin.write(f'{{"uri": "{name}"}}\n')
            assert json.loads(run.line())["uri"] == name
        run.end_input()
        code = run.process.wait(LIMIT_S)

    assert code == 0


def test_no_more_jobs_than_allowed_are_under_way(folder: Path) -> None:
    arguments = ("run", "pipeline", "--flow", "hold", "--payload", "-", "--in-flight", "3")
    with running(folder, *arguments) as run:
        run.stdin.write("".join(f'"{number}"\n' for number in range(20)))
        run.end_input()
        begun = [run.line() for _ in range(3)]
        (folder / "go").touch()
        rest = [run.line() for _ in range(3)]

    assert begun == ["begun 0", "begun 1", "begun 2"]
    assert not any(line.startswith("begun") for line in rest[:1])


def test_standard_input_may_be_empty_or_closed(folder: Path) -> None:
    empty = call(folder, *PHOTOS, "-")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -m asyafw "$@" <&-', sys.executable, *PHOTOS, "-"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert empty.returncode == 0
    assert closed.returncode == 0, closed.stderr


def test_a_reader_that_leaves_ends_the_command_without_a_traceback(folder: Path) -> None:
    script = (
        'seq 2000 | sed \'s/.*/{"uri": "&"}/\''
        f" | {sys.executable} -m asyafw {' '.join(PHOTOS)} - | head -n 1; echo ${{PIPESTATUS[2]}}"
    )

    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.stdout.splitlines() == ['{"uri":"1","score":1.0}', "1"]
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_progress_is_shown_on_a_terminal_only(folder: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "asyafw", *PHOTOS, '{"uri": "a"}'],
        cwd=folder,
        env=environment(TERM="xterm", COLUMNS="100"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    shown = _everything(master)
    assert process.stdout is not None
    result = process.stdout.read().decode()
    process.stdout.close()

    piped = call(folder, *PHOTOS, '{"uri": "a"}')

    assert process.wait(LIMIT_S) == 0
    assert result.startswith('{"uri":"a","score":1.0}\n')
    assert "enhance → judge → enhance → judge" in shown
    assert "1 succeeded, 0 running" in shown
    assert "→" not in piped.stderr


def test_results_and_progress_share_a_terminal(folder: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "asyafw", *PHOTOS, '{"uri": "%s"}' % ("a" * 200)],
        cwd=folder,
        env=environment(TERM="xterm", COLUMNS="80"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = _everything(master)

    assert process.wait(LIMIT_S) == 0
    assert f'{{"uri":"{"a" * 200}","score":1.0}}' in shown


def _everything(terminal: int) -> str:
    seen = b""
    try:
        while chunk := os.read(terminal, 65_536):
            seen += chunk
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(terminal)
    return seen.decode()


def test_options_come_from_the_environment_too(folder: Path) -> None:
    done = call(
        folder,
        "run",
        ASYAFW_TARGET="pipeline",
        ASYAFW_FLOW="photos",
        ASYAFW_PAYLOAD='{"uri": "a"}',
        ASYAFW_JSON="1",
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["result"] == {"uri": "a", "score": 1.0}


def test_a_module_that_does_not_import_shows_its_own_traceback(folder: Path) -> None:
    (folder / "broken.py").write_text("import math\n\n\ndef f():\n    return 1 / 0\n\n\nf()\n")

    done = call(folder, "run", "broken")

    assert done.returncode == 2
    assert "module 'broken' fails as it is imported" in done.stderr
    assert 'broken.py", line 5, in f' in done.stderr
    assert "asyafw/" not in done.stderr


def test_an_app_that_cannot_be_opened_shows_why(folder: Path) -> None:
    (folder / "unloadable.py").write_text(
        "from asyafw import App, actor\n\n\n"
        "@actor\nclass Model:\n"
        "    async def __aenter__(self):\n        raise OSError('no weights')\n\n"
        "    async def __aexit__(self, *exc_info):\n        pass\n\n"
        "    async def __call__(self, x: int) -> int:\n        return x\n\n\n"
        "app = App([Model])\n"
    )

    done = call(folder, "worker", "unloadable")

    assert done.returncode == 1
    assert done.stderr.endswith("OSError: no weights\n")
    assert "typer" not in done.stderr
