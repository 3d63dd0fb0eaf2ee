"""What tests of connectors share: tasks without a worker, and a PostgreSQL server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.support.mariadb import MariaDb, is_installed
from tests.support.postgres import Postgres, programs

from ottla import TopicPartition
from ottla.connect import SinkContext, SinkRecord, SinkTask, SourceContext, SourceTask
from ottla.connect.connectors import Connector


class Given:
    """What the worker of a sink task would be told."""

    def __init__(self) -> None:
        self.rejected: list[tuple[int, str]] = []
        #: Of these, the offsets whose dead letters are acknowledged.
        self.delivered: list[int] = []
        self.sought: dict[TopicPartition, int] = {}
        self.ids: dict[str, str] = {}

    def context(self) -> SinkContext:
        return SinkContext(
            lambda record, error: self.rejected.append((record.offset, str(error))),
            self.sought.__setitem__,
            lambda topic: self.ids.get(topic, f"id-of-{topic}"),
            lambda: self.delivered.extend(offset for offset, _ in self.rejected[len(self.delivered) :]),
        )


def sink_task(kind: type[Connector], config: Mapping[str, str], *partitions: TopicPartition) -> tuple[Any, Given]:
    """Return a task that has been started and was given partitions, and what it says to its worker."""
    made = kind(config, kind.CONFIG.parse(config))
    (own, *_) = made.task_configs(1)
    task = kind.Task(own, kind.CONFIG.parse(own))
    assert isinstance(task, SinkTask)
    given = Given()
    task.context = given.context()
    task.start()
    task.open(list(partitions))
    return task, given


def source_task(kind: type[Connector], config: Mapping[str, str], kept: dict[str, dict[str, Any]]) -> Any:
    """Return a task that has been started.

    Args:
        kept: offsets, by the table.
    """
    made = kind(config, kind.CONFIG.parse(config))
    (own,) = made.task_configs(1)
    task = kind.Task(own, kind.CONFIG.parse(own))
    assert isinstance(task, SourceTask)
    stopping = threading.Event()
    stopping.set()  # waits end at once
    task.context = SourceContext(lambda partition: kept.get(partition["table"]), stopping)
    task.start()
    return task


def record(offset: int, value: Any, key: Any = None, **more: Any) -> SinkRecord:
    return SinkRecord(topic=more.pop("topic", "orders"), partition=0, offset=offset, key=key, value=value, **more)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what asks a server to `make test-servers`: the same tests ask SQLite by default."""
    for item in items:
        asks = {"postgres", "mariadb"} & set(getattr(item, "fixturenames", ())) or re.search(
            "postgresql|mariadb", item.name
        )
        if asks and "/connect/library/" in str(item.path):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if programs() is None:
        pytest.skip("PostgreSQL's programs are not installed (Debian: postgresql)")
    server = Postgres(max_prepared_transactions="4", wal_level="logical", fsync="off")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    if not is_installed():
        pytest.skip("MariaDB's programs are not installed (Debian: mariadb-server)")
    server = MariaDb()
    try:
        yield server
    finally:
        server.close()
