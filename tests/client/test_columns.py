"""Batches as columns: the same records as one by one, whatever the log holds; memory that is reused only once it is free."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.records.legacy_support import entries
from tests.protocol.records.strategies import record_lists

from ottla.client import arrow
from ottla.client._core.partitions import Chunk, PartitionState
from ottla.client.columns import NO_END, Columns, Pool
from ottla.client.consumed import Batch, Row, Source
from ottla.client.reading import ChunkReader
from ottla.errors import CorruptMessageError
from ottla.protocol.records import _columns_plain, column_kernels
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.types import CompressionType, IsolationLevel, TimestampType, TopicPartition

STATE = PartitionState(TopicPartition("t", 0), None)
SOURCE: Source[bytes | None, bytes | None] = Source("t", 0, -1, None, None)


@pytest.fixture(params=["compiled", "plain"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which kernels run: those of this installation, or the plain ones."""
    if request.param == "plain":
        for name in ("append_batches", "append_records", "make_rows"):
            monkeypatch.setattr(column_kernels, name, getattr(_columns_plain, name))
    return str(request.param)


def a_run(dice: random.Random, lists: Sequence[list[Record]]) -> tuple[bytes, list[tuple[int, int]], list[Record]]:
    """Make a log of records: (bytes, aborted transactions, what a reader of committed records sees)."""
    log = bytearray()
    aborted: list[tuple[int, int]] = []
    seen: list[Record] = []
    offset = 0
    for records in lists:
        shift = offset - records[0].offset
        moved = [record._replace(offset=record.offset + shift) for record in records]
        following = moved[-1].offset + 1
        kind = dice.randrange(7)
        codec = dice.choice(list(CompressionType))
        if kind == 0:
            magic = dice.randrange(2)
            moved = [record._replace(headers=(), timestamp=record.timestamp if magic else -1) for record in moved]
            old = dice.choice([CompressionType.NONE, CompressionType.GZIP, CompressionType.LZ4])
            log += entries(moved, old, magic=magic)
        elif kind in (1, 2):
            dies = kind == 1
            log += build_batch(
                moved, compression=codec, producer_id=7, producer_epoch=0, base_sequence=0, transactional=True
            )
            marker = ControlType.ABORT if dies else ControlType.COMMIT
            log += end_transaction_marker(
                marker, 1, timestamp_ms=1, producer_id=7, producer_epoch=0, base_offset=following
            )
            following += 1
            if dies:
                aborted.append((7, moved[0].offset))
                moved = []
        elif kind == 3:
            log += build_batch(moved, timestamp_type=TimestampType.LOG_APPEND_TIME, max_timestamp=12345)
            moved = [record._replace(timestamp=12345) for record in moved]
        else:
            log += build_batch(moved, compression=codec if kind == 4 else CompressionType.NONE, leader_epoch=kind)
        seen += moved
        offset = following
    return bytes(log), aborted, seen


def beginning(found: Columns[Any, Any]) -> Callable[[int], None]:
    return lambda epoch: found.begin(SOURCE)


def read_all(reader: ChunkReader, dice: random.Random, pool: Pool) -> Iterator[Row]:
    """Read a chunk, as rows and into columns by turns."""
    while not reader.at_end:
        if dice.random() < 0.3:
            yield from reader.next_rows() or []
            continue
        found: Columns[Any, Any] = Columns(pool)
        rows_max = dice.choice([1, 3, 1000])
        end = reader.next_offset + dice.randrange(1, 3000) if dice.random() < 0.3 else NO_END
        for _ in range(3):
            if len(found) < rows_max and reader.next_offset < end:
                reader.fill(found, beginning(found), end, rows_max)
        yield from (record._row for record in found.records(0, len(found)))


@settings(deadline=None)
@given(lists=st.lists(record_lists(max_size=6), min_size=1, max_size=8), seed=st.integers(0))
def test_columns_hold_what_rows_hold(lists: list[list[Record]], seed: int) -> None:
    dice = random.Random(seed)
    log, aborted, seen = a_run(dice, lists)
    first = dice.choice([0, seen[len(seen) // 2].offset if seen else 0])
    chunk = Chunk(STATE, 0, first, memoryview(log), aborted)
    rows = list(read_all(ChunkReader(chunk, IsolationLevel.READ_COMMITTED), dice, Pool()))
    assert rows == [tuple(record) for record in seen if record.offset >= first]


@pytest.mark.usefixtures("build")
def test_every_kind_of_batch_in_both_builds() -> None:
    for seed in range(30):
        dice = random.Random(seed)
        lists = [
            [
                Record(
                    offset, 5 + offset, b"k" * (offset % 3), None if offset % 4 else b"v", (("h", None),) * (offset % 2)
                )
            ]
            for offset in range(12)
        ]
        log, aborted, seen = a_run(dice, lists)
        chunk = Chunk(STATE, 0, 0, memoryview(log), aborted)
        rows = list(read_all(ChunkReader(chunk, IsolationLevel.READ_COMMITTED), dice, Pool()))
        assert rows == [tuple(record) for record in seen]


@pytest.mark.usefixtures("build")
def test_a_damaged_batch_ends_what_comes_before_it() -> None:
    good = build_batch([Record(0, 1, None, b"a"), Record(1, 1, None, b"b")])
    bad = build_batch([Record(2, 1, None, b"c")])
    bad[-2] ^= 1
    reader = ChunkReader(Chunk(STATE, 0, 0, memoryview(bytes(good + bad)), []), IsolationLevel.READ_UNCOMMITTED)
    found: Columns[Any, Any] = Columns(Pool())
    reader.fill(found, lambda epoch: found.begin(SOURCE), NO_END, 100)
    assert (found.offsets(0, len(found)), reader.next_offset) == ([0, 1], 2)
    with pytest.raises(CorruptMessageError, match="offset 2 is damaged: its CRC is wrong"):
        reader.fill(found, lambda epoch: found.begin(SOURCE), NO_END, 100)
    assert len(found) == 2


# -- Arrow --------------------------------------------------------------------------------------------------------------


def make_batch(records: Sequence[Record], pool: Pool | None = None, *, split: bool = False) -> Batch[Any, Any]:
    """A batch of these records; `split`: of two topics."""
    found: Columns[Any, Any] = Columns(pool or Pool())
    middle = len(records) // 2 if split else len(records)
    for source, part in ((SOURCE, records[:middle]), (Source("other", 3, -1, None, None), records[middle:])):
        if part:
            found.begin(source)
            found.add_rows(part)
    return Batch(found)


def expected(batch: Batch[Any, Any]) -> list[dict[str, Any]]:
    return [
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp_ms if record.timestamp_ms != -1 else None,
            "key": record.key_bytes,
            "value": record.value_bytes,
            "headers": [{"name": name, "value": value} for name, value in record.headers.multi_items()],
        }
        for record in batch
    ]


@settings(deadline=None)
@given(records=record_lists(max_size=20), split=st.booleans())
def test_arrow_and_polars_see_the_records(records: list[Record], split: bool) -> None:
    batch = make_batch(records, split=split)
    table = pyarrow.record_batch(batch)
    table.validate(full=True)
    assert table.schema == pyarrow.schema(batch)
    numbers = table.set_column(3, "timestamp", table.column("timestamp").cast("int64"))
    assert numbers.to_pylist() == expected(batch)
    assert pyarrow.table(batch).to_batches()[0].equals(table)
    frame = polars.DataFrame(batch)
    assert frame.columns == list(batch.columns)
    assert frame["value"].to_list() == [record.value_bytes for record in batch]
    assert frame["key"].to_list() == [record.key_bytes for record in batch]
    assert frame["headers"].to_list() == [row["headers"] for row in expected(batch)]
    assert frame["topic"].to_list() == [record.topic for record in batch]


def test_times_are_aware() -> None:
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    batch = make_batch([Record(0, int(moment.timestamp()) * 1000, None, b"x"), Record(1, -1, None, b"y")])
    assert polars.DataFrame(batch)["timestamp"].to_list() == [moment, None]


def test_memory_is_reused_only_once_arrow_has_released_it() -> None:
    pool = Pool()
    batch: Batch[Any, Any] | None = make_batch([Record(0, 1, None, b"first")], pool)
    assert batch is not None
    values = batch._columns.slab.buffers[7]
    held: Any = pyarrow.record_batch(batch)
    column: Any = held.column("value")
    del batch, held
    gc.collect()
    assert make_batch([Record(0, 1, None, b"other")], pool)._columns.slab.buffers[7] is not values
    assert column.to_pylist() == [b"first"]
    del column
    # pyarrow lets go of a column with the array it came from.
    gc.collect()
    assert any(free[7] is values for free in pool._free)


def test_a_capsule_that_is_not_taken_over_is_released() -> None:
    gc.collect()
    before = len(arrow._kept)
    batch = make_batch([Record(0, 1, None, b"x")])
    for capsules in (batch.__arrow_c_array__(), (batch.__arrow_c_stream__(),), (batch.__arrow_c_schema__(),)):
        assert "capsule" in repr(capsules[-1])
        del capsules
    schema = batch.__arrow_c_schema__()  # making one finds those that nothing refers to
    assert len(arrow._kept) - before <= 11, "only what the last one points to: the fields"
    del schema


def test_an_error_in_the_library_is_the_one_that_is_raised() -> None:
    if arrow.STATUS != "compiled":
        pytest.skip("without a compiler the error is another one; arrow.py says why")
    batch = make_batch([Record(0, 1, None, b"x")])
    for _ in range(20):
        with pytest.raises((ValueError, TypeError, pyarrow.ArrowInvalid, NotImplementedError)):
            pyarrow.table(batch, schema=pyarrow.schema([("a", pyarrow.int8())]))


def test_without_a_compiler_batches_go_into_arrow_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_release_schema", "_release_array", "_release_stream"):
        kind = {"schema": arrow.ArrowSchema, "array": arrow.ArrowArray, "stream": arrow.ArrowArrayStream}[
            name.rpartition("_")[2]
        ]
        monkeypatch.setattr(arrow, name, arrow._releasing(kind))
    gc.collect()
    before = len(arrow._kept)
    batch = make_batch([Record(0, 1, b"k", b"x", (("a", b"1"),))])
    table, streamed = pyarrow.record_batch(batch), pyarrow.table(batch)
    assert table.to_pylist() == streamed.to_pylist()
    child = table.column("value")
    del table, streamed
    gc.collect()
    assert child.to_pylist() == [b"x"]
    del child
    gc.collect()
    batch.__arrow_c_schema__()
    assert len(arrow._kept) - before <= 11


# -- a sequence of records ----------------------------------------------------------------------------------------------


def test_a_batch_is_a_sequence_of_records_made_when_asked_for() -> None:
    batch = make_batch([Record(number, 1, None, b"%d" % number) for number in range(1200)], split=True)
    assert len(batch) == 1200
    assert (batch[0].value, batch[-1].value, batch[5].topic, batch[-5].topic) == (b"0", b"1199", "t", "other")
    assert [record.offset for record in batch] == list(range(1200)) == [record.offset for record in batch.rows]
    assert [record.offset for record in batch[1190:]] == list(range(1190, 1200))
    assert [record.offset for record in batch[10:0:-3]] == [10, 7, 4, 1]
    assert next(record.offset for record in reversed(batch)) == 1199
    with pytest.raises(IndexError, match="the batch has 1200 records, none at 1200"):
        batch[1200]
    assert repr(batch) == "<Batch of 1200 records>"
