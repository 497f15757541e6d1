import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from msgspec import Raw

from asyafw.context import Context
from asyafw.envelope import Envelope, Route
from asyafw.exceptions import (
    CircuitOpen,
    ConfigurationError,
    JobCancelled,
    RateLimited,
    Reject,
    Retry,
)
from asyafw.middleware import Handler, compose, retry
from asyafw.retry import RetryPolicy
from asyafw.telemetry import configure_logging, current, log_outcomes

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "what the payload says"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    held = [logging.getLogger(name) for name in ("aiokafka", "aiosqlite", "hpack", "httpcore")]
    handlers, levels = root.handlers[:], [logger.level for logger in (root, *held)]
    yield
    root.handlers[:] = handlers
    for logger, level in zip((root, *held), levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def context(attempt: int = 1, **headers: str) -> Context:
    envelope = Envelope(
        id="m1", job="j1", route=Route("enhance"), payload=Raw(b"\xc0"), headers=headers
    )
    return Context(envelope, attempt=attempt, state=SimpleNamespace())


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def raising(error: BaseException) -> Handler:
    async def handler(_payload: Any, _ctx: Context) -> Any:
        raise error

    return handler


async def handled(handler: Handler, ctx: Context | None = None) -> None:
    """Run a handler inside `log_outcomes`, whose re-raised error is not of interest."""
    with suppress(Exception):
        await compose([log_outcomes()], handler)(SECRET, ctx or context())


def test_lines_are_json_where_nobody_watches(out: io.StringIO) -> None:
    configure_logging(stream=out)

    structlog.get_logger("mine").info("loaded", model="sdxl")

    (line,) = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "loaded", "model": "sdxl", "level": "info", "logger": "mine"}


def test_lines_are_for_reading_on_a_terminal() -> None:
    terminal = Terminal()
    configure_logging(stream=terminal)

    structlog.get_logger("mine").info("loaded", model="sdxl")

    assert "loaded" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


@pytest.mark.parametrize(("stream", "as_json"), [(Terminal(), True), (io.StringIO(), False)])
def test_the_form_can_be_chosen(stream: io.StringIO, as_json: bool) -> None:  # noqa: FBT001
    configure_logging(json=as_json, stream=stream)

    logging.getLogger("mine").warning("loaded")

    assert stream.getvalue().startswith("{") is as_json
    assert "\x1b" not in stream.getvalue()


def test_the_standard_librarys_lines_look_alike(out: io.StringIO) -> None:
    configure_logging(stream=out)

    structlog.get_logger("mine").warning("loaded %s", "sdxl", seconds=3)
    logging.getLogger("mine").warning("loaded %s", "sdxl", extra={"seconds": 3})

    ours, theirs = lines(out)
    assert ours | {"timestamp": ""} == theirs | {"timestamp": ""}


def test_configuring_again_replaces_the_first_time(out: io.StringIO) -> None:
    configure_logging(stream=io.StringIO())
    configure_logging(stream=out)

    logging.getLogger("mine").warning("once")

    assert len(lines(out)) == 1


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()

    logging.getLogger("mine").warning("here")

    assert json.loads(capsys.readouterr().err)["event"] == "here"


@pytest.mark.parametrize(("level", "seen"), [("warning", ["w"]), ("DEBUG", ["d", "w"])])
def test_the_level_holds_for_both_kinds_of_loggers(
    out: io.StringIO, level: str, seen: list[str]
) -> None:
    configure_logging(level=level, stream=out)

    for logger in (structlog.get_logger("mine"), logging.getLogger("mine")):
        logger.debug("d")
        logger.warning("w")

    assert [line["event"] for line in lines(out)] == seen * 2


def test_an_unknown_level_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no log level 'loud'"):
        configure_logging(level="loud")


def test_libraries_that_print_payloads_when_debugging_do_not(out: io.StringIO) -> None:
    configure_logging(level="debug", stream=out)

    logging.getLogger("aiokafka.producer").debug(SECRET)
    logging.getLogger("aiokafka.producer").info("connected")

    assert [line["event"] for line in lines(out)] == ["connected"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_exceptions_are_logged_without_local_variables(stream: io.StringIO) -> None:
    configure_logging(stream=stream)

    def fails(payload: str) -> None:
        kept = payload
        raise ValueError(f"{len(kept)} is too long")

    for logger in (structlog.get_logger("mine"), logging.getLogger("mine")):
        try:
            fails(SECRET)
        except ValueError:
            logger.exception("failed")

    assert stream.getvalue().count("ValueError: 21 is too long") == 2
    assert stream.getvalue().count("in fails") == 2
    assert SECRET not in stream.getvalue()


def test_lines_carry_the_message_in_hand(out: io.StringIO) -> None:
    configure_logging(stream=out)
    token = current.set(context(attempt=2, traceparent=TRACEPARENT))

    structlog.get_logger("mine").info("here")
    logging.getLogger("mine").info("here")
    current.reset(token)
    logging.getLogger("mine").info("there")

    ids = {
        "job": "j1",
        "actor": "enhance",
        "message_id": "m1",
        "attempt": 2,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }
    first, second, third = lines(out)
    assert first.items() >= ids.items()
    assert second.items() >= ids.items()
    assert third.keys().isdisjoint(ids)


def test_what_a_line_says_itself_comes_first(out: io.StringIO) -> None:
    configure_logging(stream=out)
    token = current.set(context())

    structlog.get_logger("mine").info("here", job="another")
    current.reset(token)

    assert lines(out)[0]["job"] == "another"


@pytest.mark.parametrize("header", ["", "x", "00-zz-zz-01", "00-" + "a" * 500])
def test_a_header_that_is_no_traceparent_is_not_logged(out: io.StringIO, header: str) -> None:
    configure_logging(stream=out)
    token = current.set(context(traceparent=header))

    logging.getLogger("mine").info("here")
    current.reset(token)

    assert "trace_id" not in lines(out)[0]


def test_the_contexts_own_logger_is_formatted_too(out: io.StringIO) -> None:
    configure_logging(stream=out)

    context().log.info("denoising", step=3)

    assert lines(out)[0].items() >= {"event": "denoising", "step": 3, "job": "j1"}.items()


@pytest.mark.anyio
async def test_success_is_told_at_debug_level_only(out: io.StringIO) -> None:
    async def handler(payload: Any, _ctx: Context) -> Any:
        return payload

    configure_logging(level="info", stream=out)
    await handled(handler)
    assert lines(out) == []

    configure_logging(level="debug", stream=out)
    await handled(handler)
    assert lines(out)[0]["event"] == "enhance has handled a message"


@pytest.mark.anyio
async def test_a_retry_is_one_warning_with_its_cause_and_delay(out: io.StringIO) -> None:
    configure_logging(stream=out)
    policy = RetryPolicy(max_attempts=3, jitter=0)
    failing = compose([retry(policy)], raising(ConnectionError("model is\naway")))

    await handled(failing, context(attempt=2))

    (line,) = lines(out)
    assert line["level"] == "warning"
    assert line["event"].startswith("enhance runs a message again in ")
    assert line["event"].endswith(" s: ConnectionError: model is")
    assert line["error_type"] == "ConnectionError"
    assert line["delay_s"] > 0
    assert (line["job"], line["message_id"], line["attempt"]) == ("j1", "m1", 2)


@pytest.mark.anyio
async def test_a_wait_that_is_no_attempt_is_information(out: io.StringIO) -> None:
    configure_logging(stream=out)

    await handled(raising(Retry("rate limit", after_s=5, counted=False)))

    (line,) = lines(out)
    assert (line["level"], line["delay_s"]) == ("info", 5)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RateLimited, CircuitOpen])
async def test_to_wait_for_a_limit_is_told_at_debug_level_only(
    out: io.StringIO, error: type[Retry]
) -> None:
    limited = compose([retry(RetryPolicy())], raising(error(after_s=5, counted=False)))

    configure_logging(level="info", stream=out)
    await handled(limited)
    assert lines(out) == []

    configure_logging(level="debug", stream=out)
    await handled(limited)
    assert lines(out)[0]["error_type"].endswith(error.__name__)


@pytest.mark.anyio
async def test_a_final_failure_is_one_error_with_its_traceback(out: io.StringIO) -> None:
    configure_logging(stream=out)

    await handled(raising(ValueError("no such style")))

    (line,) = lines(out)
    assert line["level"] == "error"
    assert line["event"] == "enhance failed for good: ValueError: no such style"
    assert "in handler" in line["exception"]
    assert SECRET not in out.getvalue()


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Reject("not a photo"), JobCancelled("j1")])
async def test_decisions_are_information(out: io.StringIO, error: Exception) -> None:
    configure_logging(stream=out)

    await handled(raising(error))

    (line,) = lines(out)
    assert line["level"] == "info"
    assert "exception" not in line


@pytest.mark.anyio
async def test_errors_go_on_to_the_caller() -> None:
    with pytest.raises(Reject):
        await compose([log_outcomes()], raising(Reject()))(SECRET, context())


ALONE = """
import logging
import asyafw.telemetry
import structlog

assert logging.getLogger().handlers == []
assert logging.getLogger("asyafw").handlers == []
assert not structlog.is_configured()
"""


def test_importing_telemetry_configures_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
