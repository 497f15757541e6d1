"""The command line as a user has it: a process of its own, in a folder with a module."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import IO

LIMIT_S = 60
"""How long a test waits for what should come soon."""

PIPELINE = """
import asyncio
import os
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from asyafw import App, Context, RetryPolicy, actor


class Photo(msgspec.Struct):
    uri: str
    score: float = 0.0


@actor(retry=RetryPolicy(max_attempts=1))
async def enhance(photo: Photo) -> Photo:
    if photo.uri.startswith("bad"):
        raise ValueError(f"no such photo: {photo.uri}")
    photo.score += 0.5
    return photo


@actor
async def judge(photo: Photo, ctx: Context) -> Photo:
    if photo.score < 0.8:
        ctx.route.prepend("enhance", "judge")
    return photo


async def go():
    while not Path("go").exists():
        await asyncio.sleep(0.01)


@actor(retry=RetryPolicy(max_attempts=1))
async def hold(name: str) -> str:
    print("begun", name, flush=True)
    await go()
    print("finished", name, flush=True)
    return name


@actor
async def echo(text: str) -> str:
    Path("echoed").touch()
    return text


@actor
async def endless(name: str) -> str:
    print("begun", name, flush=True)
    await asyncio.sleep(3600)
    return name


@actor
def stuck(name: str) -> str:
    print("begun", name, flush=True)
    threading.Event().wait()
    return name


@actor
async def stuck_in_executor(name: str) -> str:
    print("begun", name, flush=True)
    await asyncio.to_thread(threading.Event().wait)
    return name


@actor
async def stubborn(name: str) -> str:
    print("begun", name, flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


@actor
async def blocking(name: str) -> str:
    print("begun", name, flush=True)
    time.sleep(3600)
    return name


@actor(executor="process", retry=RetryPolicy(max_attempts=1))
def elsewhere(name: str) -> str:
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    Path("finished").touch()
    return name


first = os.environ.get("FIRST")


@asynccontextmanager
async def lifespan():
    if first == "never":
        print("opening", flush=True)
        await asyncio.sleep(3600)
    elif first not in (None, "quiet"):
        async with app.connect("memory://") as client:
            await client.submit([first], first)
    try:
        yield
    finally:
        if first != "quiet":
            print("closed", flush=True)


every = [
    enhance, judge, hold, echo, endless, stuck, stuck_in_executor, stubborn, blocking, elsewhere
]
flows = {"photos": ["enhance", "judge"], **{each.name: [each.name] for each in every}}
app = App(every, flows, lifespan=lifespan)
"""


def environment(**more: str) -> dict[str, str]:
    """The environment without what the tests' own surroundings say to asyafw."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ASYAFW_")}
    return {**kept, **more}


def call(
    folder: Path, *arguments: str, stdin: str | bytes = b"", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "asyafw", *arguments],
        cwd=folder,
        env=environment(**env),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


class Running:
    """A command that runs; its lines are read as they come, until it is killed for being late."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asyafw", *arguments],
            cwd=folder,
            env=environment(**env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
            start_new_session=True,
        )
        self.seen: list[str] = []

    @property
    def stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def end_input(self) -> None:
        """Close standard input."""
        self.stdin.close()
        self.process.stdin = None

    def line(self) -> str:
        """The next line of standard output, without its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def logged(self, text: str) -> str:
        """Wait for a line with `text` on standard error, and give it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} was not logged: {''.join(self.seen)}")

    def signal(self, signum: int) -> None:
        """Send a signal to the process, as `kill` does."""
        self.process.send_signal(signum)

    def interrupt_all(self) -> None:
        """Send what Ctrl-C sends: an interrupt to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end, and give the exit code and what else was written."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        # Not by `communicate`, which misses what was read ahead with the lines before.
        with ThreadPoolExecutor() as pool:
            out = pool.submit(self.process.stdout.read)
            err = pool.submit(self.process.stderr.read)
        return self.process.wait(LIMIT_S), out.result(), "".join(self.seen) + err.result()


@contextmanager
def running(folder: Path, *arguments: str, **env: str) -> Generator[Running]:
    """Start a command, and see to its end."""
    command = Running(folder, *arguments, **env)
    timer = Timer(LIMIT_S, command.process.kill)
    timer.start()
    try:
        yield command
    finally:
        timer.cancel()
        command.process.kill()
        command.process.communicate()
