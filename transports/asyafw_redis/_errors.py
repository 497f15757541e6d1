"""What Redis and its client raise, in our words."""

import os
import ssl
from socket import gaierror
from typing import TypeVar

import redis.exceptions as foreign
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from asyafw.exceptions import TransportError, TransportUnavailable
from asyafw_redis._options import Options

__all__ = ["FOREIGN", "denies", "refused", "translated"]

E = TypeVar("E", bound=BaseException)

FOREIGN = (foreign.RedisError, OSError, EOFError)
"""All that a connection may raise."""

# What the client's classes stand for: it takes these words off the text of an answer.
_CODES = {
    foreign.NoPermissionError: "NOPERM",
    foreign.OutOfMemoryError: "OOM",
    foreign.ReadOnlyError: "READONLY",
    foreign.BusyLoadingError: "LOADING",
    foreign.MasterDownError: "MASTERDOWN",
    foreign.ClusterCrossSlotError: "CROSSSLOT",
}

_HINTS = {
    "NOAUTH": "it wants a password: redis://USER:PASSWORD@HOST",
    "NOPASS": "it has no password for this user: leave it out",
    "WRONGPASS": "it does not accept this user and password",
    "NOPERM": "its user may not do that",
    "OOM": "it has no memory left: maxmemory is reached",
    "READONLY": "it is a replica, which takes no messages",
    "NOREPLICAS": "fewer replicas follow it than its min-replicas-to-write",
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
    """Make an error of ours, without anything that the caller had sent.

    `where` is the server, as what `Options` say of it.
    """
    if isinstance(error, TransportError):
        return error
    if isinstance(error, foreign.AuthenticationError):
        return refused(_login_code(str(error)), where)
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    if code is not None or isinstance(error, foreign.ResponseError):
        return refused(" ".join(filter(None, (code, _said(error)))), where)
    return TransportUnavailable(f"{where} {_trouble(error, where)}")


def refused(said: str, where: object) -> TransportError:
    """Make an error of what the server answered in place of a result."""
    code, _, rest = said.partition(" ")
    if code == "NOPERM":
        # It names the command, or that it was a key, and never what was in it.
        return TransportUnavailable(f"{where}: {_HINTS[code]}: {rest[:200]}")
    if code in _HINTS:
        return TransportUnavailable(f"{where}: {_HINTS[code]}")
    # The text may go on with the arguments of the command.
    return TransportError(f"{where} refused a command: {said[:200]}")


def _login_code(said: str) -> str:
    if said.startswith("Authentication required"):
        return "NOAUTH"
    return "NOPASS" if "password is set" in said or "without any password" in said else "WRONGPASS"


def _trouble(error: BaseException, where: object) -> str:
    tls = isinstance(where, Options) and where.tls
    if isinstance(error, MasterNotFoundError | AsyncMasterNotFoundError):
        return _no_master(str(error))
    if (of_tls := _behind(error, ssl.SSLError)) is not None:
        return f"cannot be reached by TLS: {_reason_of_tls(of_tls)}"
    if isinstance(error, foreign.TimeoutError | TimeoutError):
        return "does not answer by TLS: does its port speak it?" if tls else "does not answer"
    if (unknown := _behind(error, gaierror)) is not None:
        return f"cannot be reached: {unknown.strerror}"
    if (failure := _behind(error, OSError)) is not None and failure.errno:
        return f"cannot be reached: {os.strerror(failure.errno)}"
    hint = "" if tls else "; where its port speaks TLS, write rediss://"
    return f"cannot be reached: {_said(error).rstrip('.')}{hint if _was_closed(error) else ''}"


def _no_master(said: str) -> str:
    # It goes on with each Sentinel that did not answer, as one would show it to a programmer.
    if "AuthenticationError" in said:
        return "cannot be asked: give its sentinel_username and sentinel_password"
    if " : " in said:
        return "cannot be reached, or knows no master that is well"
    return "is not known there, or its master is down"


def _reason_of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message.rstrip('.')}"
    if error.reason and "ALERT" in error.reason:
        return f"it refuses our certificate, or that we have none ({error.reason})"
    return error.reason or _said(error)


def _behind(error: BaseException, kind: type[E]) -> E | None:
    """Find what led to an error, among what led to it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, kind):
        found = found.__cause__ or found.__context__
    return found


def _was_closed(error: BaseException) -> bool:
    return "closed" in str(error)


def _said(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
