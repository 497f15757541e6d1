"""The command line of asyafw on a Redis transport that was sabotaged.

`python -m tests.chaos.redis_saboteurs NAME worker ...` breaks one of the things that the promise
of delivery stands on. A run with such workers must turn red, or it proves nothing when it is green.
"""

import sys
from collections.abc import Callable, Mapping
from hashlib import sha1
from re import subn
from typing import Any, Final

import asyafw_redis._scripts as scripts
from asyafw_redis._link import Link

from asyafw.cli import main

__all__ = ["SABOTEURS"]


def _without_guard() -> None:
    """Emit whether or not the message is still one's own."""
    _edit(
        "COMMIT",
        r"if (redis\.call\('XACK', stream, GROUP, id\)) == 0 then\s+return 0\s+end",
        r"\1",
    )


def _without_heartbeats() -> None:
    """Refresh no lease."""
    _edit(
        "KEEP",
        r"(local function refresh\(.*\)\n)",
        r"\1  if true then\n    return {}\n  end\n",
    )


def _from_the_end() -> None:
    """Make groups that miss what came before them."""
    call = Link.call

    async def sabotaged(self: Link, *command: Any, wait_s: float = 0) -> Any:
        if command[:2] == ("XGROUP", "CREATE"):
            command = tuple("$" if word == "0" else word for word in command)
        return await call(self, *command, wait_s=wait_s)

    Link.call = sabotaged  # type: ignore[method-assign]


SABOTEURS: Final[Mapping[str, Callable[[], None]]] = {
    "no-guard": _without_guard,
    "no-heartbeats": _without_heartbeats,
    "from-the-end": _from_the_end,
}


def _edit(name: str, pattern: str, replacement: str) -> None:
    """Change a script before anything has loaded it."""
    script: scripts.Script = getattr(scripts, name)
    source, count = subn(pattern, replacement, script.source)
    assert count == 1, f"{pattern} is {count} times in the script"
    setattr(scripts, name, scripts.Script(source, sha1(source.encode()).hexdigest()))


if __name__ == "__main__":
    SABOTEURS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
