"""Log lines that tell which message they belong to, and nothing of its payload."""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from re import compile as regex
from typing import Any, TextIO

from asyafw.context import Context
from asyafw.exceptions import (
    CircuitOpen,
    ConfigurationError,
    JobCancelled,
    RateLimited,
    Reject,
    Retry,
    message_of,
)
from asyafw.middleware import Handler, Middleware

__all__ = ["add_message", "configure_logging", "current", "log_outcomes"]

current: ContextVar[Context | None] = ContextVar("asyafw_current", default=None)
"""The message in hand: the worker sets it, and every line logged meanwhile carries its ids."""

# At debug level these print what they carry: payloads, SQL parameters, credentials.
_TALKATIVE = ("aiokafka", "aiosqlite", "hpack", "httpcore")
_TRACEPARENT = regex(r"[0-9a-f]{2}-([0-9a-f]{32})-")  # https://www.w3.org/TR/trace-context/
_LONGEST_REASON = 300

# The standard library's: a line of asyafw goes wherever the lines of the surrounding app go.
_logger = logging.getLogger("asyafw.messages")


def configure_logging(
    *, json: bool | None = None, level: str = "info", stream: TextIO | None = None
) -> None:
    """Send structlog's and the standard library's log lines to `stream`, all in one form.

    For programs, not for libraries: it replaces the handlers of the root logger.
    Without `json` the lines are JSON unless `stream`, by default standard error, is a terminal.
    Exceptions appear with their type, message and traceback, never with local variables.

    Raises:
        ConfigurationError: there is no such level.
    """
    import structlog
    from structlog.typing import Processor

    numeric = _level(level)
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_message,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if (not terminal if json is None else json)
        else [
            structlog.dev.ConsoleRenderer(
                colors=terminal, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=numeric, force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(numeric, logging.INFO))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def add_message(
    logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add the ids of the message in hand to a line; a structlog processor.

    They are ``job``, ``actor``, ``message_id``, ``attempt`` and, where it is traced, ``trace_id``.
    Whatever the line says itself comes first.
    """
    del logger, method_name
    ctx = current.get()
    if ctx is not None:
        for key, value in _ids(ctx).items():
            event_dict.setdefault(key, value)
    return event_dict


def log_outcomes() -> Middleware:
    """Log how handlers end; to be placed outside `asyafw.middleware.retry`.

    A retry is a warning with its cause and delay, a final failure an error with its traceback;
    a rejection, a cancelled job and a wait that does not count as an attempt are information.
    Success, and waiting for a limit, is told at debug level only.
    """

    async def log_outcomes_(payload: Any, ctx: Context, call_next: Handler) -> Any:
        try:
            result = await call_next(payload, ctx)
        except Exception as error:
            _log_error(ctx, error)
            raise
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("%s has handled a message", ctx.envelope.route.curr, extra=_ids(ctx))
        return result

    return log_outcomes_


def _log_error(ctx: Context, error: Exception) -> None:
    extra, actor = _ids(ctx), ctx.envelope.route.curr
    match error:
        case Retry():
            cause, delay_s = _cause(error), error.after_s or 0.0
            extra |= {"error_type": _type_name(cause), "delay_s": delay_s}
            level = logging.WARNING if error.counted else logging.INFO
            if isinstance(cause, CircuitOpen | RateLimited):  # as many as there are messages
                level = logging.DEBUG
            message = "%s runs a message again in %.3g s: %s"
            _logger.log(level, message, actor, delay_s, _line(cause), extra=extra)
        case Reject():
            _logger.info("%s rejected a message: %s", actor, _line(error), extra=extra)
        case JobCancelled():
            _logger.info("%s dropped a message of a cancelled job", actor, extra=extra)
        case _:
            extra |= {"error_type": _type_name(error)}
            message = "%s failed for good: %s"
            _logger.error(message, actor, _line(error), extra=extra, exc_info=error)


def _cause(error: Retry) -> BaseException:
    cause: BaseException = error
    while isinstance(cause, Retry) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause


def _line(error: BaseException) -> str:
    reason = message_of(error).partition("\n")[0][:_LONGEST_REASON]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _type_name(error: BaseException) -> str:
    cls = type(error)
    name = cls.__qualname__
    return name if cls.__module__ == "builtins" else f"{cls.__module__}.{name}"


def _ids(ctx: Context) -> dict[str, Any]:
    envelope = ctx.envelope
    ids: dict[str, Any] = {
        "job": envelope.job,
        "actor": envelope.route.curr,
        "message_id": envelope.id,
        "attempt": ctx.attempt,
    }
    traced = _TRACEPARENT.match(ctx.edited_headers.get("traceparent", ""))
    if traced:
        ids["trace_id"] = traced[1]
    return ids


def _level(name: str) -> int:
    levels = logging.getLevelNamesMapping()
    if name.upper() not in levels:
        raise ConfigurationError(
            f"there is no log level {name!r}: use debug, info, warning, error or critical"
        )
    return levels[name.upper()]
