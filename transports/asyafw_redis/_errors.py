"""What Redis and its client raise, in our words."""

import ssl

import redis.exceptions as foreign

from asyafw.exceptions import TransportError, TransportUnavailable

__all__ = ["FOREIGN", "denies", "refused", "translated"]

FOREIGN = (foreign.RedisError, OSError, EOFError)
"""All that a connection may raise."""

_HINTS = {
    "NOAUTH": "it wants a password: redis://USER:PASSWORD@HOST",
    "WRONGPASS": "it does not accept this user and password",
    "NOPERM": "its user may not do that",
    "OOM": "it has no memory left: maxmemory is reached",
    "READONLY": "it is a replica, which takes no messages",
    "MISCONF": "it cannot write to its disk, and so refuses messages",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica without its master",
    "BUSY": "it is busy with somebody's script",
    "CROSSSLOT": "it is a Cluster, which cannot settle and send in one step",
}


def denies(error: BaseException) -> bool:
    """Tell whether the server refuses who asks, so that asking again is in vain."""
    return isinstance(error, foreign.AuthenticationError | foreign.NoPermissionError)


def translated(error: BaseException, where: object) -> TransportError:
    """Make an error of ours, without anything that the caller had sent."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, foreign.TimeoutError | TimeoutError):
        return TransportUnavailable(f"{where} does not answer")
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return TransportUnavailable(f"{where} cannot be reached by TLS: {_said(error)}")
    if isinstance(error, foreign.ResponseError | foreign.AuthenticationError):
        return refused(_said(error), where)
    if isinstance(error, foreign.BusyLoadingError):
        return refused("LOADING", where)
    return TransportUnavailable(f"{where} cannot be reached: {_said(error)}")


def refused(said: str, where: object) -> TransportError:
    """Make an error of what the server answered in place of a result."""
    code = said.partition(" ")[0]
    if code in _HINTS:
        return TransportUnavailable(f"{where}: {_HINTS[code]}")
    # The text may go on with the arguments of the command.
    return TransportError(f"{where} refused a command: {said[:200]}")


def _said(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
