"""`asyafw worker --reload`: what tells that files have changed."""

from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from asyafw.exceptions import MissingExtra

__all__ = ["changes"]


def changes() -> AsyncIterator[str]:
    """Give the names of Python files below this folder, each time that some have changed.

    Raises:
        MissingExtra: the library that watches files is not installed.
    """
    if find_spec("watchfiles") is None:
        raise MissingExtra("reload", "--reload")
    return _changes()


async def _changes() -> AsyncIterator[str]:
    watchfiles: Any = import_module("watchfiles")
    async for found in watchfiles.awatch(".", watch_filter=watchfiles.PythonFilter()):
        yield ", ".join(sorted(file for _, file in found))
