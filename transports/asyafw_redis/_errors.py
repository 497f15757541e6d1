"""What Redis and its client raise, in our words."""

import os
import ssl
from re import compile as regex
from socket import gaierror
from typing import TypeVar

import redis.exceptions as foreign
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from asyafw.exceptions import TransportError, TransportUnavailable
from asyafw_redis._options import Options

__all__ = ["FOREIGN", "advice", "denies", "refused", "translated"]

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
    "OOM": "it has no memory left: maxmemory is reached",
    "READONLY": "it is a replica, which takes no messages",
    "NOREPLICAS": "fewer replicas follow it than its min-replicas-to-write",
    "MISCONF": "it cannot write to its disk, and so refuses messages",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica without its master",
    "BUSY": "it is busy with somebody's script",
    "CROSSSLOT": "it is a Cluster, which cannot settle and send in one step",
}

_NO_MASTER = (MasterNotFoundError, AsyncMasterNotFoundError)
# It is all that is said of Sentinels that refuse access.
_UNKNOWN_TO_SENTINELS = "AuthenticationError"

# Redis and Valkey say it, within scripts and without, each in its own words.
_FORBIDDEN = regex(
    r"(?:NOPERM |ACL failure in script: |(?=The user executing the script))(.*?)(?: script: .*)?$"
)


def denies(error: BaseException) -> bool:
    """Tell whether the server refuses who asks, so that asking again is in vain."""
    if isinstance(error, _NO_MASTER):
        return _UNKNOWN_TO_SENTINELS in str(error)
    return isinstance(error, foreign.AuthenticationError | foreign.NoPermissionError)


def translated(error: BaseException, where: object) -> TransportError:
    """Make an error of ours, without anything that the caller had sent.

    `where` is the server, as what `Options` say of it.
    """
    if isinstance(error, TransportError):
        return error
    if isinstance(error, _NO_MASTER):
        # Some versions of the client show what they know of the Sentinels, with passwords; and
        # whoever shows our error shows what led to it, too.
        error.args = (_no_master(str(error)),)
        return TransportUnavailable(f"{where} {error}")
    if isinstance(error, foreign.AuthenticationError):
        return refused(_login_code(str(error)), where)
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    if code is not None or isinstance(error, foreign.ResponseError):
        return refused(" ".join(filter(None, (code, _said(error)))), where)
    return TransportUnavailable(f"{where} {_trouble(error)}")


def refused(said: str, where: object) -> TransportError:
    """Make an error of what the server answered in place of a result."""
    if (forbidden := _FORBIDDEN.search(said)) is not None:
        # It names the command, or that it was a key, and never what was in it.
        told = f"{where}: its user may not do that: {forbidden[1]}"
        if isinstance(where, Options) and "access" in told:
            told += f"; all our keys are {where.prefix}:*"
        return TransportUnavailable(told)
    code = said.partition(" ")[0]
    if code in _HINTS:
        return TransportUnavailable(f"{where}: {_HINTS[code]}")
    # The text may go on with the arguments of the command.
    return TransportError(f"{where} refused a command: {said[:200]}")


def _login_code(said: str) -> str:
    if said.startswith("Authentication required"):
        return "NOAUTH"
    return "NOPASS" if "password is set" in said or "without any password" in said else "WRONGPASS"


def advice(error: BaseException, options: Options) -> str:
    """Guess what is the matter with a server that cannot be reached; an empty text is no guess."""
    if isinstance(error, foreign.TimeoutError | TimeoutError):
        return "; does its port speak TLS?" if options.tls else ""
    cut = _behind(error, ConnectionError)
    is_cut = "closed" in str(error) if cut is None else not isinstance(cut, ConnectionRefusedError)
    if not is_cut or isinstance(error, _NO_MASTER) or _behind(error, ssl.SSLError):
        return ""
    if options.tls:
        return "; it may refuse our certificate, or that we have none"
    return "; if its port speaks TLS, write rediss://"


def _trouble(error: BaseException) -> str:
    if (of_tls := _behind(error, ssl.SSLError)) is not None:
        return f"cannot be reached by TLS: {_reason_of_tls(of_tls)}"
    if isinstance(error, foreign.TimeoutError | TimeoutError):
        return "does not answer"
    if (unknown := _behind(error, gaierror)) is not None:
        return f"cannot be reached: {unknown.strerror}"
    if (failure := _behind(error, OSError)) is not None and failure.errno:
        return f"cannot be reached: {os.strerror(failure.errno)}"
    return f"cannot be reached: {_said(error).rstrip('.')}"


def _no_master(said: str) -> str:
    # It goes on with each Sentinel that did not answer, as one would show it to a programmer.
    if _UNKNOWN_TO_SENTINELS in said:
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


def _said(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
