"""Connectors by decorators, and which names a configuration may use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ottla import connect
from ottla.connect.decorators import declared
from ottla.connect.runtime.finding import connector_class


@pytest.fixture(autouse=True)
def _nothing_declared() -> Iterator[None]:
    before = dict(declared)
    yield
    declared.clear()
    declared.update(before)


def started(name: str, kept: dict[str, Any] | None) -> connect.SourceTask:
    kind = declared[name]
    task = kind.Task({}, kind.CONFIG.parse({}))
    assert isinstance(task, connect.SourceTask)
    stopping = threading.Event()
    stopping.set()
    task.context = connect.SourceContext(lambda partition: kept, stopping)
    task.start()
    return task


def test_a_source_goes_on_after_its_last_offset() -> None:
    @connect.source("pairs", topic="t")
    def pairs(since: tuple[str, int] | None) -> Iterator[connect.Row]:
        day, number = since or ("2021", 0)
        yield connect.Row(value="x", offset=(day, number + 1))

    records = started("pairs", {"offset.0": "2021", "offset.1": 7}).poll()
    assert records is not None
    assert [record.source_offset for record in records] == [{"offset.0": "2021", "offset.1": 8}]


def test_offset_goes_backwards() -> None:
    """The error names both offsets; an equal one is wrong, too."""

    @connect.source("back", topic="t")
    def back(since: int | None) -> Iterator[connect.Row]:
        yield connect.Row(value="x", offset=since or 0)

    with pytest.raises(connect.ConnectError, match="offset 5 does not come after 5"):
        started("back", {"offset": 5}).poll()


def test_rows_before_a_retriable_error_are_sent() -> None:
    """The next call goes on after them; without any the worker is asked to wait."""

    @connect.source("flaky", topic="t")
    def flaky(since: int | None) -> Iterator[connect.Row]:
        if since is None:
            yield connect.Row(value="x", offset=1)
            yield connect.Row(value="y", offset=2)
        raise connect.RetriableError(f"asked after {since}")

    task = started("flaky", None)
    records = task.poll()
    assert records is not None
    found = [(record.value, record.source_offset) for record in records if isinstance(record, connect.SourceRecord)]
    assert found == [("x", {"offset": 1}), ("y", {"offset": 2})]
    with pytest.raises(connect.RetriableError, match="asked after 2"):
        task.poll()


def test_offset_with_datetime() -> None:
    """It would come back from JSON as something else."""

    @connect.source("times", topic="t")
    def times(since: Any) -> Iterator[connect.Row]:
        yield connect.Row(value="x", offset=datetime.now(UTC))  # type: ignore[arg-type]

    with pytest.raises(connect.ConnectError, match="isoformat"):
        started("times", None).poll()


def test_two_connectors_of_one_name_are_refused() -> None:
    connect.sink("twice", topics=["t"])(print)
    with pytest.raises(connect.ConfigError, match="Two connectors are named 'twice'"):
        connect.sink("twice", topics=["t"])(print)


def test_rest_cannot_name_arbitrary_callables() -> None:
    """A configuration imports nothing that the worker's own file does not list."""
    for name in ("os:system", "subprocess:Popen", "tests.connect.test_declared:started"):
        with pytest.raises(connect.ConfigError, match=r"none of the worker's plugin\.modules"):
            connector_class(name, [])
    with pytest.raises(connect.ConfigError, match="is no connector"):
        connector_class("os:system", ["os"])


def test_what_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(connect.ConfigError, match="Failed to find any class that implements Connector"):
        connector_class("", [])
    with pytest.raises(connect.ConfigError, match="DatagenSource makes orders"):
        connector_class("io.confluent.kafka.connect.datagen.DatagenConnector", [])
    assert (
        connector_class("org.apache.kafka.connect.file.FileStreamSourceConnector", []).__name__
        == "FileStreamSourceConnector"
    )
