"""A real Redis, or Valkey, that a test can kill, pause and start again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import redis

__all__ = ["DURABLE", "RedisServer", "redis_server"]

DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "everysec")
"""What a Redis needs so that it loses nothing when it is killed."""

_PATIENCE_S = 20.0


class RedisServer:
    """A server on a port of its own, from `start` to `stop`; its data survive in between."""

    def __init__(self, program: str, folder: Path, options: tuple[str, ...]) -> None:
        self.port = free_port()
        self.folder = folder
        self._command = [
            program,
            *("--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--daemonize", "no"),
            *("--port", str(self.port)),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def client(self, **options: Any) -> Any:
        """Make a client that looks into the server from outside."""
        return redis.Redis(port=self.port, **options)

    def start(self, *, wait: bool = True) -> None:
        """Start the process, and wait until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        latest = time.monotonic() + _PATIENCE_S
        while wait and not self._accepts():
            if self._process.poll() is not None or time.monotonic() > latest:
                self.stop()
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.01)

    def _accepts(self) -> bool:
        try:
            with self.client(socket_timeout=1) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """End the process as a power cut would, as far as the process is concerned."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it do nothing, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the process in good order."""
        process, self._process = self._process, None
        while process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            # Again and again: a replica that still writes its first file takes no notice.
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)


@contextmanager
def redis_server(*options: str, program: str = "redis-server") -> Generator[RedisServer]:
    """Run a server with these options of its command line.

    Where it is not installed the test is skipped, and in continuous integration it fails.
    """
    require(program)
    with TemporaryDirectory(prefix="asyafw-redis-") as folder:
        server = RedisServer(program, Path(folder), options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def require(program: str) -> None:
    """Skip the test without a program; in continuous integration, fail."""
    if shutil.which(program) is None:
        reason = f"{program} is not installed: apt-get install {program}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def free_port() -> int:
    """Find a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
