"""HttpSinkConnector against a server that answers as the tests say, without Kafka."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.connect.library.conftest import Given, record, sink_task
from tests.network.certificates import server_context
from tests.support.web import Asked, Say, WebServer

from ottla import TopicPartition
from ottla.connect import INT64, STRING, ConfigError, ConnectError, RetriableError, Schema, Struct
from ottla.connect.config_def import Password
from ottla.connect.library.http import HttpSinkConnector
from ottla.connect.library.http.link import Answer, retry_after_s
from ottla.connect.runtime.validation import secrets_of

P0 = TopicPartition("orders", 0)
ORDER = Schema.struct({"id": INT64, "item": STRING}, name="order")
TASKS: list[Any] = []


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        yield made
        while TASKS:
            TASKS.pop().stop()


def sink(server: WebServer, path: str = "/orders", **more: str) -> tuple[Any, Given]:
    config = {"name": "out", "http.url": server.url + path, "retry.backoff.ms": "1"}
    task, given = sink_task(
        HttpSinkConnector, config | {name.replace("__", "."): value for name, value in more.items()}, P0
    )
    TASKS.append(task)
    return task, given


def refusing(*bad: bytes, status: int = 422) -> Callable[[Asked], Say]:
    """Return a server that does not take requests with certain texts in them."""
    return lambda asked: Say(status, b"no such item") if any(text in asked.body for text in bad) else Say(201)


def test_each_record_is_a_request_that_is_known_by_its_offset(server: WebServer) -> None:
    task, given = sink(
        server, "/orders/${key}?from=${topic}", http__method="PUT", http__headers="X-Shop: 7|X-Kind: a, b"
    )
    task.put(
        [
            record(0, Struct(ORDER, id=1, item="pen"), key="a/b ü", value_schema=ORDER),
            record(1, {"id": 2}, key=7),
            record(2, "text", key="k"),
            record(3, b"\x00\x01", key="k"),
        ]
    )
    assert [asked.target for asked in server.asked] == [
        "/orders/a%2Fb%20%C3%BC?from=orders",
        "/orders/7?from=orders",
        "/orders/k?from=orders",
        "/orders/k?from=orders",
    ]
    assert [asked.body for asked in server.asked] == [b'{"id":1,"item":"pen"}', b'{"id":2}', b"text", b"\x00\x01"]
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == [f"orders-0-{offset}" for offset in range(4)]
    first = server.asked[0]
    assert first.method == "PUT"
    assert (first.headers["X-Shop"], first.headers["X-Kind"], first.headers["Content-Type"]) == (
        "7",
        "a, b",
        "application/json",
    )
    assert server.connections == 1
    assert given.rejected == []


def test_a_batch_is_a_list_and_is_known_by_both_its_ends(server: WebServer) -> None:
    """A batch that ends elsewhere is another one: a server that knows it must not leave out what is new in it."""
    task, _ = sink(server, batching__enabled="true", batch__max__size="3")
    task.put([record(number, {"id": number}) for number in range(5)])
    assert [json.loads(asked.body) for asked in server.asked] == [
        [{"id": 0}, {"id": 1}, {"id": 2}],
        [{"id": 3}, {"id": 4}],
    ]
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == ["orders-0-0-2", "orders-0-3-4"]


def test_batches_hold_records_of_one_partition_and_one_address(server: WebServer) -> None:
    task, _ = sink(server, "/${key}", batching__enabled="true")
    others = [record(number, number, key="a", topic="others") for number in range(2)]
    task.put([record(0, 0, key="a"), others[0], record(1, 1, key="a"), record(2, 2, key="b"), others[1]])
    assert [(asked.target, asked.headers["Idempotency-Key"]) for asked in server.asked] == [
        ("/a", "orders-0-0-1"),
        ("/b", "orders-0-2-2"),
        ("/a", "others-0-0-1"),
    ]


def test_what_the_server_does_not_take_is_rejected_with_its_words(server: WebServer) -> None:
    server.answer = refusing(b"lamp")
    task, given = sink(server)
    task.put([record(0, {"item": "pen"}), record(1, {"item": "lamp"}), record(2, {"item": "cup"})])
    assert given.rejected == [(1, f"{server.url} answers POST with 422: no such item")]
    assert len(server.asked) == 3


def test_a_batch_that_is_not_taken_is_halved_until_the_bad_record_is_found(server: WebServer) -> None:
    server.answer = refusing(b'"bad"', status=400)
    task, given = sink(server, batching__enabled="true")
    task.put([record(number, "bad" if number in (2, 5) else number) for number in range(7)])
    assert [offset for offset, _ in given.rejected] == [2, 5]
    taken = [value for asked in server.asked if b"bad" not in asked.body for value in json.loads(asked.body)]
    assert taken == [0, 1, 3, 4, 6]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_that_cannot_now_is_asked_again_for_what_it_does_not_have(server: WebServer, status: int) -> None:
    """The worker gives the same records again: those that arrived, and those that were rejected, are not sent again."""
    is_down = True
    server.answer = lambda asked: Say(status) if is_down and b"3" in asked.body else refusing(b"1")(asked)
    task, given = sink(server)
    records = [record(number, number) for number in range(5)] + [record(5, None)]
    with pytest.raises(RetriableError, match=f"answers POST with {status}"):
        task.put(records)
    given.rejected.clear()  # as the worker does, whose batch comes again
    is_down = False
    task._not_before = 0.0
    task.put(records)
    assert [asked.body for asked in server.asked] == [b"0", b"1", b"2", b"3", b"3", b"4"]
    assert [offset for offset, _ in given.rejected] == [1, 5]


def test_records_of_a_partition_that_went_and_came_are_sent_again(server: WebServer) -> None:
    server.answer = lambda asked: Say(503 if asked.body == b"1" else 200)
    task, _ = sink(server)
    with pytest.raises(RetriableError):
        task.put([record(0, 0), record(1, 1)])
    task.close([P0])
    task.open([P0])
    server.answer = lambda asked: Say()
    task._not_before = 0.0
    task.put([record(0, 0), record(1, 1)])
    assert [asked.body for asked in server.asked] == [b"0", b"1", b"0", b"1"]


def test_retry_after_is_heeded(server: WebServer) -> None:
    server.answer = lambda asked: Say(503, headers={"Retry-After": "3000"})
    task, _ = sink(server)
    with pytest.raises(RetriableError, match="503"):
        task.put([record(0, 0)])
    with pytest.raises(RetriableError, match="left alone for another"):
        task.put([record(0, 0)])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("999999", 3600.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_what_retry_after_says(text: str, seconds: float) -> None:
    assert retry_after_s(Answer(status=503, headers={"retry-after": text}, body=b"", is_whole=True)) == seconds


def test_retry_after_may_be_a_date() -> None:
    far = Answer(status=503, headers={"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, body=b"", is_whole=True)
    assert retry_after_s(far) == 3600.0


def test_after_too_many_tries_the_task_fails(server: WebServer) -> None:
    server.answer = lambda asked: Say(500, b"out of order")
    task, _ = sink(server, max__retries="1")
    with pytest.raises(RetriableError):
        task.put([record(0, 0)])
    task._not_before = 0.0
    with pytest.raises(
        ConnectError, match=r"500: out of order; it has failed 2 times in a row \(max.retries=1\)"
    ) as found:
        task.put([record(0, 0)])
    assert not isinstance(found.value, RetriableError)


def test_a_server_that_is_not_there_is_tried_again() -> None:
    with WebServer() as gone:
        pass
    task, _ = sink(gone)
    with pytest.raises(RetriableError, match="does not answer POST"):
        task.put([record(0, 0)])
    task.stop()


@pytest.mark.parametrize("status", [401, 407])
def test_a_server_that_lets_nobody_in_fails_the_task_and_rejects_nothing(server: WebServer, status: int) -> None:
    server.answer = lambda asked: Say(status)
    task, given = sink(server)
    with pytest.raises(ConnectError, match="are not accepted") as found:
        task.put([record(0, 0)])
    assert not isinstance(found.value, RetriableError)
    assert given.rejected == []


def test_an_answer_that_is_cut_off_is_none(server: WebServer) -> None:
    server.answer = lambda asked: Say(200, b"half", cut=True)
    task, _ = sink(server)
    with pytest.raises(RetriableError, match="10 bytes before its end"):
        task.put([record(0, 0)])


def test_a_connection_that_the_server_has_ended_is_made_again(server: WebServer) -> None:
    """Servers end connections that were not used for a while, without a word."""
    task, _ = sink(server)
    task.put([record(0, 0)])
    task._link._connection.sock.shutdown(2)
    task.put([record(1, 1)])
    assert [asked.body for asked in server.asked] == [b"0", b"1"]


def test_redirects_are_followed_to_the_same_server_with_the_body(server: WebServer) -> None:
    server.answer = lambda asked: Say(308, headers={"Location": "/new"}) if asked.target == "/orders" else Say()
    task, _ = sink(server)
    task.put([record(0, "x")])
    assert [(asked.method, asked.target, asked.body) for asked in server.asked] == [
        ("POST", "/orders", b"x"),
        ("POST", "/new", b"x"),
    ]
    assert server.asked[1].headers["Idempotency-Key"] == "orders-0-0"


@pytest.mark.parametrize(
    ("status", "location", "reason"),
    [
        (
            307,
            "http://other.example/orders?key=hush",
            "redirects to http://other.example/orders .307., which is another",
        ),
        (307, "https://127.0.0.1/orders", "which is another server"),
        (302, "/new", "takes no body along"),
        (308, "/orders", "redirects POST more than 5 times"),
    ],
)
def test_other_redirects_fail_the_task(server: WebServer, status: int, location: str, reason: str) -> None:
    server.answer = lambda asked: Say(status, headers={"Location": location})
    task, _ = sink(server)
    with pytest.raises(ConnectError, match=reason) as found:
        task.put([record(0, "x")])
    assert "hush" not in str(found.value)


def test_secrets_are_sent_and_not_shown(server: WebServer) -> None:
    server.answer = lambda asked: Say(
        400, asked.headers["Authorization"].encode() + asked.headers["X-Api-Key"].encode()
    )
    task, given = sink(server, http__authorization="Bearer tok-en-1", http__secret__headers="X-Api-Key: k-e-y-2")
    task.put([record(0, "x")])
    (asked,) = server.asked
    assert (asked.headers["Authorization"], asked.headers["X-Api-Key"]) == ("Bearer tok-en-1", "k-e-y-2")
    ((_, told),) = given.rejected
    assert "tok-en-1" not in told
    assert "k-e-y-2" not in told
    assert "[hidden]" in told
    assert repr(task.values["http.authorization"]) == repr(Password("")) == "[hidden]"
    hidden = ["http.authorization", "http.password", "http.secret.headers"]
    assert secrets_of(HttpSinkConnector, dict.fromkeys([*hidden, "http.url"], "x")) == hidden


def test_basic_authentication(server: WebServer) -> None:
    task, _ = sink(server, http__user="mé", http__password="pa:ss")
    task.put([record(0, "x")])
    assert base64.b64decode(server.asked[0].headers["Authorization"].removeprefix("Basic ")).decode() == "mé:pa:ss"


def test_records_without_a_value_become_deletions(server: WebServer) -> None:
    """What is not there any more is deleted."""
    server.answer = lambda asked: Say(404) if asked.method == "DELETE" else Say()
    task, given = sink(server, "/orders/${key}", http__null__values="delete")
    task.put([record(0, {"id": 1}, key="1"), record(1, None, key="1")])
    assert [(asked.method, asked.target, asked.body) for asked in server.asked] == [
        ("POST", "/orders/1", b'{"id":1}'),
        ("DELETE", "/orders/1", b""),
    ]
    assert given.rejected == []


def test_records_without_a_value_are_rejected_or_left_out(server: WebServer) -> None:
    task, given = sink(server)
    task.put([record(0, None), record(1, 1)])
    assert given.rejected == [(0, "there is no value: http.null.values says what is done about these")]
    task, given = sink(server, http__null__values="ignore")
    task.put([record(0, None), record(1, 1)])
    assert given.rejected == []
    assert [asked.body for asked in server.asked] == [b"1", b"1"]


@pytest.mark.parametrize("key", [None, {"a": 1}, True, "", ".", "..", "\ud800"])
def test_keys_that_are_no_part_of_an_address_are_rejected(server: WebServer, key: Any) -> None:
    task, given = sink(server, "/orders/${key}")
    task.put([record(0, "x", key=key)])
    assert [offset for offset, _ in given.rejected] == [0]
    assert server.asked == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"http.url": "localhost:80/orders"}, "no address such as"),
        ({"http.url": "ftp://h/"}, "no address such as"),
        ({"http.url": "http://h:99999/"}, "no address such as"),
        ({"http.url": "http://me:hush@h/"}, "http.user and http.password are for that"),
        ({"http.url": "http://${topic}/"}, "in its host"),
        ({"http.url": "http://h/${value}"}, r"has \$\{value\}: \$\{topic\} and \$\{key\} may stand in it"),
        ({"http.url": "http://h/a b"}, "spaces or letters beyond ASCII"),
        ({"http.url": "http://h/#a"}, "which no server is told"),
        ({"http.headers": "nothing"}, "part 1 is no header"),
        ({"http.headers": "A: 1|B: 2\nC: 3"}, "part 2 is no header"),
        ({"http.secret.headers": "A hush"}, "part 1 is no header"),
        ({"http.headers": "Host: other"}, "Host is made of other settings"),
        ({"http.content.type": "text/plain\r\nX: 1"}, "no value of a header"),
        ({"http.authorization": "hush", "http.user": "me"}, "one of them is needed"),
        ({"http.password": "hush"}, "no http.user"),
        ({"http.authorization": "a\nhush"}, "no value of a header"),
        ({"http.null.values": "delete", "batching.enabled": "true"}, "needs batching.enabled=false"),
    ],
)
def test_settings_that_cannot_work_are_refused(config: dict[str, str], reason: str) -> None:
    given = {"name": "out", "http.url": "http://h/"} | config
    with pytest.raises(ConfigError, match=reason) as found:
        HttpSinkConnector(given, HttpSinkConnector.CONFIG.parse(given)).task_configs(1)
    assert "hush" not in str(found.value)


def test_the_plan_says_which_requests_there_would_be(server: WebServer) -> None:
    config = {"http.url": server.url + "/orders/${key}?token=hush"}
    plan = HttpSinkConnector(config, HttpSinkConnector.CONFIG.parse(config)).plan
    assert plan([record(0, {"id": 1}, key="a"), record(1, None, key="b")]) == [
        "rejects offset 1: there is no value: http.null.values says what is done about these",
        f"POST {server.url}/orders/a with 8 bytes, 1 record",
    ]
    assert server.asked == []


def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    """The server's certificate counts if the authority is named, and no request goes to one whose does not."""
    context, certificate = server_context(tmp_path)
    with WebServer(context=context) as server:
        task, _ = sink(server, http__ssl__ca__location=str(certificate))
        task.put([record(0, "x")])
        task.stop()
        assert [asked.body for asked in server.asked] == [b"x"]
        stranger, _ = sink(server)
        with pytest.raises(ConnectError, match=r"certificate of .* is not accepted"):
            stranger.put([record(1, "y")])
        stranger.stop()
        assert len(server.asked) == 1
    with pytest.raises(ConnectError, match=r"A file of http\.ssl"):
        sink(server, http__ssl__ca__location=str(tmp_path / "none.pem"))
