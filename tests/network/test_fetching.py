"""Documents from URLs: what is fetched, what is not followed, how large it may be, what an error shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import ottla.sasl
from ottla.network.fetching import BYTES_MAX, FetchError, check_url, fetch


class Handler(BaseHTTPRequestHandler):
    asked: list[tuple[str, str, bytes, str]] = []

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.asked.append((self.command, self.path, self.rfile.read(size), self.headers.get("Authorization") or ""))
        path = self.path.partition("?")[0]
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/ok")
            self.end_headers()
            return
        status = 200 if path in ("/ok", "/large", "/token", "/odd") else 404
        body = {"/large": b"x" * (BYTES_MAX + 1), "/token": b'{"access_token":"a.b.c","expires_in":100}'}.get(
            path, b"yes"
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_document_is_fetched_from_a_server_and_a_file(server: str, tmp_path: Path) -> None:
    assert fetch(f"{server}/ok") == b"yes"
    (tmp_path / "a b").write_bytes(b"no")
    assert fetch((tmp_path / "a b").as_uri()) == b"no"


@pytest.mark.parametrize(
    ("path", "why"), [("/moved", "answered 302"), ("/none", "answered 404"), ("/large", "more than 1048576 bytes")]
)
def test_redirects_errors_and_large_documents_are_not_taken(server: str, path: str, why: str) -> None:
    before = len(Handler.asked)
    with pytest.raises(FetchError, match=why) as error:
        fetch(f"{server}{path}?canary")
    assert [row[1] for row in Handler.asked[before:]] == [f"{path}?canary"]
    assert "canary" not in str(error.value)


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/x?canary", f"file://{tmp_path}/none", "gopher://x/", "https://u:canary@x/"):
        with pytest.raises(FetchError) as error:
            fetch(url)
        assert "canary" not in str(error.value)
    for url in ("https:///x", "x", "http://x:99999999/"):
        with pytest.raises(ValueError, match=r".+"):
            check_url(url)


def test_client_credentials_are_sent_once_while_a_token_is_good(server: str) -> None:
    """The secret goes into a header (RFC 6749 2.3.1), never into the URL; a token is kept for most of its time."""
    now = [0.0]
    tokens = ottla.sasl.ClientCredentials(
        f"{server}/token", "app:1", "se cret", scope="kafka", parameters={"audience": "k"}, now=lambda: now[0]
    )
    before = len(Handler.asked)
    assert (tokens(), tokens()) == ("a.b.c", "a.b.c")
    ((method, path, body, login),) = Handler.asked[before:]
    assert (method, path) == ("POST", "/token")
    assert body == b"grant_type=client_credentials&scope=kafka&audience=k"
    assert login == "Basic YXBwJTNBMTpzZSUyMGNyZXQ="
    now[0] = 81
    tokens()
    assert len(Handler.asked) == before + 2
    assert "cret" not in repr(tokens)


def test_an_endpoint_that_gives_no_token_is_told(server: str, tmp_path: Path) -> None:
    for url, why in ((f"{server}/odd", "has no access_token"), (f"{server}/none", "answered 404")):
        with pytest.raises(ottla.sasl.TokenFetchError, match=why):
            ottla.sasl.ClientCredentials(url, "a", "b")()
    (tmp_path / "token").write_text("a.b.c\n")
    assert ottla.sasl.ClientCredentials((tmp_path / "token").as_uri())() == "a.b.c"
    assert ottla.sasl.OAuthBearer("x").exchange(bytes, "localhost").mechanism == "OAUTHBEARER"
    with pytest.raises(ottla.sasl.TokenFetchError, match="ZeroDivisionError"):
        ottla.sasl.OAuthBearer(lambda: str(1 // 0)).exchange(bytes, "localhost").begin()
