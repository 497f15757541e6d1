"""Targets as users name them, ``pkg.module:attribute``, and what their modules hold."""

import importlib
import inspect
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, TypeVar

from asyafw._actor import Actor
from asyafw._spelling import did_you_mean
from asyafw.exceptions import TargetError

__all__ = ["Target", "find_actors", "find_instances", "load"]

T = TypeVar("T")

_SHOWN = 12
_IMPORTERS = ("<frozen importlib", importlib.__file__, __file__)


class Target(NamedTuple):
    """A module and, if the target names one, the value of an attribute."""

    module: ModuleType
    attribute: str | None
    value: Any


def load(target: str) -> Target:
    """Import the module of ``pkg.module[:attribute]``.

    The folder that holds ``pkg`` is to be on `sys.path`.

    Raises:
        TargetError: there is no such module or attribute, or the module fails as it is imported;
            then the message holds its traceback.
    """
    name, colon, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise TargetError(f"{name!r} is a file; write its module, {dotted!r}")
    names = [*name.split("."), attribute] if colon else name.split(".")
    if not all(map(str.isidentifier, names)):
        raise TargetError(f"{target!r} is no target: write pkg.module or pkg.module:attribute")
    module = _import(name)
    if not colon:
        return Target(module, None, None)
    if not hasattr(module, attribute):
        raise TargetError(f"module {name!r} has no {attribute!r}; {_instead(module, attribute)}")
    return Target(module, attribute, getattr(module, attribute))


def find_actors(module: ModuleType) -> list[Actor[..., Any]]:
    """Find the actors that a module defines or imports, in the order in which it does."""
    return find_instances(module, Actor)


def find_instances(module: ModuleType, cls: type[T]) -> list[T]:
    """Find the instances of a class, or of one derived from it, among a module's attributes."""
    # Not isinstance: it asks values for their class, and proxies may have no answer yet.
    found = {id(value): value for value in vars(module).values() if issubclass(type(value), cls)}
    return list(found.values())


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        own = _own(error.__traceback__)
        if own is None:
            raise TargetError(_not_found(name, error)) from error
        raise _failed(name, error.with_traceback(own)) from error
    except SystemExit as error:
        raise TargetError(
            f"module {name!r} exits when it is imported: "
            'put what it runs under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise _failed(name, error.with_traceback(_own(error.__traceback__))) from error


def _own(frames: TracebackType | None) -> TracebackType | None:
    """Cut off the frames that led to the module."""
    while frames and frames.tb_frame.f_code.co_filename.startswith(_IMPORTERS):
        frames = frames.tb_next
    return frames


def _failed(name: str, error: Exception) -> TargetError:
    lines = "".join(traceback.format_exception(error)).rstrip()
    return TargetError(f"module {name!r} fails as it is imported:\n\n{lines}")


def _not_found(name: str, error: ModuleNotFoundError) -> str:
    top = name.partition(".")[0]
    if error.name != top:
        return f"there is no module {name!r}: {error}"
    return (
        f"there is no module {top!r}, neither in {Path.cwd()} nor among what is installed: "
        f"run this from the folder that holds {top!r}"
    )


def _instead(module: ModuleType, attribute: str) -> str:
    """Tell what a module has: what it defines, and instances of what it imports."""
    names = [name for name, value in vars(module).items() if _is_own(name, value, module)]
    more = ", …" if len(names) > _SHOWN else ""
    there = f"it has {', '.join(names[:_SHOWN])}{more}" if names else "it is empty"
    return did_you_mean(attribute, names) or there


def _is_own(name: str, value: object, module: ModuleType) -> bool:
    if name.startswith("_") or inspect.ismodule(value):
        return False
    defined = inspect.isclass(value) or inspect.isroutine(value)
    return not defined or getattr(value, "__module__", None) == module.__name__
