"""The plain HTTP of the broker's port."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.network.fakes import FakeHost, frame, turn

from ottla.network.connection import feed
from ottla.network.http import (
    HEAD_BYTES_MAX,
    HttpConversation,
    HttpResponse,
    HttpSite,
    LaterResponse,
    Verdict,
    host_is_ours,
)


def page(path: str) -> HttpResponse:
    if path == "/broken":
        raise ZeroDivisionError("a bug in a page")
    if path == "/long":
        return HttpResponse(body=slices())
    if path == "/":
        return HttpResponse(body=b"front page", content_type="text/html")
    return HttpResponse(body=path.encode(), status=404)


def slices() -> Iterator[bytes]:
    for number in range(200):
        yield b"%04d" % number * 1000


SITE = HttpSite(handler=page, hosts=frozenset({"kafka.example.com"}))


def answers(request: bytes, site: HttpSite = SITE) -> tuple[bytes, bool]:
    """Everything a client gets for what it sends, and whether the connection is to be closed."""
    conversation = HttpConversation(site, "127.0.0.1", 9092, 0.0)
    conversation.receive(request)
    out = b""
    while (answer := conversation.step(0.0)) is not None:
        out += answer
    return out, conversation.finished


def get(path: str = "/", *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    lines = [f"{method} {path} {version}", *(headers or ("Host: localhost:9092",))]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_get_has_a_length_and_keeps_the_connection() -> None:
    out, finished = answers(get())
    head, _, body = out.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/html\r\n" in head
    assert b"Content-Length: 10\r\n" in head
    assert body == b"front page"
    assert not finished


def test_head_has_the_headers_of_get_and_no_body() -> None:
    out, _ = answers(get(method="HEAD"))
    assert out == answers(get())[0].removesuffix(b"front page")


def test_pipelined_requests_are_answered_in_order() -> None:
    out, _ = answers(get("/a") + get("/b"))
    assert out == answers(get("/a"))[0] + answers(get("/b"))[0]


def test_a_query_is_no_part_of_the_path() -> None:
    assert answers(get("/?x=/y"))[0].endswith(b"front page")


def test_a_long_answer_is_built_in_slices() -> None:
    conversation = HttpConversation(SITE, "127.0.0.1", 9092, 0.0)
    conversation.receive(get("/long"))
    steps = []
    while (answer := conversation.step(0.0)) is not None:
        steps.append(answer)
    assert len(steps) > 10
    assert set(steps[:-1]) == {b""}
    assert b"Content-Length: 800000\r\n" in steps[-1]
    assert len(steps[-1].partition(b"\r\n\r\n")[2]) == 800000


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/nothing"), 404),
        (get(method="POST"), 405),
        (get(method="DELETE"), 405),
        (get("/", "Host: evil.example.com"), 421),
        (get("/", "Host: localhost.evil.example.com"), 421),
        (get("/", "Host: localhost", "Host: evil.example.com"), 400),
        (get("/", "Host: "), 421),
        (get("http://evil.example.com/", "Host: localhost"), 421),
        (get("/", "Accept: */*"), 400),
        (get("/", "Host: localhost", "Content-Length: 5"), 413),
        (get("/", "Host: localhost", "Transfer-Encoding: chunked"), 413),
        (get("/", "Host: localhost", "broken header"), 400),
        (get("/", "Host: localhost", " folded: line"), 400),
        (get(version="HTTP/2.0"), 505),
        (get("nopath"), 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1 extra\r\n\r\n", 400),
        (b"GET /" + b"x" * HEAD_BYTES_MAX * 2, 431),
        (get("/broken"), 500),
    ],
)
def test_what_is_refused_and_how(request_bytes: bytes, status: int) -> None:
    out, finished = answers(request_bytes)
    assert out.startswith(b"HTTP/1.1 %d " % status)
    assert out.count(b"Content-Length") == 1
    head, _, body = out.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    if status != 404:
        assert finished
        assert b"Connection: close" in head


def test_nothing_after_a_refused_request_is_answered() -> None:
    out, _ = answers(get(method="POST") + get())
    assert out.count(b"Content-Length") == 1


@pytest.mark.parametrize(
    ("request_bytes", "finished"),
    [
        (get("/", "Host: localhost", "Connection: close"), True),
        (get("/", "Host: localhost", "Connection: Keep-Alive, Close"), True),
        (get(version="HTTP/1.0"), True),
        (get("/", "Connection: keep-alive", version="HTTP/1.0"), False),
        (get("/"), False),
    ],
)
def test_who_closes(request_bytes: bytes, finished: bool) -> None:
    out, closed = answers(request_bytes)
    assert out.startswith(b"HTTP/1.1 200 ")
    assert closed is finished


@pytest.mark.parametrize(
    ("host", "local", "ours"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST:9092", "127.0.0.1", True),
        ("127.0.0.1:9092", "127.0.0.1", True),
        ("[::1]:9092", "::1", True),
        ("192.168.1.7:19092", "172.17.0.2", True),
        ("kafka.example.com", "127.0.0.1", True),
        ("kafka.example.com.:9092", "10.0.0.1", True),
        ("rebound.example.com", "127.0.0.1", False),
        ("rebound.example.com", "10.0.0.1", False),
        ("ottla", "172.17.0.2", True),
        ("ottla", "127.0.0.1", False),
        ("ottla.kafka.svc.cluster.local:9092", "10.1.2.3", True),
        ("printer.local", "127.0.0.1", False),
        ("user@localhost", "127.0.0.1", False),
        ("localhost/", "127.0.0.1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_the_host_header_must_name_this_broker(host: str, local: str, ours: bool) -> None:
    assert host_is_ours(host, local, frozenset({"kafka.example.com"})) is ours


def test_slow_heads_and_forgotten_connections_are_ended() -> None:
    conversation = HttpConversation(SITE, "127.0.0.1", 9092, 0.0)
    conversation.receive(b"GET / HT")
    assert conversation.overdue(10.0) is None
    assert conversation.overdue(20.0) == "an HTTP request has not arrived whole in 20 s"
    conversation.receive(b"TP/1.1\r\nHost: localhost\r\n\r\n")
    assert conversation.step(21.0)
    assert conversation.overdue(80.0) is None
    assert conversation.overdue(100.0) == ""


@given(
    st.lists(st.sampled_from([get("/a"), get("/", method="HEAD"), get("/long"), b"\r\n", get("/b")]), max_size=4),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_any_chunking_gives_the_same_answers(requests: list[bytes], chunks: list[int]) -> None:
    stream = b"".join(requests)
    conversation = HttpConversation(SITE, "127.0.0.1", 9092, 0.0)
    out = b""
    position = turn_number = 0
    while position < len(stream):
        count = chunks[turn_number % len(chunks)]
        turn_number += 1
        conversation.receive(stream[position : position + count])
        position += count
        while (answer := conversation.step(0.0)) is not None:
            out += answer
    assert out == answers(stream)[0]


@given(st.binary(max_size=300))
def test_garbage_is_answered_or_waited_for_but_never_raises(garbage: bytes) -> None:
    out, finished = answers(b"GET " + garbage + b"\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 ")
    assert finished or b" 200 " in out[:20] or b" 404 " in out[:20]


async def test_a_connection_that_begins_with_a_capital_letter_is_http() -> None:
    connection, transport = FakeHost(lambda c, f: None, http=SITE).connect()
    for byte in get("/", "Host: localhost", "Connection: close"):
        feed(connection, bytes([byte]))
    await turn(2)
    assert transport.sent.endswith(b"front page")
    assert transport.lost


async def test_http_is_answered_while_the_broker_starts() -> None:
    host = FakeHost(lambda c, f: None, http=SITE)
    host.serving = False
    connection, transport = host.connect()
    feed(connection, get("/"))
    assert transport.sent.endswith(b"front page")


async def test_a_long_answer_leaves_the_loop_to_others_between_slices() -> None:
    host = FakeHost(lambda c, f: [frame(bytes(f))], http=SITE)
    browser, page_transport = host.connect()
    client, client_transport = host.connect()
    feed(browser, get("/long"))
    assert page_transport.sent == b""
    feed(client, frame(b"produce"))
    assert client_transport.sent == frame(b"produce")
    await turn(30)
    assert len(page_transport.sent) > 800000


async def test_a_slow_browser_is_not_answered_faster_than_it_reads() -> None:
    host = FakeHost(lambda c, f: None, http=SITE)
    connection, transport = host.connect(room=100)
    feed(connection, get("/") * 50)
    assert len(transport.waiting) < 2000
    while transport.waiting:
        transport.peer_reads(500)
        await turn()
    assert transport.sent == answers(get("/"))[0] * 50


def test_pipelined_requests_are_decided_about_one_after_the_other() -> None:
    """At once or later; what is decided at once is answered without being called back, however many there are."""
    waiting: list[Callable[[Verdict], None]] = []

    def login(owner: object, authorization: str, decide: Callable[[Verdict], None]) -> None:
        if authorization == "later":
            waiting.append(decide)
        else:
            decide(Verdict.COME_IN)

    site = HttpSite(handler=lambda path: HttpResponse(body=path.encode()), login=login)
    conversation = HttpConversation(site, "127.0.0.1", 9092, 0.0)
    woken = []
    conversation.wake = lambda: woken.append(True)
    request = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
    count = 400
    conversation.receive(request * count)
    assert [(conversation.step(0.0) or b"")[-2:] for _ in range(count)] == [b"/a"] * count
    assert not woken
    conversation.receive(request.replace(b"\r\n\r\n", b"\r\nAuthorization: later\r\n\r\n") * 2)
    assert conversation.step(0.0) is None
    assert conversation.step(0.0) is None
    assert len(waiting) == 1
    waiting[0](Verdict.COME_IN)
    assert woken == [True]
    assert (conversation.step(0.0) or b"").endswith(b"/a")
    assert conversation.step(0.0) is None
    waiting[1](Verdict.BUSY)
    assert (conversation.step(0.0) or b"").startswith(b"HTTP/1.1 503")
    assert conversation.finished


def test_an_answer_and_the_login_before_it_are_both_waited_for() -> None:
    decisions: list[Callable[[Verdict], None]] = []
    later = LaterResponse()
    site = HttpSite(handler=lambda path: later, login=lambda owner, authorization, decide: decisions.append(decide))
    conversation = HttpConversation(site, "127.0.0.1", 9092, 0.0)
    woken: list[bool] = []
    conversation.wake = lambda: woken.append(True)
    conversation.receive(get("/a"))
    assert conversation.step(0.0) is None
    decisions[0](Verdict.COME_IN)
    assert woken == [True]
    assert conversation.step(0.0) is None
    later.resolve(HttpResponse(body=b"all"))
    assert woken == [True, True]
    assert (conversation.step(0.0) or b"").endswith(b"all")
    assert conversation.step(0.0) is None
