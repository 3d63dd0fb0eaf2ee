"""State over HTTP: addresses, answers, and what is refused."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.streams.queries.world import Instance

from ottla.streams.errors import StoreMovingError
from ottla.streams.queries.answers import Question
from ottla.streams.queries.server import StateServer
from ottla.streams.queries.wire import forwarder, pack_question, unpack_question
from ottla.streams.topology import TaskId


@pytest.fixture
def instance() -> Iterator[tuple[Instance, StateServer]]:
    found = Instance()
    for partition in range(2):
        found.open("users", partition)
        found.open("by-minute", partition)
    found.put_user("anna/ü", b'{"age":30}')
    found.put_window("nl", 60_000, 5, 60_000)
    server = StateServer("127.0.0.1", 0, "app", lambda: {"process": "p-0"})
    server.start(found.desk)
    yield found, server
    server.close()


def get(server: StateServer, path: str, host: str | None = None) -> tuple[int, dict[str, str], Any]:
    where, _, port = server.endpoint.rpartition(":")
    connection = http.client.HTTPConnection(where, int(port), timeout=30)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    headers = dict(response.getheaders())
    return response.status, headers, json.loads(body) if "json" in headers["Content-Type"] else body


def test_a_key(instance: tuple[Instance, StateServer]) -> None:
    status, _, body = get(instance[1], "/stores/users/anna%2F%C3%BC")
    assert status == 200
    partition = body["task"].partition("_")[2]
    assert body == {
        "store": "users",
        "key": "anna/ü",
        "value": {"age": 30},
        "timestamp": 1234,
        "task": body["task"],
        "positions": {f"users-{partition}": 7},
        "lag": {f"users-{partition}": 2},
        "time": "2023-11-14T22:13:20.000Z",
    }


def test_a_key_that_is_not_there_has_positions_too(instance: tuple[Instance, StateServer]) -> None:
    status, _, body = get(instance[1], "/stores/users/bob")
    assert (status, body["error"]) == (404, "there is no such key")
    assert body["positions"]


def test_windows_and_ranges(instance: tuple[Instance, StateServer]) -> None:
    _, _, body = get(instance[1], "/stores/by-minute/nl?since=0&until=60000")
    assert body["windows"] == [{"start": 60_000, "end": 120_000, "value": 5, "timestamp": 60_001}]
    _, _, body = get(instance[1], "/stores/users?since=a&limit=5")
    assert body["entries"] == [{"key": "anna/ü", "value": {"age": 30}, "timestamp": 1234}]
    assert [each["task"] for each in body["tasks"]] == sorted(each["task"] for each in body["tasks"])
    assert len(body["tasks"]) == 2


def test_moving_says_when_to_come_again(instance: tuple[Instance, StateServer]) -> None:
    instance[0].confirmed_ms = None
    status, headers, body = get(instance[1], "/stores/users/anna")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "moving" in body["error"]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/stores/nobody/anna", 404, "there are: by-minute, users"),
        ("/stores/by-minute", 400, "ask for the windows of one key"),
        ("/stores/users/anna?since=1", 400, "has no windows"),
        ("/stores/users?limit=many", 400, "is not a whole number"),
        ("/stores/users?limit=0", 400, "is not between"),
        ("/stores/users?order=down", 400, "order: there are since, until, as_of, limit and partition"),
        ("/forwarded/app/0_0?question=%7B", 400, "Expecting"),
        ("/forwarded/app/x?question=%7B%22store%22%3A%22users%22%7D", 400, "invalid literal"),
        ("/forwarded/other/0_0?question=%7B%22store%22%3A%22users%22%7D", 404, "there are /"),
        ("/forwarded/app/0_0?question=%7B%22store%22%3A%22users%22%2C%22limit%22%3A%22x%22%7D", 400, "limit: not what"),
        ("/stores/users/%ff", 400, "not in UTF-8"),
        ("/nothing", 404, "there are /"),
    ],
)
def test_what_cannot_be_asked_says_so(
    instance: tuple[Instance, StateServer], path: str, status: int, text: str
) -> None:
    found, _, body = get(instance[1], path)
    assert found == status
    assert text in body["error"]


def test_a_value_that_cannot_be_read_is_an_answer(instance: tuple[Instance, StateServer]) -> None:
    instance[0].put_user("eve", b"no JSON")
    status, _, body = get(instance[1], "/stores/users/eve")
    assert status == 500
    assert "Expecting value" in body["error"]


def test_a_page_of_another_site_cannot_ask(instance: tuple[Instance, StateServer]) -> None:
    assert get(instance[1], "/stores/users/anna", host="evil.example:80")[0] == 403
    assert get(instance[1], "/state", host="localhost:80")[0] == 200


def test_the_page_names_tasks_and_stores(instance: tuple[Instance, StateServer]) -> None:
    status, _, body = get(instance[1], "/")
    assert status == 200
    assert "by-minute" in body
    assert "users-1" in body
    assert "1970-01-01T00:16:39.000Z" in body  # stream time
    state = get(instance[1], "/state")[2]
    assert (state["application"], state["process"], state["answers"]) == ("app", "p-0", True)


def test_one_connection_too_many_is_asked_to_come_again(
    instance: tuple[Instance, StateServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ottla.web.CONNECTIONS_MAX", 2)
    server = StateServer("127.0.0.1", 0, "app", dict)
    assert instance[1].desk is not None
    server.start(instance[1].desk)
    try:
        host, port = server.endpoint.rsplit(":", 1)
        held = [http.client.HTTPConnection(host, int(port), timeout=10) for _ in range(3)]
        answers = []
        for each in held:
            each.request("GET", "/state")
            response = each.getresponse()
            answers.append((response.status, response.headers["Retry-After"]))
            response.read()
        assert answers == [(200, None), (200, None), (503, "1")]
        for each in held:
            each.close()
        deadline = time.monotonic() + 10
        while get(server, "/state")[0] == 503:
            assert time.monotonic() < deadline, "no room although all are gone"
    finally:
        server.close()


def test_one_instance_asks_another(instance: tuple[Instance, StateServer]) -> None:
    owner, server = instance
    asked = Instance("other:1", forwarder("app"))
    asked.routes.owners = {f"{asked.sub('users').id}_{partition}": server.endpoint for partition in range(2)}
    (answer,) = asked.desk.ask(Question(store="users", key="anna/ü".encode()))
    assert [row.value for row in answer.rows] == [b'{"age":30}']
    owner.confirmed_ms = None
    with pytest.raises(StoreMovingError, match="answers 503"):
        asked.desk.ask(Question(store="users", key=b"anna"))
    server.close()
    with pytest.raises(StoreMovingError, match="does not answer"):
        asked.desk.ask(Question(store="users", key=b"anna"))


def test_an_instance_of_another_application_is_not_believed(instance: tuple[Instance, StateServer]) -> None:
    forward = forwarder("other")
    with pytest.raises(StoreMovingError, match="answers 404"):
        forward(instance[1].endpoint, TaskId(0, 0), Question(store="users", key=b"anna"))


def test_questions_survive_the_wire() -> None:
    question = Question(store="s", key=b"\x00\xff", window_since=-5, window_until=9, limit=3, partition=1)
    assert unpack_question(pack_question(question)) == question
