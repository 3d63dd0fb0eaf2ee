"""What each record of a loop costs: compiled and plain hand out the same, and compiled records look like plain ones."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.extensions import compiled_kernel

from ottla.client import consumed
from ottla.client._core import _handing_plain as plain
from ottla.client._core import handing
from ottla.client._core.partitions import PartitionState
from ottla.client.columns import Columns, Pool
from ottla.client.consumed import PlainRecord, Record, Source, plain_records
from ottla.client.errors import DeserializationError
from ottla.types import TopicPartition

SOURCE = Path(handing.__file__).with_name("_handing_cy.py")
ATTRIBUTES = (
    "topic",
    "partition",
    "topic_partition",
    "offset",
    "timestamp_ms",
    "timestamp",
    "key_bytes",
    "value_bytes",
    "key",
    "value",
    "headers",
    "leader_epoch",
    "_row",
)

items = st.none() | st.binary(max_size=30)
names = st.text(st.characters(codec="utf-8"), max_size=8)
headers = st.lists(st.tuples(names, items), max_size=3).map(tuple)
rows = st.lists(st.tuples(st.integers(-1, 2**41), items, items, headers), min_size=1, max_size=20)


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled module."""
    return compiled_kernel(SOURCE, tmp_path_factory)


def columns_of(source: Source[Any, Any], found: list[Any]) -> Columns[Any, Any]:
    columns: Columns[Any, Any] = Columns(Pool())
    columns.begin(source)
    columns.add_rows([(7 + index, *row) for index, row in enumerate(found)])
    return columns


@settings(deadline=None)
@given(rows, st.booleans(), st.data())
def test_records_are_the_same_compiled_and_plain(found: list[Any], deserialize: bool, data: st.DataObject) -> None:
    function = (lambda topic, item: (topic, item)) if deserialize else None
    source: Source[Any, Any] = Source("t", 3, 5, function, function)
    columns = columns_of(source, found)
    start = data.draw(st.integers(0, len(found)))
    stop = data.draw(st.integers(start, len(found)))
    made = consumed.make_records(source, columns.slab.buffers, columns.used, start, stop)
    expected = plain_records(source, columns.slab.buffers, columns.used, start, stop)
    assert [type(record) for record in made] == [Record] * len(expected)
    assert [type(record) for record in expected] == [PlainRecord] * len(expected)
    for one, other in zip(made, expected, strict=True):
        for name in ATTRIBUTES:
            assert getattr(one, name) == getattr(other, name), name
        assert one._source is other._source
        assert repr(one) == repr(other)
        again = Record(source, one._row)
        assert again._row == one._row
    if made:
        assert made[0]._row == (7 + start, *found[start])


@pytest.mark.parametrize("span", [(-1, 1), (0, 3), (2, 3)])
def test_rows_that_are_not_there_are_refused(span: tuple[int, int]) -> None:
    source: Source[Any, Any] = Source("t", 0, -1, None, None)
    columns = columns_of(source, [(1, None, b"x", ()), (2, b"k", None, ())])
    for function in (consumed.make_records, plain_records):
        with pytest.raises(IndexError):
            function(source, columns.slab.buffers, columns.used, *span)


def test_a_record_that_cannot_be_read_says_so_each_time() -> None:
    def fail(topic: str, data: bytes) -> object:
        raise ValueError("no")

    source: Source[Any, Any] = Source("t", 0, -1, fail, fail)
    record: Record[Any, Any] = Record(source, (4, 0, b"k", b"v", ()))
    for _ in range(2):
        with pytest.raises(DeserializationError, match="The value of the record at t-0, offset 4") as caught:
            record.value  # noqa: B018
        assert caught.value.record is record
    with pytest.raises(AttributeError):
        record.offset = 1  # type: ignore[misc]


def test_records_can_be_subclassed_and_subscripted() -> None:
    class Mine(Record[Any, Any]):
        __slots__ = ("extra",)
        extra: int

    made = Mine(Source("t", 0, -1, None, None), (4, 0, None, b"v", ()))
    made.extra = 1
    assert isinstance(made, Record)
    assert (made.extra, made.value) == (1, b"v")


steps = st.sampled_from(
    ["take", "take", "take", "pause", "resume", "seek", "attention", "calm", "mark", "unmark", "next"]
)


@settings(deadline=None)
@given(st.lists(steps, max_size=30), st.lists(st.integers(0, 3), max_size=3))
def test_compiled_and_plain_hand_out_the_same(extension: ModuleType, wanted: list[str], sizes: list[int]) -> None:
    seen = []
    for module in (extension, plain):
        waiting: deque[Any] = deque()
        front: Any = module.Front(waiting)
        front.handed = handed = module.Handed()
        states = []
        for number, size in enumerate(sizes):
            state = module.Position()
            states.append(state)
            reading = module.Reading(state, 0)
            source = Source("t", number, -1, None, None)
            reading.records = [PlainRecord(source, (10 + index, 0, None, b"", ())) for index in range(size)]
            waiting.append(reading)
        told: list[Any] = []
        for step in wanted:
            if step == "take":
                record = front.take()
                told.append(None if record is None else (record.partition, record.offset))
                assert record is None or handed.current is record
            elif step in ("attention", "calm"):
                front.attention = step == "attention"
            elif step in ("mark", "unmark"):
                handed.marks = {} if step == "mark" else None
            elif waiting and step == "next":
                waiting.popleft()
            elif waiting and step == "seek":
                waiting[0].state.generation += 1
            elif waiting:
                waiting[0].state.paused = step == "pause"
            told.append([(state.position, state.paused) for state in states])
            told.append([reading.index for reading in waiting])
        seen.append(told)
    assert seen[0] == seen[1]


def test_a_front_without_what_was_handed_out_has_nothing(extension: ModuleType) -> None:
    for module in (extension, plain):
        assert module.Front(deque()).take() is None


def test_the_partition_of_a_consumer_is_a_position() -> None:
    state = PartitionState(TopicPartition("t", 0), None)
    assert isinstance(state, handing.Position)
    assert (state.position, state.generation, state.paused) == (None, 0, False)
