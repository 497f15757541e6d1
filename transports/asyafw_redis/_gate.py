"""What a server must be before anything is entrusted to it."""

from collections.abc import Mapping

import anyio
from redis.exceptions import BusyLoadingError, NoPermissionError, ReadOnlyError

from asyafw.exceptions import ConfigurationError, TransportUnavailable
from asyafw_redis._errors import FOREIGN, advice, denies, translated
from asyafw_redis._link import Link
from asyafw_redis._options import Options
from asyafw_redis._scripts import RIGHTS

__all__ = ["check", "check_rights", "check_server", "read_info"]

_OLDEST = (7, 0)
_PAUSE_S = 0.1


async def check_server(link: Link, options: Options) -> None:
    """Wait for a server that can be relied on, for `Options.timeout_s` seconds.

    Raises:
        TransportUnavailable: it cannot be reached, or is not ready.
        ConfigurationError: it refuses access, or could not keep what the transport promises.
    """
    try:
        await _wait(link, options)
    except BaseException:
        await link.close()
        raise


async def _wait(link: Link, options: Options) -> None:
    problem: TransportUnavailable | None = TransportUnavailable(
        f"{options} does not answer{advice(TimeoutError(), options)}"
    )
    with anyio.move_on_after(options.timeout_s):
        while problem := await _problem(link, options):
            # Behind the same name there may be another server next time.
            await link.close()
            await anyio.sleep(_PAUSE_S)
    if problem is not None:
        raise problem


async def _problem(link: Link, options: Options) -> TransportUnavailable | None:
    """Try once; give what may pass, and raise what will not."""
    try:
        await link.open()
        check(await _info(link, options), options)
    except FOREIGN as error:
        is_lasting = denies(error)
        failure = translated(error, options)
        if is_lasting or not isinstance(failure, TransportUnavailable):
            raise ConfigurationError(str(failure)) from error
        problem = TransportUnavailable(f"{failure}{advice(error, options)}")
        problem.__cause__ = error
        return problem
    return None


async def _info(link: Link, options: Options) -> dict[str, str]:
    try:
        return read_info(await link.call("INFO"))
    except NoPermissionError as error:
        if options.durability == "relaxed":
            return {}
        raise ConfigurationError(
            f"{options} does not tell whether it keeps messages: allow its user "
            "the command INFO, or give the option durability=relaxed"
        ) from error


async def check_rights(link: Link, options: Options) -> None:
    """Refuse to take messages for a user who may not do with them all that may be needed.

    Otherwise a message could be taken, and neither handed on nor put back.

    Raises:
        NoPermissionError: with what it may not do.
        FOREIGN: that cannot be found out.
    """
    await link.open()
    if missing := await link.run(RIGHTS, options.prefix):
        commands = b", ".join(missing).decode().lower()
        raise NoPermissionError(f"no right to access keys by {commands}")


def read_info(reply: bytes) -> dict[str, str]:
    """Read what the command INFO answers."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def check(info: Mapping[str, str], options: Options) -> None:
    """Refuse a server that could not keep what the transport promises.

    Raises:
        ConfigurationError: with what is wrong, and what to do.
        BusyLoadingError, ReadOnlyError: it is not ready yet, and may soon be.
    """
    version = info.get("redis_version", "7.0")
    if tuple(int(each) for each in version.split(".")[:2] if each.isdecimal()) < _OLDEST:
        raise ConfigurationError(f"{options} is version {version}; it must be 7.0 or later")
    if info.get("cluster_enabled") == "1":
        raise ConfigurationError(
            f"{options} is a Cluster, which cannot settle and send in one step; "
            "use one server, or Sentinel with replicas"
        )
    if info.get("loading") == "1":
        raise BusyLoadingError
    if info.get("role") == "slave":
        if options.service:
            # It has just ceased to be the master, and the Sentinels are about to say so.
            raise ReadOnlyError
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        raise ConfigurationError(f"{options} is a replica; its master is {master}")
    if options.durability == "strict":
        _check_durability(info, options)


def _check_durability(info: Mapping[str, str], options: Options) -> None:
    problems: list[str] = []
    if info.get("aof_enabled") != "1":
        problems.append("it loses what it has accepted when it dies: set `appendonly yes`")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            f"it deletes messages when memory is short ({policy}): "
            "set `maxmemory-policy noeviction`"
        )
    if problems:
        raise ConfigurationError(
            f"{options} would lose messages: {'; '.join(problems)}. "
            "Or accept that by the option durability=relaxed"
        )
