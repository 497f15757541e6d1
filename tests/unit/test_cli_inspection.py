import re
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import anyio
import pytest
from msgspec import Raw

from asyafw import App, RetryPolicy, actor
from asyafw._outcome import undecodable
from asyafw.envelope import (
    MSGPACK,
    Claim,
    Envelope,
    Failure,
    Fork,
    Route,
    encode_envelope,
)
from asyafw.events import DEAD_LETTERS
from asyafw.exceptions import DecodeError
from asyafw.memory import from_url
from asyafw.transport import Message, Out, Send
from tests.unit.cli import Command, Done, commands

PHOTOS = """
from collections.abc import AsyncIterator

import msgspec

from asyafw import App, Batch, Join, RetryPolicy, actor


class Photo(msgspec.Struct):
    uri: str


@actor(concurrency=8, timeout_s=30, retry=RetryPolicy(max_attempts=5))
async def enhance(photo: Photo) -> Photo:
    return photo


@actor
async def split(photo: Photo) -> AsyncIterator[Photo]:
    yield photo


@actor(join=Join())
async def album(photos: list[Photo]) -> dict[str, list[Photo]]:
    return {"photos": photos}


@actor(batch=Batch(max_size=4), may_route_to=["enhance"])
async def judge(photos: list[Photo]) -> list[Photo | None]:
    return photos


@actor(executor="process")
def shrink(photo: Photo) -> None:
    pass


app = App(
    [enhance, split, album, judge, shrink],
    flows={"photos": ["enhance", "shrink"], "albums": ["split", "enhance", "album"]},
)
"""


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Generator[Command]:
    with commands(tmp_path, monkeypatch, capfd) as cli:
        yield cli


def test_actors_are_listed_with_how_they_run(cli: Command) -> None:
    code, out, err = cli("actors", cli.module(PHOTOS))

    assert (code, err) == (0, "")
    rows = [re.split("  +", line.strip()) for line in out.splitlines()]
    assert rows == [
        ["actor", "form", "types", "concurrency", "timeout", "attempts", "flows"],
        ["enhance", "async", "Photo → Photo", "8", "30 s", "5", "photos, albums"],
        ["split", "async, fan-out", "Photo → Photo", "16", "-", "3", "albums"],
        ["album", "async, join", "Photo → dict[str, list[Photo]]", "16", "-", "3", "albums"],
        ["judge", "async, batch of 4", "Photo → Photo | None", "16", "-", "3", "-"],
        ["shrink", "process", "Photo → None", "16", "-", "3", "photos"],
    ]


def test_actors_are_objects_for_programs(cli: Command) -> None:
    described = cli("actors", cli.module(PHOTOS), "--json").json()

    assert described[3] == {
        "actor": "judge",
        "form": ["async", "batch of 4"],
        "input": "Photo",
        "output": "Photo | None",
        "concurrency": 16,
        "timeout_s": None,
        "max_attempts": 3,
        "on_exhausted": [],
        "may_route_to": ["enhance"],
        "flows": [],
    }


def test_an_app_without_problems_passes_its_check(cli: Command) -> None:
    name = cli.module(PHOTOS)

    code, out, err = cli("check", name)

    assert (code, out) == (0, "")
    assert err == f"{name}: 0 problems in 5 actors and 2 flows\n"


MISFITS = """
from asyafw import App, actor


@actor
async def ask(x: int) -> str:
    return str(x)


@actor
async def answer(x: int) -> int:
    return x


app = App([ask, answer], flows={"a": ["ask", "answer"], "b": ["ask", "nobody"]})
"""


def test_a_check_tells_every_problem(cli: Command) -> None:
    name = cli.module(MISFITS)

    code, out, err = cli("check", name)
    as_json = cli("check", name, "--json")

    assert code == as_json.code == 1
    assert len(out.splitlines()) == 2
    assert "'nobody'" in out
    assert err == f"{name}: 2 problems in 2 actors and 2 flows\n"
    assert as_json.json() == {"problems": out.splitlines()}


def test_a_worker_refuses_an_app_with_problems(cli: Command) -> None:
    code, _, err = cli("worker", cli.module(MISFITS))

    assert code == 2
    assert "nobody" in err


def test_the_only_app_of_a_module_needs_no_name(cli: Command) -> None:
    source = PHOTOS.replace("app = App", "shop = App")

    code, _, err = cli("check", cli.module(source))

    assert (code, "5 actors and 2 flows" in err) == (0, True)


def test_of_several_apps_one_is_to_be_named(cli: Command) -> None:
    several = cli.module(PHOTOS.replace("app = App", "shop = App") + "\nother = App([enhance])\n")
    with_app = cli.module(PHOTOS + "\nother = App([enhance])\n")

    code, _, err = cli("check", several)

    assert code == 2
    assert f"name one: {several}:shop or {several}:other" in err
    assert "1 actor " in cli("check", f"{several}:other").err
    assert "5 actors " in cli("check", with_app).err


def test_the_actors_of_a_module_without_an_app_are_one(cli: Command) -> None:
    source = PHOTOS.partition("app = App")[0]

    _, out, err = cli("check", cli.module(source))

    assert out == ""
    assert "5 actors and 0 flows" in err


def test_a_module_without_actors_is_no_target(cli: Command) -> None:
    name = cli.module("import os\n\nx = 1\n\n\ndef f(): ...\n")

    code, _, err = cli("check", name)

    assert code == 2
    assert f"module {name!r} has neither an App nor an actor, only x, f" in err


def test_queues_tell_how_far_they_are_behind(cli: Command) -> None:
    url = "memory://cli-queues"
    messages: list[Out] = [
        Send("enhance", Message(b"1")),
        Send("shrink", Message(b"2"), delay_s=60),
    ]
    anyio.run(emit, url, messages)
    name = cli.module(PHOTOS)

    table = cli("queues", name, "--transport", url)
    chosen = cli("queues", "--actors", "enhance", "--transport", url, "--json").json()

    assert table.code == 0
    assert table.out.splitlines()[0].split() == [
        *("queue", "waiting", "in", "flight", "delayed", "oldest", "arrived")
    ]
    rows = {line.split()[0]: line.split()[1:4] for line in table.out.splitlines()[1:]}
    assert rows["enhance"] == ["1", "0", "0"]
    assert rows["shrink"] == ["0", "0", "1"]
    assert rows[DEAD_LETTERS] == ["0", "0", "0"]
    assert [each["queue"] for each in chosen] == ["enhance", DEAD_LETTERS]
    assert (chosen[0]["backlog"], chosen[0]["arrived"]) == (1, 1)


async def emit(url: str, out: Sequence[Out]) -> None:
    async with from_url(url) as transport:
        await transport.emit(*out)


def test_what_memory_holds_is_said_to_be_nothing(cli: Command) -> None:
    code, out, err = cli("dead-letters", "list", "--json")

    assert (code, out) == (0, "[]\n")
    assert "name a broker by --transport URL" in err


@actor(retry=RetryPolicy(max_attempts=1))
async def enhance(uri: str) -> str:
    raise ValueError(f"no such photo: {uri}\x1b[2J")


async def fail(url: str, *uris: str) -> list[str]:
    app = App([enhance], flows={"photos": ["enhance"]})
    async with app.worker(url), app.connect(url) as client:
        jobs = [await client.submit("photos", uri, headers={"tenant": "acme"}) for uri in uris]
        for job in jobs:
            async for _ in job.events():
                pass
        return [job.id for job in jobs]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://{request.node.name}"


def test_dead_letters_are_listed(cli: Command, url: str) -> None:
    ids = anyio.run(fail, url, "a", "ü")

    code, out, _ = cli("dead-letters", "list", "--transport", url)
    (first, second) = cli("dead-letters", "list", "--transport", url, "--json").json()
    limited = cli("dead-letters", "list", "--transport", url, "--json", "--limit", "1").json()

    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["id", "actor", "error", "attempts", "age", "flow"]
    assert [row.split()[0] for row in rows] == ids
    assert "ValueError: no such photo: ü\\x1b[2J" in rows[1]
    assert (first["id"], first["job"], first["flow"]) == (ids[0], ids[0], "photos")
    assert first["failed_at"] <= second["failed_at"] <= time.time()
    assert (first["replayable"], first["error"]["type"]) == (True, "ValueError")
    assert limited == [first]


def test_a_dead_letter_is_shown_whole(cli: Command, url: str) -> None:
    (id_,) = anyio.run(fail, url, "ü")

    code, out, _ = cli("dead-letters", "show", id_, "--transport", url)
    shown = cli("dead-letters", "show", id_, "--transport", url, "--json").json()

    assert code == 0
    for part in (
        f"id        {id_}\n",
        "flow      photos\n",
        "route     [enhance]\n",
        "header    tenant: acme\n",
        "error     ValueError in enhance after 1 attempt: no such photo: ü\\x1b[2J\n",
        "Traceback (most recent call last)",
        'payload:\n"ü"\n',
    ):
        assert part in out
    assert "\x1b" not in out
    assert shown["payload"] == "ü"
    assert shown["route"] == {"curr": "enhance", "next": [], "prev": []}
    assert shown["headers"]["tenant"] == "acme"
    assert "Traceback" in shown["error"]["traceback"]


def test_bytes_that_are_no_message_are_shown_as_they_came(cli: Command, url: str) -> None:
    outcome = undecodable(b"\xffhello\x1b", "enhance", DecodeError("no envelope"), time.time())
    anyio.run(emit, url, outcome.out)
    (listed,) = cli("dead-letters", "list", "--transport", url, "--json").json()

    code, out, _ = cli("dead-letters", "show", listed["id"], "--transport", url)
    shown = cli("dead-letters", "show", listed["id"], "--transport", url, "--json").json()
    replayed = cli("dead-letters", "replay", "--all", "--transport", url)

    assert (code, listed["replayable"]) == (0, False)
    assert "7 bytes that are no message:\nb'\\xffhello\\x1b'" in out
    assert shown["original"] == "/2hlbGxvGw=="
    assert (replayed.code, replayed.out) == (1, "")
    assert f"{listed['id']} holds bytes that no worker could read" in replayed.err


def test_what_a_stranger_put_among_the_dead_letters_is_listed(cli: Command, url: str) -> None:
    anyio.run(emit, url, [Send(DEAD_LETTERS, Message(b"\x00"))])

    code, out, _ = cli("dead-letters", "list", "--transport", url)
    shown = cli("dead-letters", "show", out.splitlines()[1].split()[0], "--transport", url)

    assert code == shown.code == 0
    assert "bytes that are no message" in out


def test_a_child_with_a_claim_and_a_deadline_is_shown(cli: Command, url: str) -> None:
    anyio.run(emit, url, [Send(DEAD_LETTERS, Message(CHILD))])

    code, out, _ = cli("dead-letters", "show", "child", "--transport", url)

    assert code == 0
    assert "child     2 of 3, to meet at album\n" in out
    assert "deadline  2001-09-09T01:46:40+00:00" in out
    assert "payload of 9 bytes in the store, under ab/cd" in out


def test_replayed_letters_are_on_their_queue_again(cli: Command, url: str) -> None:
    first, second = anyio.run(fail, url, "a", "b")

    code, out, _ = cli("dead-letters", "replay", second, "--transport", url)
    again = cli("dead-letters", "replay", second, first, "--transport", url)
    (lag, dead) = cli("queues", "--actors", "enhance", "--transport", url, "--json").json()

    assert (code, out) == (0, f"{second}\n")
    assert (again.code, again.out) == (1, f"{first}\n")
    assert f"there is no dead letter {second!r}" in again.err
    assert (lag["backlog"], dead["backlog"]) == (2, 0)


def test_letters_of_one_actor_are_replayed(cli: Command, url: str) -> None:
    ids = anyio.run(fail, url, "a", "b")

    none = cli("dead-letters", "replay", "--all", "--actor", "judge", "--transport", url)
    both = cli("dead-letters", "replay", "--all", "--actor", "enhance", "--transport", url)

    assert (none.code, none.out) == (0, "")
    assert (both.code, both.out.split()) == (0, ids)


def test_nothing_is_discarded_without_a_yes(
    cli: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id_,) = anyio.run(fail, url, "a")

    answers: dict[str, Done] = {}
    for answer in ("", "n\n", "y\n"):
        (cli.folder / "answer").write_text(answer)
        with (cli.folder / "answer").open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            answers[answer] = cli("dead-letters", "discard", id_, "--transport", url)

    assert (answers[""].code, answers["n\n"].code) == (1, 1)
    assert "Discard 1 dead letter on memory://" in answers["n\n"].err
    assert answers["n\n"].out == ""
    assert (answers["y\n"].code, answers["y\n"].out) == (0, f"{id_}\n")


def test_discarded_letters_are_gone(cli: Command, url: str) -> None:
    anyio.run(fail, url, "a", "b")

    discarded = cli("dead-letters", "discard", "--all", "--yes", "--transport", url)
    shown = cli("dead-letters", "show", discarded.out.split()[0], "--transport", url)

    assert (discarded.code, len(discarded.out.split())) == (0, 2)
    assert cli("dead-letters", "list", "--transport", url, "--json").json() == []
    assert (shown.code, shown.out) == (1, "")
    assert "there is no dead letter" in shown.err


CHILD = encode_envelope(
    Envelope(
        id="child",
        job="job",
        route=Route("enhance", ("album",)),
        payload=Raw(MSGPACK.null),
        deadline_at=1e9,
        error=Failure(type="ValueError", message="no", actor="enhance"),
        forks=(Fork("join", 1, 3, "album", 60.0),),
        claim=Claim("ab/cd", "0" * 64, 9),
    ),
    MSGPACK,
)
