import http.client
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from select import select
from threading import Barrier

import pytest

from asyafw.exceptions import ConfigurationError
from asyafw.telemetry import StatusServer

LIMIT_S = 20
"""How long a test waits for what should come at once."""


class Worker:
    """Something to be asked for its state."""

    problem: str | None = None
    unready: str | None = None

    def metrics(self) -> bytes:
        return b"asyafw_in_flight 3\n"

    def healthy(self) -> str | None:
        return self.problem

    def ready(self) -> str | None:
        return self.unready


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def server(worker: Worker) -> Iterator[StatusServer]:
    with status_server(worker) as running:
        yield running


def status_server(worker: Worker, port: int = 0, timeout_s: float = LIMIT_S) -> StatusServer:
    return StatusServer(
        "127.0.0.1",
        port,
        metrics=worker.metrics,
        healthy=worker.healthy,
        ready=worker.ready,
        timeout_s=timeout_s,
    )


def ask(
    server: StatusServer, path: str, method: str = "GET"
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_metrics_are_served_in_prometheus_format(server: StatusServer) -> None:
    status, body, headers = ask(server, "/metrics")

    assert (status, body) == (200, b"asyafw_in_flight 3\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_a_query_is_ignored(server: StatusServer) -> None:
    assert ask(server, "/metrics?name[]=asyafw_in_flight")[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_all_is_well(server: StatusServer, path: str) -> None:
    status, body, headers = ask(server, path)

    assert (status, body) == (200, b"ok\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_problem_is_told_with_its_reason(server: StatusServer, worker: Worker) -> None:
    worker.problem = "nothing has moved for 60 s – 5 messages wait"
    worker.unready = "connecting"

    assert ask(server, "/healthz")[:2] == (503, f"{worker.problem}\n".encode())
    assert ask(server, "/readyz")[:2] == (503, b"connecting\n")


def test_head_is_get_without_a_body(server: StatusServer) -> None:
    status, body, headers = ask(server, "/healthz", "HEAD")

    assert (status, body, headers["Content-Length"]) == (200, b"", "3")


def test_other_pages_are_not_found(server: StatusServer) -> None:
    assert ask(server, "/")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: StatusServer, method: str) -> None:
    status, _, headers = ask(server, "/healthz", method)

    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_the_software_is_not_told(server: StatusServer) -> None:
    assert "Python" not in ask(server, "/healthz")[2]["Server"]


def test_a_question_that_fails_is_an_error_in_the_log(
    server: StatusServer, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.problem = "\udcff"  # cannot be encoded

    status, body, _ = ask(server, "/healthz")

    assert status == 500
    assert b"Unicode" not in body
    assert [record.getMessage() for record in caplog.records] == ["cannot answer /healthz"]


def test_requests_are_not_logged(
    server: StatusServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)

    ask(server, "/healthz")
    ask(server, "/missing")

    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.anyio
async def test_it_answers_while_the_event_loop_is_blocked(server: StatusServer) -> None:
    # The request blocks the loop of this test until it is answered.
    assert ask(server, "/healthz")[0] == 200


def test_several_clients_are_served_at_a_time(worker: Worker) -> None:
    both_inside = Barrier(2, timeout=LIMIT_S)

    def healthy() -> str | None:
        both_inside.wait()
        return None

    worker.healthy = healthy  # type: ignore[method-assign]  # a worker that takes its time
    with status_server(worker) as server:
        connections = [
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S) for _ in range(2)
        ]
        for connection in connections:
            connection.request("GET", "/healthz")

        assert [connection.getresponse().status for connection in connections] == [200, 200]

        for connection in connections:
            connection.close()


def test_a_free_port_can_be_chosen(worker: Worker) -> None:
    with status_server(worker) as one, status_server(worker) as other:
        assert 0 not in (one.port, other.port)
        assert one.port != other.port


def test_an_address_in_use_is_a_configuration_error(server: StatusServer, worker: Worker) -> None:
    with (
        pytest.raises(ConfigurationError, match=rf"127.0.0.1:{server.port}.*in use"),
        status_server(worker, server.port),
    ):
        pass


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no.such.host.invalid", 0)])
def test_an_impossible_address_is_a_configuration_error(
    worker: Worker, host: str, port: int
) -> None:
    server = StatusServer(
        host, port, metrics=worker.metrics, healthy=worker.healthy, ready=worker.ready
    )

    with pytest.raises(ConfigurationError, match="cannot listen"), server:
        pass


def test_the_port_is_free_again_afterwards(worker: Worker) -> None:
    with status_server(worker) as first:
        port = first.port

    with status_server(worker, port) as again:
        assert ask(again, "/healthz")[0] == 200


def test_a_client_that_never_finishes_its_request_does_not_hang_the_end(worker: Worker) -> None:
    with status_server(worker, timeout_s=3600) as server:
        slow = socket.create_connection(("127.0.0.1", server.port), LIMIT_S)
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert ask(server, "/healthz")[0] == 200  # the slow one has been accepted before it

    with slow:
        assert slow.recv(1) == b""


def test_a_client_that_trickles_is_cut_off(worker: Worker) -> None:
    with (
        status_server(worker, timeout_s=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as slow,
    ):
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")

        # Each byte comes well within the time for one, until the time for all is over.
        with suppress(ConnectionError):
            while not select([slow], [], [], 0.02)[0]:
                slow.sendall(b"x")
            assert slow.recv(1) == b""


def test_a_crowd_does_not_become_a_thread_each(worker: Worker) -> None:
    with status_server(worker, timeout_s=3600) as server:
        crowd = [socket.create_connection(("127.0.0.1", server.port), LIMIT_S) for _ in range(65)]

        assert crowd[-1].recv(1) == b""

        for client in crowd:
            client.close()
