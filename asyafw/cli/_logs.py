"""How a command logs."""

from asyafw.telemetry import configure_logging

__all__ = ["log_as"]

_JSON = {"json": True, "console": False}


def log_as(level: str, form: str) -> None:
    """Send the log to what is standard error now, in the `form` of the option."""
    configure_logging(level=level, json=_JSON.get(form))
