from collections.abc import AsyncIterator, Generator
from pathlib import Path

import anyio
import pytest
from msgspec import json

from asyafw import App, actor
from asyafw.cli._jobs import Plan, submit_all
from asyafw.cli._payloads import Line
from asyafw.cli._results import Results
from asyafw.envelope import MSGPACK, Envelope
from asyafw.memory import MemoryTransport, from_url
from asyafw.transport import Delivery
from tests.unit.cli import Command, commands

PIPELINE = """
import msgspec

from asyafw import App, actor


class Photo(msgspec.Struct):
    uri: str
    data: bytes = b""


@actor
async def enhance(photo: Photo) -> Photo:
    return photo


@actor
async def publish(photo: Photo) -> str:
    return photo.uri


app = App([enhance, publish], {"photos": ["enhance", "publish"], "far": ["elsewhere"]},
          remote=["elsewhere"])
"""

# A broker for this process alone that the command does not take for what it is.
ENTRY_POINTS = """
[asyafw.transports]
shared = shared_transport:from_url
"""
SHARED = """
from asyafw import memory


def from_url(url):
    return memory.from_url(url.replace("shared://", "memory://"))
"""


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Generator[Command]:
    with commands(tmp_path, monkeypatch, capfd) as cli:
        (tmp_path / "target_pipeline.py").write_text(PIPELINE)
        (tmp_path / "shared_transport.py").write_text(SHARED)
        metadata = tmp_path / "shared_transport-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Name: shared-transport\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
        yield cli


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def submitted(queue: str, name: str, number: int = 1) -> list[Envelope]:
    async def receive() -> list[Delivery]:
        found: list[Delivery] = []
        async with from_url(f"memory://{name}") as transport, transport.consume(queue) as consumer:
            while len(found) < number:
                found += await consumer.receive(number)
            for delivery in found:
                await delivery.settle()
        return found

    bodies = [
        (each.parts[0] if each.parts else None) or each.message.body for each in anyio.run(receive)
    ]
    return [MSGPACK.decode(body, type=Envelope) for body in bodies]


def test_a_submitted_job_is_on_its_queue(cli: Command, name: str) -> None:
    code, out, err = cli(
        *("submit", "target_pipeline", "photos", "--payload", '{"uri": "ü", "data": "aGV5"}'),
        *("--transport", f"shared://{name}"),
        *("--header", "tenant=acme", "--header", "note=a = b", "--deadline", "60"),
    )

    (envelope,) = submitted("enhance", name)
    assert (code, out, err) == (0, f"{envelope.id}\n", "")
    assert MSGPACK.decode(envelope.payload) == {"uri": "ü", "data": b"hey"}
    assert (envelope.headers["tenant"], envelope.headers["note"]) == ("acme", "a = b")
    assert envelope.deadline_at == pytest.approx(envelope.created_at + 60)
    assert envelope.flow == "photos"


def test_a_route_can_be_given_instead_of_a_flow(cli: Command, name: str) -> None:
    arguments = ("submit", "target_pipeline", "--transport", f"shared://{name}", "--route")

    code, out, _ = cli(*arguments, "publish,enhance", "--payload", '{"uri": "a"}', "--json")
    wrong = cli(*arguments, "publish,enhanse", "--payload", '{"uri": "a"}')

    (envelope,) = submitted("publish", name)
    assert (code, json.decode(out)) == (0, {"job": envelope.id})
    assert (envelope.route.next, envelope.flow) == (("enhance",), None)
    assert wrong.code == 2
    assert "did you mean 'enhance'?" in wrong.err


def test_a_flow_that_begins_elsewhere_takes_any_payload(cli: Command, name: str) -> None:
    arguments = ("submit", "target_pipeline", "far", "--transport", f"shared://{name}")

    code, _, _ = cli(*arguments, "--payload", "[1, null]")

    (envelope,) = submitted("elsewhere", name)
    assert code == 0
    assert MSGPACK.decode(envelope.payload) == [1, None]


def test_the_same_idempotency_key_is_the_same_job(cli: Command, name: str) -> None:
    arguments = ("submit", "target_pipeline", "photos", "--transport", f"shared://{name}")
    keyed = (*arguments, "--idempotency-key", "k", "--payload")

    ids = [cli(*keyed, '{"uri": "a"}').out for _ in range(2)]
    refused = cli(*keyed, "-")

    assert ids[0] == ids[1]
    assert len(submitted("enhance", name)) == 1
    assert refused.code == 2
    assert "--idempotency-key is for one job" in refused.err


def test_each_line_of_standard_input_is_a_job(
    cli: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cli.folder / "input").write_text("".join(f'{{"uri": "{i}"}}\n' for i in range(100)))
    with (cli.folder / "input").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)

        code, out, _ = cli(
            *("submit", "target_pipeline", "photos", "--payload", "-"),
            *("--transport", f"shared://{name}"),
        )

    envelopes = submitted("enhance", name, 100)
    assert code == 0
    assert out.split() == [envelope.id for envelope in envelopes]


def test_a_job_that_nobody_does_is_not_waited_for_longer_than_allowed(
    cli: Command, name: str
) -> None:
    code, out, err = cli(
        *("submit", "target_pipeline", "photos", "--payload", '{"uri": "a"}'),
        *("--transport", f"shared://{name}", "--wait", "--timeout", "0.05"),
    )

    assert (code, out) == (1, "")
    assert "did not end in 0.05 s" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos", "--payload", '{"uri": 3}'], "Expected `str`, got `int` - at `$.uri`"),
        (["photos", "--payload", "[" * 100_000], "the payload is not JSON"),
        (["photos", "--payload", "@"], "the payload cannot be read"),
        (["fotos", "--payload", "1"], "did you mean 'photos'?"),
        (["photos", "--payload", '{"uri": "a"}', "--header", "x"], "--header takes NAME=VALUE"),
        (["photos", "--payload", '{"uri": "%s"}' % ("a" * 600_000)], "more than the 524288"),
        (["photos"], "Missing option '--payload'"),
    ],
    ids=range(7),
)
def test_what_cannot_be_submitted_is_said(
    cli: Command, name: str, arguments: list[str], said: str
) -> None:
    url = f"shared://{name.partition('[')[0]}"

    code, out, err = cli("submit", "target_pipeline", *arguments, "--transport", url)

    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


async def test_results_are_told_in_the_order_of_the_lines(
    capfd: pytest.CaptureFixture[str],
) -> None:
    last = anyio.Event()

    @actor
    async def wait(number: int) -> int:
        if number == 3:
            last.set()
        await last.wait()
        return number

    async def lines() -> AsyncIterator[Line]:
        for number in (1, 2, 3):
            yield Line(number, str(number).encode())

    app, transport, results = App([wait]), MemoryTransport(), Results(as_json=False)
    async with app.worker(transport.share()), app.connect(transport) as client:
        await submit_all(client, Plan(["wait"], int, in_flight=3), lines(), results)

    assert capfd.readouterr().out == "1\n2\n3\n"
    assert (results.failures, results.unfinished) == (0, 0)
