"""What a server must be before anything is entrusted to it."""

from collections.abc import Mapping

from asyafw.exceptions import ConfigurationError
from asyafw_redis._options import Options

__all__ = ["check", "read_info"]

_OLDEST = (7, 0)


def read_info(reply: bytes) -> dict[str, str]:
    """Read what the command INFO answers."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def check(info: Mapping[str, str], options: Options) -> None:
    """Refuse a server that could not keep what the transport promises.

    Raises:
        ConfigurationError: with what is wrong, and what to do.
    """
    version = info.get("redis_version", "0")
    if tuple(int(each) for each in version.split(".")[:2] if each.isdecimal()) < _OLDEST:
        raise ConfigurationError(f"{options} is version {version}; it must be 7.0 or later")
    if info.get("cluster_enabled") == "1":
        raise ConfigurationError(
            f"{options} is a Cluster, which cannot settle and send in one step; "
            "use one server, or Sentinel with replicas"
        )
    if info.get("role") == "slave":
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
