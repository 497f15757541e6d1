"""A master with a replica, and a Sentinel that replaces the one with the other."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from msgspec import Struct

from tests.servers.redis import DURABLE, RedisServer, redis_server

__all__ = ["SERVICE", "SentinelServer", "Watched", "sentinel_server", "watched"]

SERVICE: Final = "mymaster"
_PATIENCE_S = 30.0


class SentinelServer(RedisServer):
    """A Sentinel that takes half a second of silence of the master for its death."""

    def __init__(self, program: str, folder: Path, master_port: int, lines: Sequence[str]) -> None:
        super().__init__(program, folder, ())
        file = folder / "sentinel.conf"
        file.write_text(
            "\n".join(
                [
                    f"port {self.port}",
                    "bind 127.0.0.1",
                    f"dir {folder}",
                    *lines,
                    f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} 1",
                    f"sentinel down-after-milliseconds {SERVICE} 500",
                    f"sentinel failover-timeout {SERVICE} 3000",
                ]
            )
        )
        self._command = [program, str(file), "--sentinel"]

    def protect(self, password: str) -> None:
        """Let nobody in any more without a password."""
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", f">{password}")

    def master(self) -> int:
        """Ask which port the master has."""
        _, port = self._ask("GET-MASTER-ADDR-BY-NAME")
        return int(port)

    def knows_a_replica(self) -> bool:
        """Tell whether there is one that could be promoted."""
        # The client's versions take the answer apart in different ways.
        return "b'ok'" in repr(self._ask("REPLICAS"))

    def fail_over(self) -> None:
        """Let a replica take the place of the master, though that is well."""
        self._ask("FAILOVER")

    def _ask(self, *question: str) -> Any:
        with self.client() as client:
            return client.execute_command("SENTINEL", *question, SERVICE)


class Watched(Struct):
    """The servers that one Sentinel, or several, look after."""

    master: RedisServer
    replica: RedisServer
    sentinel: SentinelServer

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{SERVICE}"


@contextmanager
def sentinel_server(
    master_port: int, *lines: str, program: str = "redis-server"
) -> Generator[SentinelServer]:
    """Run a Sentinel of a master, with these lines in its configuration."""
    with TemporaryDirectory(prefix="asyafw-sentinel-") as folder:
        sentinel = SentinelServer(program, Path(folder), master_port, lines)
        sentinel.start()
        try:
            yield sentinel
        finally:
            sentinel.stop()


@contextmanager
def watched(program: str = "redis-server") -> Generator[Watched]:
    """Run a master, a replica that is up to date, and a Sentinel that knows both."""
    soon = ("--repl-diskless-sync-delay", "0")
    with redis_server(*DURABLE, *soon, program=program) as master:
        follow = ("--replicaof", "127.0.0.1", str(master.port))
        with redis_server(*DURABLE, *soon, *follow, program=program) as replica:
            _wait_for(lambda: _follows(replica))
            with sentinel_server(master.port, program=program) as sentinel:
                _wait_for(sentinel.knows_a_replica)
                yield Watched(master, replica, sentinel)


def _follows(replica: RedisServer) -> bool:
    with replica.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def _wait_for(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < latest, "the servers do not find each other"
        time.sleep(0.02)
