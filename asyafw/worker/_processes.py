"""Handlers that run in processes of their own, where a timeout can kill them."""

import inspect
import pickle
import signal
import traceback
from copy import deepcopy
from importlib import import_module
from itertools import islice
from math import inf
from typing import Any, Final

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process

from asyafw._actor import Actor
from asyafw.context import Context
from asyafw.exceptions import ConfigurationError, ProcessCrashed
from asyafw.middleware import Handler
from asyafw.worker._watch import begin

__all__ = ["LONGEST_START_S", "in_process"]

LONGEST_START_S: Final = 300.0
"""How long a process may take to start and to import its handler, in seconds."""


def in_process(actor: Actor[..., Any], most: int) -> Handler:
    """Call a handler in another process; the first `most` items that it yields become a list.

    What the process needs to start and to import the handler is not of the handler's time.

    Raises:
        ConfigurationError: another process cannot import the handler.
    """
    module, name = actor.handler.__module__, getattr(actor.handler, "__qualname__", "<instance>")
    if "<" in name or inspect.isclass(actor.handler):
        raise ConfigurationError(
            f"actor {actor.name!r}: a handler for another process is a function of a module, "
            f"so that it can be imported there; {actor.handler!r} is not"
        )
    # As many run as the actor has slots, each of which waits for its own.
    unlimited = CapacityLimiter(inf)

    async def call(payload: Any, ctx: Context) -> Any:
        try:
            begin(ctx, LONGEST_START_S)
            await to_process.run_sync(_load, module, name, cancellable=True, limiter=unlimited)
            begin(ctx, actor.timeout_s)
            return await to_process.run_sync(
                _call, module, name, payload, most, cancellable=True, limiter=unlimited
            )
        except BrokenWorkerProcess as error:
            raise ProcessCrashed(f"the process that ran {actor.name} died") from error

    return call


def _load(module: str, name: str) -> None:
    """Import a handler in the process that this is called in."""
    # Ctrl-C reaches all processes of a terminal; the worker lets this one finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _find(module, name)


def _call(module: str, name: str, payload: Any, most: int) -> Any:
    """Run a handler in the process that this is called in."""
    handler = _find(module, name)
    try:
        result = handler(payload)
        # The handler may change afterwards what it has yielded.
        return [*map(deepcopy, islice(result, most))] if inspect.isgenerator(result) else result
    except Exception as error:  # noqa: BLE001 — it goes on in the worker's process
        raise _portable(error) from None


def _find(module: str, name: str) -> Any:
    found: Any = import_module(module)
    for attribute in name.split("."):
        found = getattr(found, attribute)
    return found.handler if isinstance(found, Actor) else found


def _portable(error: Exception) -> Exception:
    """Make an exception survive the way to another process, with its traceback as a note."""
    lines = traceback.format_exception(error)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 — made on the same line
    except Exception:  # noqa: BLE001 — whatever a user's class does
        error = RuntimeError(traceback.format_exception_only(error)[-1].strip())
    error.add_note(f"In the process of the handler:\n{''.join(lines)}")
    return error
