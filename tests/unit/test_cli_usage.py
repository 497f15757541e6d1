import socket
import sys
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from asyafw.cli import app
from tests.unit.cli import Command, commands

PIPELINE = """
from asyafw import App, actor


@actor
async def enhance(uri: str) -> str:
    return uri


app = App([enhance], {"photos": ["enhance"]})
"""

COMMANDS = [
    *(["run"], ["worker"], ["submit"], ["check"], ["actors"], ["queues"], ["dead-letters"]),
    *(["dead-letters", each] for each in ("list", "show", "replay", "discard")),
]


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Generator[Command]:
    with commands(tmp_path, monkeypatch, capfd) as cli:
        (tmp_path / "target_pipeline.py").write_text(PIPELINE)
        yield cli


def test_the_version_is_told(cli: Command) -> None:
    assert cli("--version") == (0, f"asyafw {version('asyafw')}\n", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_has_help(cli: Command, command: list[str], option: str) -> None:
    code, out, err = cli(*command, option)

    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")


def test_every_option_has_its_environment_variable() -> None:
    # What decides about many messages at once is to be typed.
    typed = {"--all", "--yes", "--version", "--help", "--install-completion", "--show-completion"}
    options = {
        option.opts[0]: option.envvar
        for command in _commands(typer.main.get_command(app))
        for option in command.params
        if option.param_type_name == "option"
    }

    assert {name for name, variable in options.items() if variable is None} <= typed
    for name, variable in options.items() - dict.fromkeys(typed).items():
        assert variable == "ASYAFW_" + name.removeprefix("--").replace("-", "_").upper()


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


def test_an_option_can_come_from_the_environment(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYAFW_TARGET", "target_pipeline")
    monkeypatch.setenv("ASYAFW_JSON", "1")

    assert cli("check").json() == {"problems": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere"], "there is no module 'nowhere'"),
        (["run", "target_pipeline:nothing"], "module 'target_pipeline' has no 'nothing'"),
        (["run", "target_pipeline:enhance"], "'target_pipeline:enhance' is of type Actor, not App"),
        (["run", "target_pipeline.py"], "write its module, 'target_pipeline'"),
        (
            ["run", "target_pipeline", "--flow", "photos", "--payload", "{uri}"],
            "the payload is not JSON",
        ),
        (
            ["run", "target_pipeline", "--flow", "photos", "--payload", "3"],
            "Expected `str`, got `int`",
        ),
        (
            ["run", "target_pipeline", "--flow", "photos", "--payload", "@nowhere.json"],
            "nowhere.json",
        ),
        (["run", "target_pipeline", "--flow", "photo", "--payload", "1"], "did you mean 'photos'?"),
        (["run", "target_pipeline", "--flow", "photos"], "--flow and --payload belong together"),
        (["run", "target_pipeline", "--transport", "redi://x"], "did you mean 'redis'?"),
        (["run", "target_pipeline", "--transport", "localhost"], "is no transport's URL"),
        (["run", "target_pipeline", "--actors", "enhance,nobody"], "has no actor 'nobody'"),
        (["run", "target_pipeline", "--timeout", "-1"], "--timeout"),
        (["run", "target_pipeline", "--drain-timeout", "inf"], "--drain-timeout"),
        (["run", "target_pipeline", "--in-flight", "0"], "--in-flight"),
        (["run", "target_pipeline", "--log-level", "loud"], "--log-level"),
        (
            ["worker", "target_pipeline", "--processes", "2"],
            "each process would have queues of its own",
        ),
        (
            [
                "worker",
                "target_pipeline",
                "--processes",
                "2",
                "--transport",
                "redis://x",
                "--status",
                "localhost:65535",
            ],
            "leaves no ports for 2 processes",
        ),
        (["worker", "target_pipeline", "--status", "9100"], "takes HOST:PORT"),
        (["worker", "target_pipeline", "--status", "127.0.0.1:70000"], "takes HOST:PORT"),
        (["submit", "target_pipeline", "photos", "--payload", "1"], "inside this process"),
        (["submit", "target_pipeline", "--payload", "1"], "name a flow, or a route"),
        (
            ["submit", "target_pipeline", "photos", "--route", "a", "--payload", "1"],
            "name a flow, or",
        ),
        (["queues"], "name an app, or queues by --actors"),
        (["dead-letters", "replay"], "--all"),
        (["dead-letters", "discard", "an-id", "--all"], "--all"),
        (["danse"], "No such command 'danse'"),
    ],
    ids=str,
)
def test_what_is_used_wrongly_is_said_without_a_traceback(
    cli: Command, arguments: list[str], said: str
) -> None:
    code, out, err = cli(*arguments)

    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_an_extra_that_is_missing_is_named(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)

    code, _, err = cli("worker", "target_pipeline", "--reload")

    assert code == 2
    assert err.endswith("Error: --reload needs an extra: pip install 'asyafw[reload]'\n")


def test_an_address_that_is_taken_is_told(cli: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code, _, err = cli("worker", "target_pipeline", "--status", f"127.0.0.1:{port}")

    assert code == 2
    assert f"Error: the status server cannot listen on 127.0.0.1:{port}" in err


@pytest.mark.parametrize("password", ["hu[sh", "hu\u2100sh", "hu#sh"])
@pytest.mark.parametrize("command", ["worker", "run", "queues"])
def test_a_password_that_should_have_been_encoded_is_not_shown(
    cli: Command, command: str, password: str
) -> None:
    target = {"worker": ["target_pipeline"], "run": ["target_pipeline", "photos"], "queues": []}
    payload = ["--payload", '"cat.png"'] if command == "run" else []
    url = f"redis://:{password}@127.0.0.1:1"

    code, out, err = cli(command, *target[command], *payload, "--transport", url)

    assert code != 0
    assert password not in out + err
    assert "Traceback" not in err
