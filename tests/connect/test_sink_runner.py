"""SinkRunner and the group, without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from ottla import TopicPartition
from ottla.connect import RetriableError, SinkRecord, SinkTask
from ottla.connect.runtime import sink_runner
from ottla.connect.runtime.metrics import Counts
from ottla.connect.runtime.sink_runner import SinkRunner
from ottla.errors import NetworkError, TopicAuthorizationFailedError

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class Shy(SinkTask):
    """Takes nothing at first."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self.calls = 0

    def put(self, records: Sequence[SinkRecord]) -> None:
        self.calls += 1
        if self.calls == 1:
            raise RetriableError("not yet")
        self.taken.append([record.offset for record in records])


def test_a_batch_that_is_tried_again_is_not_put_to_a_partition_that_came_back_meanwhile() -> None:
    """1. A batch of two partitions is to come again.  2. Meanwhile one of them goes and comes: its task has begun anew, at
    an earlier offset.  3. Only the other one's records are put again: the first one's come from there, and none is lost."""
    runner: Any = object.__new__(SinkRunner)
    task = Shy()

    def poll(**_: object) -> None:
        runner._lost([P0])
        runner._assigned([P0])
        runner._stopping.is_set = lambda: False

    runner._task = task
    runner._consumer = SimpleNamespace(assignment={P0, P1}, pause=lambda: None, resume=lambda: None, poll=poll)
    runner._stopping = SimpleNamespace(is_set=lambda: False, set=lambda: None)
    runner._going = SimpleNamespace(is_set=lambda: True)
    runner._put = ThreadPoolExecutor(1)
    runner.counts = Counts()
    runner._working, runner._rejected, runner._done, runner._changed = None, [], {}, set()
    batch = [
        (where, SinkRecord(topic=where.topic, partition=where.partition, offset=offset))
        for where, offset in ((P0, 7), (P1, 9))
    ]
    assert runner._put_all(batch)
    runner._put.shutdown()
    assert task.taken == [[9]]


def test_a_task_that_keeps_offsets_itself_waits_for_dead_letters() -> None:
    """What it rejects, and what was sent before, is acknowledged when `deliver_rejected` returns; nothing is sent twice."""
    runner: Any = object.__new__(SinkRunner)
    events: list[Any] = []

    class Keeper(SinkTask):
        def put(self, records: Sequence[SinkRecord]) -> None:
            runner._rejected.append((records[0].offset, "wrong"))
            runner._deliver_rejected()
            events.append("offsets")
            runner._rejected.append((records[1].offset, "late"))

    runner._task = Keeper({}, {})
    runner._dead_letters = SimpleNamespace(
        bury=lambda record, failure: events.append((record, failure)), flush=lambda: events.append("acknowledged")
    )
    runner._consumer = SimpleNamespace(assignment={P0})
    runner._put = ThreadPoolExecutor(1)
    runner.counts = Counts()
    runner._working, runner._rejected, runner._done, runner._changed = None, [], {}, set()
    records = [SinkRecord(topic="t", partition=0, offset=offset) for offset in (7, 8)]
    assert runner._put_all([(P0, record) for record in records])
    runner._put.shutdown()
    assert events == [(7, "wrong"), "acknowledged", "offsets", (8, "late")]


def test_a_broker_that_goes_while_a_task_begins_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What will not be otherwise next time is raised at once."""
    answers: list[Any] = [
        NetworkError("nothing listens"),
        NetworkError("nothing listens"),
        SimpleNamespace(topic_id="id"),
    ]
    waited: list[float] = []

    class Cluster:
        def __init__(self, servers: str, config: Any) -> None: ...

        def __enter__(self) -> Cluster:
            return self

        def __exit__(self, *_: object) -> None: ...

        def describe_topics(self, topics: Sequence[str]) -> dict[str, Any]:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return {topics[0]: answer}

    monkeypatch.setattr(sink_runner, "Admin", Cluster)
    runner: Any = object.__new__(SinkRunner)
    runner._servers, runner._admin_config = "", {}
    runner._stopping = SimpleNamespace(wait=waited.append)
    assert runner._topic_id("t") == "id"
    assert len(waited) == 2
    answers = [TopicAuthorizationFailedError("no right")]
    with pytest.raises(TopicAuthorizationFailedError):
        runner._topic_id("t")
