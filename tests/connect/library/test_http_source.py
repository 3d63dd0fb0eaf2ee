"""HttpSourceConnector against a server that answers as the tests say, without Kafka."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.support.web import Asked, Say, WebServer

from ottla.connect import ConfigError, ConnectError, SourceContext, SourceRecord
from ottla.connect.library.http import HttpSourceConnector
from ottla.connect.library.http.pages import comes_after, filled
from ottla.connect.runtime.connector_offsets import source_offsets
from ottla.connect.runtime.offsets import KeptOffsets

TASKS: list[Any] = []


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        yield made
        while TASKS:
            TASKS.pop().stop()


def told(value: Any, **headers: str) -> Say:
    return Say(200, json.dumps(value).encode(), headers)


def shop(orders: Sequence[dict[str, Any]], size: int = 3) -> Any:
    """Return a server that tells the orders behind ?after=, a few at a time."""

    def answer(asked: Asked) -> Say:
        after = int(parse_qs(urlsplit(asked.target).query)["after"][0])
        return told({"data": {"orders": [order for order in orders if order["id"] > after][:size]}})

    return answer


class Reading:
    """A task at work; `again` stands for a worker that was stopped and started."""

    def __init__(self, server: WebServer, path: str, kept: Any = None, **more: str) -> None:
        self._server, self._path, self._more = server, path, more
        self.kept: KeptOffsets = KeptOffsets({}) if kept is None else kept
        config = {"name": "web", "http.url": server.url + path, "topic": "orders", "http.offset.fields": "id"}
        config |= {"poll.interval.ms": "1", "retry.backoff.ms": "1"}
        config |= {name.replace("__", "."): value for name, value in more.items()}
        made = HttpSourceConnector(config, HttpSourceConnector.CONFIG.parse(config))
        (own,) = made.task_configs(3)
        self.task = HttpSourceConnector.Task(own, HttpSourceConnector.CONFIG.parse(own))
        self.task.context = SourceContext(lambda partition: self.kept.find("web", partition), threading.Event())
        self.reason: str | None = None
        self.task.context.on_waiting = lambda reason: setattr(self, "reason", reason)
        TASKS.append(self.task)
        self.task.start()

    def ask(self) -> list[SourceRecord]:
        """Return what one more request brings."""
        count = len(self._server.asked)
        while True:
            found = list(self.task.poll() or ())
            for record in found:
                self.kept.set("web", record.source_partition, record.source_offset)
            if len(self._server.asked) > count:
                return found

    def all(self) -> list[Any]:
        """Return the values that come until an answer brings none."""
        found: list[Any] = []
        while more := self.ask():
            found += [record.value for record in more]
        return found

    def again(self) -> Reading:
        self.task.stop()
        return Reading(self._server, self._path, self.kept, **self._more)


PAGED: dict[str, str] = {"http__records__path": "/data/orders", "http__offset__initial": "-1"}


def test_pages_are_asked_for_by_offset_until_one_is_empty(server: WebServer) -> None:
    orders = [{"id": number, "item": "pen"} for number in range(7)]
    server.answer = shop(orders)
    reading = Reading(server, "/?after=${offset}", **PAGED, key__field="id")
    first = reading.ask()
    assert [record.key for record in first] == [0, 1, 2]
    assert first[0].source_partition == {"url": f"{server.url}/"}
    assert [record.source_offset for record in first] == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert reading.all() == orders[3:]
    assert [asked.target for asked in server.asked] == [f"/?after={after}" for after in (-1, 2, 5, 6)]


def test_reading_goes_on_behind_any_record(server: WebServer) -> None:
    orders = [{"id": number} for number in range(5)]
    server.answer = shop(orders, 10)
    for record in Reading(server, "/?after=${offset}", **PAGED).ask():
        kept = KeptOffsets({})
        kept.set("web", record.source_partition, record.source_offset)
        assert Reading(server, "/?after=${offset}", kept, **PAGED).all() == orders[record.value["id"] + 1 :]


def test_records_that_are_deleted_and_added_meanwhile_move_no_others(server: WebServer) -> None:
    """Pages by number would leave out the fourth order, which is on a page that was read."""
    orders = [{"id": number} for number in range(6)]
    server.answer = shop(orders)
    reading = Reading(server, "/?after=${offset}", **PAGED)
    assert [record.value["id"] for record in reading.ask()] == [0, 1, 2]
    del orders[:2]
    assert [value["id"] for value in reading.all()] == [3, 4, 5]
    orders.append({"id": 6})
    assert [value["id"] for value in reading.again().all()] == [6]


def test_an_offset_of_several_values_survives_a_restart_unchanged(server: WebServer) -> None:
    """`offset_with_datetime`: text stays text and numbers stay numbers; they stand in the address."""
    offsets = [("2024-02-29T12:00:00.5+01:00", 2**53 + 1), ("2024-02-29T11:00:01Z", -1), ("2024-02-29T11:00:01Z", 1.5)]
    answers = [[{"meta": {"at": at}, "id": number}] for at, number in offsets]
    server.answer = lambda asked: told(answers.pop(0) if answers else [])
    reading = Reading(
        server,
        "/${offset.2}/x?at=${offset.1}",
        http__offset__fields="/meta/at,id",
        http__offset__initial="1970-01-01T00:00Z,0",
    )
    for at, number in offsets:
        (record,) = reading.ask()
        assert record.source_offset == {"/meta/at": at, "id": number}
        reading = reading.again()
    assert reading.ask() == []
    assert [asked.target for asked in server.asked] == [
        "/0/x?at=1970-01-01T00%3A00Z",
        "/9007199254740993/x?at=2024-02-29T12%3A00%3A00.5%2B01%3A00",
        "/-1/x?at=2024-02-29T11%3A00%3A01Z",
        "/1.5/x?at=2024-02-29T11%3A00%3A01Z",
    ]
    (kept,) = source_offsets("web", reading.kept)
    assert kept["offset"] == {"/meta/at": "2024-02-29T11:00:01Z", "id": 1.5}


@pytest.mark.parametrize(
    ("pages", "later", "earlier"),
    [
        ([[3, 2]], "2", "3"),
        ([[3, 3]], "3", "3"),
        ([[3], [3]], "3", "3"),
        ([[3], [1]], "1", "3"),
        ([["b"], ["a"]], '"a"', '"b"'),
        ([["9"], ["10"]], '"10"', '"9"'),
    ],
)
def test_offset_goes_backwards(server: WebServer, pages: list[list[Any]], later: str, earlier: str) -> None:
    """An offset that does not grow is an error that names both, in one answer and in two."""
    answers = list(pages)
    server.answer = lambda asked: told([{"id": number} for number in answers.pop(0)])
    reading = Reading(server, "/?after=${offset}", http__offset__initial="")
    if len(pages) > 1:
        reading.ask()
    with pytest.raises(ConnectError, match=f"the offset {later} comes after {earlier}, and is not greater"):
        reading.ask()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"no": 1}, "there is no id"),
        ([], "there is no id"),
        (7, "there is no id"),
        ({"id": None}, "None is no offset"),
        ({"id": True}, "True is no offset"),
        ({"id": {"a": 1}}, "is no offset"),
    ],
)
def test_records_without_an_offset_fail_the_task_or_are_passed_over(
    server: WebServer, record: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda asked: told([{"id": 1}, record, {"id": 2}])
    with pytest.raises(ConnectError, match=reason):
        Reading(server, "/").ask()
    assert [made.value["id"] for made in Reading(server, "/", errors__tolerance="all").ask()] == [1, 2]
    assert reason in caplog.text


def test_offsets_of_different_kinds(server: WebServer) -> None:
    server.answer = lambda asked: told([{"id": 1}, {"id": "2"}])
    with pytest.raises(ConnectError, match='"2" is a text, and 1 before it is a number'):
        Reading(server, "/").ask()


def test_a_list_that_is_always_told_whole(server: WebServer) -> None:
    """What was read before is left out; there are no further pages."""
    orders = [{"id": 1}, {"id": 2}]
    server.answer = lambda asked: told(orders)
    reading = Reading(server, "/orders")
    assert [record.value["id"] for record in reading.ask()] == [1, 2]
    orders.append({"id": 3})
    assert [record.value["id"] for record in reading.again().ask()] == [3]
    assert {asked.target for asked in server.asked} == {"/orders"}


def test_a_server_that_tells_the_last_record_again(server: WebServer) -> None:
    orders = [{"id": number} for number in range(5)]

    def answer(asked: Asked) -> Say:
        since = int(parse_qs(urlsplit(asked.target).query)["since"][0])
        return told([order for order in orders if order["id"] >= since][:3])

    server.answer = answer
    reading = Reading(server, "/?since=${offset}", http__offset__initial="0", http__offset__inclusive="true")
    assert [value["id"] for value in reading.all()] == [0, 1, 2, 3, 4]
    strict = Reading(server, "/?since=${offset}", http__offset__initial="0")
    with pytest.raises(ConnectError, match="the offset 2 comes after 2"):
        strict.all()


def test_an_answer_that_has_not_changed_is_not_sent_again(server: WebServer) -> None:
    """The ETag is sent for the address that it came from, and not after a restart."""
    orders: list[dict[str, int]] = [{"id": 1}]

    def answer(asked: Asked) -> Say:
        tag = f'"{len(orders)}"'
        return Say(304) if asked.headers.get("If-None-Match") == tag else told(orders, ETag=tag)

    server.answer = answer
    reading = Reading(server, "/")
    assert len(reading.ask()) == 1
    assert reading.ask() == []
    orders.append({"id": 2})
    assert [record.value["id"] for record in reading.ask()] == [2]
    assert [asked.headers.get("If-None-Match") for asked in server.asked] == [None, '"1"', '"1"']
    reading.again().ask()
    assert server.asked[-1].headers.get("If-None-Match") is None


@pytest.mark.parametrize("say", [Say(503), Say(429, b"slowly"), Say(200, b"[", cut=True)])
def test_a_server_that_cannot_now_is_asked_again(server: WebServer, say: Say) -> None:
    """The status says why nothing comes."""
    answers = [say, told([{"id": 1}])]
    server.answer = lambda asked: answers.pop(0)
    reading = Reading(server, "/")
    assert reading.ask() == []
    assert reading.reason is not None
    assert server.url in reading.reason
    assert len(reading.ask()) == 1
    assert reading.reason is None


def test_after_too_many_tries_the_task_fails(server: WebServer) -> None:
    server.answer = lambda asked: Say(500, b"out of order")
    reading = Reading(server, "/", max__retries="1")
    assert reading.ask() == []
    with pytest.raises(ConnectError, match=r"500: out of order; it has failed 2 times in a row"):
        reading.ask()


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (Say(404, b"no such shop"), "answers GET with 404: no such shop"),
        (Say(401), "answers GET with 401"),
        (Say(200, b"<html>"), "this is no JSON"),
        (told({"other": []}), "has no records: there is no /data"),
        (told({"data": []}), "has no records: there is no /data/orders"),
        (Say(200, b"[" + b" " * 100 + b"]"), "more than 100 bytes"),
        (Say(302, headers={"Location": "http://other.example/"}), "which is another server"),
    ],
)
def test_answers_that_are_none_fail_the_task(server: WebServer, say: Say, reason: str) -> None:
    server.answer = lambda asked: say
    reading = Reading(server, "/", http__records__path="/data/orders", http__response__max__bytes="100")
    with pytest.raises(ConnectError, match=reason):
        reading.ask()


@pytest.mark.parametrize("say", [Say(204), told([]), told(None)])
def test_answers_without_records(server: WebServer, say: Say) -> None:
    server.answer = lambda asked: say
    assert Reading(server, "/").ask() == []


def test_one_record_may_stand_alone_and_paths_have_escapes(server: WebServer) -> None:
    server.answer = lambda asked: told({"a/b": [0, {"id": 1}]})
    reading = Reading(server, "/", http__records__path="/a~1b/1")
    assert [record.value for record in reading.ask()] == [{"id": 1}]


def test_redirects_on_the_server_are_followed(server: WebServer) -> None:
    server.answer = lambda asked: (
        Say(301, headers={"Location": "/new?x=1"}) if asked.target == "/old" else told([{"id": 1}])
    )
    assert len(Reading(server, "/old").ask()) == 1
    assert [asked.target for asked in server.asked] == ["/old", "/new?x=1"]


def test_a_preview_asks_and_keeps_nothing(server: WebServer) -> None:
    server.answer = shop([{"id": number} for number in range(5)])
    reading = Reading(server, "/?after=${offset}", **PAGED)
    assert [record.value["id"] for record in reading.task.preview(4)] == [0, 1, 2, 3]
    assert source_offsets("web", reading.kept) == []


@pytest.mark.parametrize(
    ("later", "earlier", "grown"),
    [
        ((2,), (1,), True),
        ((1.5,), (1,), True),
        ((1, 0), (0, 9), True),
        ((1, 0), (1, 0), False),
        (("2024-01-01T00:00:00.5Z",), ("2024-01-01T00:00:00Z",), True),
        (("2024-01-01T01:00:00+02:00",), ("2024-01-01T00:00:00Z",), False),
        (("2024-01-01T00:00:00.123456789Z",), ("2024-01-01T00:00:00.123456788Z",), True),
        (("b",), ("a",), True),
        (("10",), ("9",), False),
    ],
)
def test_how_offsets_are_compared(later: tuple[Any, ...], earlier: tuple[Any, ...], grown: bool) -> None:
    assert comes_after(later, earlier) is grown


def test_how_an_address_is_filled() -> None:
    assert filled("/${offset}/${offset.1}?b=${offset.2}", ["a", "b"], ["x y&z", 7]) == "/x%20y%26z/x%20y%26z?b=7"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"http.offset.initial": None}, "http.offset.initial is needed"),
        ({"http.offset.initial": "1,2"}, "has 2 values, and http.offset.fields 1"),
        ({"http.offset.fields": ""}, "Empty list"),
        ({"http.offset.fields": "a,a", "http.offset.initial": "1,2"}, "each once"),
        ({"http.url": "http://h/${offset.2}"}, "and http.offset.fields has 1 fields"),
        ({"http.url": "http://h/${page}"}, r"has \$\{page\}"),
        ({"http.records.path": "data.orders"}, "a path such as /data/orders"),
        ({"http.password": "hush"}, "no http.user"),
    ],
)
def test_settings_that_cannot_work_are_refused(config: dict[str, str | None], reason: str) -> None:
    given = {"http.url": "http://h/?a=${offset}", "topic": "t", "http.offset.fields": "id", "http.offset.initial": "0"}
    merged = {name: value for name, value in (given | config).items() if value is not None}
    with pytest.raises(ConfigError, match=reason) as found:
        HttpSourceConnector(merged, HttpSourceConnector.CONFIG.parse(merged)).task_configs(1)
    assert "hush" not in str(found.value)


def test_offsets_that_somebody_writes(server: WebServer) -> None:
    config = {"http.url": "http://h/?a=${offset}", "topic": "t", "http.offset.fields": "id", "http.offset.initial": "0"}
    made = HttpSourceConnector(config, HttpSourceConnector.CONFIG.parse(config))
    part = {"url": "http://h/"}
    assert made.alter_offsets([(part, {"id": 7}), (part, None)])
    wrong: list[tuple[dict[str, Any], dict[str, Any] | None, str]] = [
        ({"url": "http://other/"}, None, "The partition of this connector is"),
        (part, {"page": 1}, "An offset of this connector has id"),
        (part, {"id": None}, "is no offset"),
    ]
    for partition, offset, reason in wrong:
        with pytest.raises(ConnectError, match=reason):
            made.alter_offsets([(partition, offset)])


def test_an_offset_of_other_fields_fails_the_task(server: WebServer) -> None:
    kept = KeptOffsets({})
    kept.set("web", {"url": f"{server.url}/"}, {"at": 7})
    with pytest.raises(ConnectError, match="has no id: "):
        Reading(server, "/", kept)
