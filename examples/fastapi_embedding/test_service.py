import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from msgspec import json

from examples.fastapi_embedding.service import create

PATIENCE_S = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    service = create(f"memory://{request.node.name.replace('_', '-')}")
    transport = httpx.ASGITransport(app=service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read server-sent events."""
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.decode(value)


async def test_an_order_is_accepted_and_can_be_followed(http: httpx.AsyncClient) -> None:
    accepted = await http.post("/reports", json={"topic": "tea", "pages": 2})
    followed = await http.get(accepted.headers["Location"])

    assert accepted.status_code == 202
    assert followed.headers["Content-Type"].startswith("text/event-stream")
    told = list(events(iter(followed.text.splitlines())))
    kinds = [kind for kind, _ in told]
    assert kinds[0] == "accepted"
    assert "progress" in kinds
    assert kinds[-1] == "succeeded"
    assert told[-1][1]["result"] == ["All about tea, part 1.", "All about tea, part 2."]


async def test_a_report_can_be_waited_for(http: httpx.AsyncClient) -> None:
    answer = await http.post("/reports/now", json={"topic": "tea", "pages": 1})

    assert answer.status_code == 200
    assert answer.json() == ["All about tea, part 1."]


async def test_a_wrong_order_is_refused_before_it_is_a_job(http: httpx.AsyncClient) -> None:
    answer = await http.post("/reports", json={"topic": "tea", "pages": "many"})

    assert answer.status_code == 422


async def test_a_failed_job_says_why(http: httpx.AsyncClient) -> None:
    answer = await http.post("/reports/now", json={"topic": "tea", "pages": 0})

    assert answer.status_code == 422
    assert answer.json()["error"] == "a report has at least one page"


async def test_a_job_can_be_cancelled(http: httpx.AsyncClient) -> None:
    accepted = await http.post("/reports", json={"topic": "tea", "pages": 500})

    cancelled = await http.delete(f"/reports/{accepted.json()['job']}")

    followed = await http.get(accepted.headers["Location"])
    assert cancelled.status_code == 202
    assert [kind for kind, _ in events(iter(followed.text.splitlines()))][-1] == "cancelled"


def test_a_server_that_is_stopped_finishes_what_it_has_begun() -> None:
    command = [sys.executable, "-m", "uvicorn", "examples.fastapi_embedding.service:service"]
    with subprocess.Popen(
        [*command, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            url = address_of(server)
            accepted = httpx.post(f"{url}/reports", json={"topic": "tea", "pages": 10})
            followed = f"{url}{accepted.headers['Location']}"
            with httpx.stream("GET", followed, timeout=PATIENCE_S) as stream:
                assert "progress" in (kind for kind, _ in events(stream.iter_lines()))

            server.send_signal(signal.SIGTERM)
            output, _ = server.communicate(timeout=PATIENCE_S)
        finally:
            server.kill()

    assert "wrote a report" in output


def address_of(server: "subprocess.Popen[str]") -> str:
    """Wait until the server listens, and give its URL."""
    assert server.stdout is not None
    said: list[str] = []
    for line in server.stdout:
        said.append(line)
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    raise AssertionError("".join(said))
