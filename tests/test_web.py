"""The small HTTP server: what it hands on, and what it refuses itself."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from ottla.web import BODY_BYTES_MAX, WebRequest, WebResponse, WebServer


def echo(request: WebRequest) -> WebResponse:
    if request.path == ("fails",):
        raise RuntimeError("no")
    found = {"method": request.method, "path": request.path, "query": request.query, "body": request.body.decode()}
    return WebResponse(body=found, headers={"X-More": "yes"})


@pytest.fixture
def server() -> Iterator[WebServer]:
    running = WebServer("127.0.0.1", 0, name="test", methods=("GET", "POST"))
    running.start(echo)
    yield running
    running.close()


def ask(server: WebServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.endpoint, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_request_is_handed_on_in_parts(server: WebServer) -> None:
    status, body = ask(server, "POST", "/a%2Fb/c?x=1&x=2&y=", b"text")
    assert status == 200
    assert body == '{"method":"POST","path":["a/b","c"],"query":{"x":["1","2"],"y":[""]},"body":"text"}'


def test_head_has_no_body(server: WebServer) -> None:
    assert ask(server, "HEAD", "/") == (200, "")


def test_what_is_no_method_of_the_server_is_not_handed_on(server: WebServer) -> None:
    assert ask(server, "DELETE", "/")[0] == 501


def test_an_error_of_the_program_is_500(server: WebServer) -> None:
    assert ask(server, "GET", "/fails") == (500, '{"error":"RuntimeError: no"}')


def test_bodies_have_a_length_and_a_bound(server: WebServer) -> None:
    assert ask(server, "POST", "/", Transfer_Encoding="chunked")[0] == 411
    assert ask(server, "POST", "/", Content_Length="many")[0] == 400
    assert ask(server, "POST", "/", Content_Length=str(BODY_BYTES_MAX + 1))[0] == 413


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "[::1", ""])
def test_a_name_that_somebody_points_at_loopback_is_refused(server: WebServer, host: str) -> None:
    assert ask(server, "GET", "/", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:9", "[::1]:1"])
def test_this_machine_may_ask(server: WebServer, host: str) -> None:
    assert ask(server, "GET", "/", Host=host)[0] == 200


def test_an_address_that_is_not_in_utf8_is_refused(server: WebServer) -> None:
    assert ask(server, "GET", "/%ff")[0] == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_page_of_another_machine_may_not_ask(server: WebServer, origin: str) -> None:
    """A browser sends its POST without asking first if the body has no type."""
    assert ask(server, "POST", "/", b"{}", Origin=origin)[0] == 403


def test_a_page_of_this_machine_may_ask(server: WebServer) -> None:
    assert ask(server, "POST", "/", b"{}", Origin="http://localhost:3000")[0] == 200


def test_a_closed_server_does_not_answer_on_connections_that_are_open() -> None:
    running = WebServer("127.0.0.1", 0, name="test")
    running.start(echo)
    connection = http.client.HTTPConnection(running.endpoint, timeout=30)
    try:
        connection.request("GET", "/")
        assert connection.getresponse().read()
        running.close()
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 503
        assert response.getheader("Connection") == "close"
    finally:
        connection.close()
