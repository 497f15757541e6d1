"""`asyafw worker`: some actors of an app, until a signal."""

import logging
from contextlib import ExitStack
from typing import Annotated

import typer

from asyafw.app import load_app
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
    processes: Annotated[int, option("--processes", "How many processes.", metavar="N", min=1)] = 1,
    reload: Annotated[
        bool, option("--reload", "Restart when a Python file below this folder changes.")
    ] = False,
    drain_timeout: DrainTimeout = 30.0,
    max_deliveries: Deliveries = 5,
    status: Annotated[
        str | None,
        option(
            "--status",
            "Answer /healthz, /readyz and /metrics here; port 0 takes a free one.",
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
    address = None if status is None else _address(status)
    log_as(log_level, log_format)
    if reload:
        from asyafw.cli._reload import restart_on_changes

        raise typer.Exit(restart_on_changes())
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
                server = stack.enter_context(_status_server(made, *address))
                _logger.info("status on http://%s:%d", server.host, server.port)
            await serve_until_stopped(made, stop, transport)
        return DONE

    raise typer.Exit(run_async(main, drain_timeout_s=drain_timeout))


def _check_processes(processes: int, transport: str) -> None:
    if processes == 1:
        return
    if is_memory(transport):
        raise ConfigurationError(
            f"--processes {processes} needs a broker: with {transport} each process "
            "would have queues of its own, and nobody else could send to them"
        )
    raise ConfigurationError(
        f"--processes {processes} is not available in this version: "
        "start that many workers instead, they share the queues"
    )


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise typer.BadParameter(f"--status takes HOST:PORT, as 127.0.0.1:9100, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _status_server(made: Worker, host: str, port: int) -> StatusServer:
    return StatusServer(
        host, port, metrics=made.metrics.text, healthy=made.healthy, ready=made.ready
    )
