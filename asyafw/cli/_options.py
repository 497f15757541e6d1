"""Options that commands share, each with its environment variable."""

from collections.abc import Sequence
from math import inf
from typing import Annotated, Any, Literal, TypeAlias

import typer

__all__ = [
    "Actors",
    "AsJson",
    "Deliveries",
    "DrainTimeout",
    "InFlight",
    "LogFormat",
    "LogLevel",
    "Target",
    "Timeout",
    "TransportUrl",
    "argument",
    "names",
    "option",
    "seconds",
]

_PREFIX = "ASYAFW_"


def option(name: str, description: str, **more: Any) -> Any:
    """Declare an option that can also be given as ``ASYAFW_NAME``."""
    return typer.Option(name, help=description, envvar=_variable(name), **more)


def argument(name: str, description: str, **more: Any) -> Any:
    """Declare an argument that can also be given as ``ASYAFW_NAME``."""
    return typer.Argument(help=description, metavar=name, envvar=_variable(name), **more)


def _variable(name: str) -> str:
    return _PREFIX + name.lstrip("-").replace("-", "_").upper()


def names(text: str | None) -> Sequence[str] | None:
    """Split ``a,b`` into names; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def seconds(value: float | None) -> float | None:
    """Check a duration.

    Raises:
        typer.BadParameter: it is negative, infinite or not a number.
    """
    if value is not None and not 0 <= value < inf:
        raise typer.BadParameter(f"{value} is no number of seconds")
    return value


Target: TypeAlias = Annotated[
    str, argument("TARGET", "The app: pkg.module:app, or pkg.module to find it.")
]
TransportUrl: TypeAlias = Annotated[
    str, option("--transport", "Where the queues are: memory://, redis://host:6379, …")
]
Actors: TypeAlias = Annotated[
    str | None, option("--actors", "Only these actors: a,b.", metavar="NAMES")
]
Timeout: TypeAlias = Annotated[
    float | None,
    option("--timeout", "Seconds to wait for each result.", metavar="S", callback=seconds),
]
DrainTimeout: TypeAlias = Annotated[
    float,
    option(
        "--drain-timeout",
        "Seconds that handlers have to finish after a signal.",
        metavar="S",
        callback=seconds,
    ),
]
InFlight: TypeAlias = Annotated[
    int, option("--in-flight", "Most jobs of a stream at a time.", metavar="N", min=1)
]
Deliveries: TypeAlias = Annotated[
    int,
    option(
        "--max-deliveries",
        "How often a message may be delivered and never settled.",
        metavar="N",
        min=1,
    ),
]
AsJson: TypeAlias = Annotated[bool, option("--json", "Print for programs.")]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    option("--log-level", "The least severe lines to log."),
]
LogFormat: TypeAlias = Annotated[
    Literal["auto", "json", "console"],
    option("--log-format", "How to log; auto is console on a terminal, json elsewhere."),
]
