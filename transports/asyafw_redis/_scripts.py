"""The Lua scripts that run in the server."""

from hashlib import sha1
from importlib.resources import files
from typing import Final

from msgspec import Struct

__all__ = ["COMMIT", "KEEP", "LAG", "LEAVE", "LIMITS", "RIGHTS", "STREAMS", "Script"]

STREAMS: Final = ("queue", "again", "alone")
"""A queue's streams: what is new, what came back, and what was left unsettled twice."""


class Script(Struct, frozen=True):
    """A script, and the digest by which a server knows it once it has seen it."""

    source: str
    sha: str


def _load(name: str) -> Script:
    folder = files("asyafw_redis") / "lua"
    source = "".join((folder / f"{part}.lua").read_text("utf-8") for part in ("common", name))
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


COMMIT: Final = _load("commit")
KEEP: Final = _load("keep")
LAG: Final = _load("lag")
LEAVE: Final = _load("leave")
LIMITS: Final = _load("limits")
RIGHTS: Final = _load("rights")
