"""`asyafw worker`: some actors of an app, until a signal."""

import logging
from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from asyafw.app import load_app
from asyafw.cli._bond import Parent
from asyafw.cli._errors import DONE
from asyafw.cli._logs import log_as
from asyafw.cli._options import (
    Actors,
    Deliveries,
    DrainTimeout,
    LogFormat,
    LogLevel,
    Target,
    TransportUrl,
    names,
    option,
)
from asyafw.cli._process import Stop, run_async, serve_until_stopped
from asyafw.cli._transport import is_memory
from asyafw.exceptions import ConfigurationError
from asyafw.telemetry import StatusServer
from asyafw.worker import Worker

__all__ = ["worker"]

_logger = logging.getLogger("asyafw.cli")


def worker(  # noqa: PLR0913 — a command has as many parameters as it has options
    target: Target,
    *,
    actors: Actors = None,
    transport: TransportUrl = "memory://",
    processes: Annotated[
        int,
        option("--processes", "So many processes, kept running by one more.", metavar="N", min=1),
    ] = 1,
    reload: Annotated[
        bool, option("--reload", "Restart when a Python file below this folder changes.")
    ] = False,
    drain_timeout: DrainTimeout = 30.0,
    max_deliveries: Deliveries = 5,
    status: Annotated[
        str | None,
        option(
            "--status",
            "Answer /healthz, /readyz and /metrics here; port 0 takes a free one. "
            "Of several processes, each has the port after that of the one before.",
            metavar="HOST:PORT",
        ),
    ] = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Serve actors until SIGTERM or Ctrl-C.

    It then receives nothing more, finishes what is in hand, hands back what takes longer
    than --drain-timeout, and exits with 0. A second signal ends it at once.
    """
    _check_processes(processes, transport)
    address = None if status is None else _address(status, processes)
    log_as(log_level, log_format)
    parent = Parent.find()
    if parent is None and (reload or processes > 1):
        from asyafw.cli._supervisor import supervise

        raise typer.Exit(supervise(processes, drain_timeout_s=drain_timeout, reload=reload))
    if parent is not None and processes > 1:
        _name_lines(parent.index)
    app = load_app(target)
    if is_memory(transport):
        _logger.warning(
            "only this process can send to %s; name a broker by --transport URL "
            "or ASYAFW_TRANSPORT to serve others",
            transport,
        )
    served = names(actors) or list(app.actors)

    async def main(stop: Stop) -> int:
        with ExitStack() as stack:
            made = app.worker(
                transport,
                actors=served,
                drain_timeout_s=drain_timeout,
                max_deliveries=max_deliveries,
            )
            if address is not None:
                server = stack.enter_context(_status_server(made, *_own(address, parent)))
                _logger.info("status on http://%s:%d", server.host, server.port)
            begun = parent.tell_that_it_serves if parent else lambda: None
            await serve_until_stopped(made, stop, transport, begun)
        return DONE

    has_parent = parent is not None
    raise typer.Exit(run_async(main, drain_timeout_s=drain_timeout, has_parent=has_parent))


def _check_processes(processes: int, transport: str) -> None:
    if processes > 1 and is_memory(transport):
        raise ConfigurationError(
            f"--processes {processes} needs a broker: with {transport} each process "
            "would have queues of its own, and nobody else could send to them"
        )


def _address(text: str, processes: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise typer.BadParameter(f"--status takes HOST:PORT, as 127.0.0.1:9100, not {text!r}")
    if int(port) + processes > 2**16:
        raise typer.BadParameter(f"--status {text} leaves no ports for {processes} processes")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _own(address: tuple[str, int], parent: Parent | None) -> tuple[str, int]:
    host, port = address
    return (host, port + parent.index) if parent and port else address


def _name_lines(index: int) -> None:
    """Let each line tell which process it is of, also in threads that know of no context."""
    from structlog.stdlib import ProcessorFormatter

    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        event["process"] = index
        return event

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, ProcessorFormatter):
            handler.formatter.processors = [add, *handler.formatter.processors]


def _status_server(made: Worker, host: str, port: int) -> StatusServer:
    return StatusServer(
        host, port, metrics=made.metrics.text, healthy=made.healthy, ready=made.ready
    )
