"""Which batch a record joins, when a batch is ready, and how much memory is used."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ottla.client._core.accumulator import Accumulator
from ottla.client._core.batch import Batch, Outcome, record_size
from ottla.client._core.settings import ProducerSettings
from ottla.protocol.records.batch import HEADER_SIZE, read_header
from ottla.protocol.records.reader import read_records
from ottla.types import CompressionType


def accumulator(**settings: object) -> Accumulator:
    made = Accumulator(ProducerSettings(**settings), random.Random(1))  # type: ignore[arg-type]
    made.set_partitions("t", 4, range(4))
    return made


def add(
    made: Accumulator, value: bytes, key: bytes | None = None, partition: int | None = None, now_ms: float = 0
) -> tuple[Batch, int] | None:
    return made.append(made.topics["t"], partition, key, value, (), 1_000, record_size(key, value, ()), lambda: now_ms)


def test_a_batch_is_ready_when_it_is_full_or_old_or_room_is_needed() -> None:
    made = accumulator(batch_size=100, linger_ms=5)
    first = add(made, b"x" * 20, partition=0, now_ms=10)
    assert first is not None
    queue = first[0].queue
    assert made.ready_ms(queue, at_once=False) == 15
    assert made.ready_ms(queue, at_once=True) == 0
    made.waiters.append(lambda: None)
    assert made.ready_ms(queue, at_once=False) == 0
    made.waiters.clear()
    while not first[0].closed:
        add(made, b"x" * 20, partition=0)
    assert made.ready_ms(queue, at_once=False) == 0
    assert len(queue.batches) == 2


def test_memory_is_bounded_and_given_back() -> None:
    made = accumulator(buffer_memory=1_000)
    batches = set()
    while (found := add(made, b"x" * 90, partition=0)) is not None:
        batches.add(found[0])
    assert 800 < made.used <= 1_000
    woken: list[str] = []
    made.waiters.append(lambda: woken.append("a"))
    for batch in batches:
        for callback in made.release(batch.size):
            callback()
    assert made.used == 0
    assert woken == ["a"]
    assert add(made, b"x" * 2_000, partition=0) is not None, "what fits nowhere is refused earlier, not here"


def test_records_without_a_key_fill_one_batch_after_the_other_and_use_all_partitions() -> None:
    made = accumulator(batch_size=1_000)
    places: list[int] = []
    for _ in range(4_000):
        found = add(made, b"x" * 86)
        assert found is not None
        places.append(found[0].partition)
    changes = sum(a != b for a, b in pairwise(places))
    assert 300 <= changes + 100 <= 500, changes  # ten records a batch; the next batch may be for the same partition
    assert min(Counter(places).values()) > 800


def test_only_partitions_with_a_leader_get_records_without_a_key() -> None:
    made = accumulator(batch_size=0)
    made.set_partitions("t", 4, [1, 3])
    assert {found[0].partition for _ in range(50) if (found := add(made, b"x"))} == {1, 3}
    made.set_partitions("t", 4, [])
    assert len({found[0].partition for _ in range(200) if (found := add(made, b"x"))}) == 4


def test_batches_that_come_back_stand_in_the_order_in_which_they_were_begun() -> None:
    made = accumulator(batch_size=0)
    batches = [found[0] for number in range(4) if (found := add(made, b"%d" % number, partition=2))]
    queue = batches[0].queue
    taken = [made.take(queue) for _ in range(3)]
    for batch in (taken[1], taken[2], taken[0]):
        made.put_back(batch)
    assert list(queue.batches) == batches


def test_well_compressing_records_make_larger_batches() -> None:
    made = accumulator(batch_size=1_000, compression=CompressionType.ZSTD)

    def fill() -> Batch:
        found = add(made, b"x" * 86, partition=0)
        assert found is not None
        while not found[0].closed:
            add(made, b"x" * 86, partition=0)
        return found[0]

    batch = fill()
    count = batch.count
    for _ in range(200):
        batch.packed_size = batch.size // 10
        made.observe_compression(batch)
    made.take(batch.queue)
    assert fill().count > 3 * count
    batch.packed_size = batch.size * 2
    made.observe_compression(batch)
    assert made.topics["t"].ratio == 1.0


ROWS = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=300),
        st.lists(
            st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), st.none() | st.binary(max_size=8)), max_size=3
        ),
        st.integers(0, 100_000),
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS)
def test_a_record_takes_no_more_than_was_counted_and_comes_out_as_it_went_in(rows: list) -> None:  # type: ignore[type-arg]
    made = accumulator(batch_size=1_000_000)
    batch: Batch | None = None
    for key, value, headers, timestamp in rows:
        size = record_size(key, value, tuple(headers))
        found = made.append(made.topics["t"], 0, key, value, tuple(headers), timestamp, size, lambda: 0)
        assert found is not None
        batch = found[0]
    assert batch is not None
    batch.set_producer(7, 3, 100)
    data = batch.encode(CompressionType.NONE, None, transactional=True)
    assert len(data) - HEADER_SIZE <= batch.size
    header = read_header(data)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 3, 100)
    assert header.is_transactional
    records = read_records(data, verify_crc=True)
    assert [(r.key, r.value, list(r.headers), r.timestamp) for r in records] == rows
    assert header.max_timestamp == max(row[3] for row in rows)
    assert batch.encode(CompressionType.NONE, None, transactional=True) is data
    batch.set_producer(7, 4, 0)
    assert batch.was_reset
    again = batch.encode(CompressionType.NONE, None, transactional=True)
    assert again is not data
    assert read_header(data).producer_epoch == 3, "what may still be on its way is not touched"
    assert read_header(again).producer_epoch == 4


@given(ROWS.filter(lambda rows: len(rows) > 1), st.integers(1, 500))
def test_the_parts_of_a_batch_have_its_records_sequences_and_outcome(rows: list, limit: int) -> None:  # type: ignore[type-arg]
    made = accumulator(batch_size=1_000_000)
    for key, value, headers, timestamp in rows:
        size = record_size(key, value, tuple(headers))
        found = made.append(made.topics["t"], 0, key, value, tuple(headers), timestamp, size, lambda: 0)
    assert found is not None
    batch = found[0]
    batch.set_producer(7, 3, 2**31 - 2)
    parts = batch.split(min(limit, batch.size // 2))
    assert len(parts) > 1
    assert [row[2] for part in parts for row in part.unfold()] == [row[0] for row in rows]
    sequence = 2**31 - 2
    for part in parts:
        assert part.base_sequence == sequence
        sequence = (sequence + part.count) & 0x7FFFFFFF
    done: list[Batch] = []
    for number, part in enumerate(parts[:-1]):
        done += part.succeed(1_000 * number, -1)
    assert batch not in done
    assert batch.is_pending
    done += parts[-1].fail(RuntimeError("no"))
    assert done[-1] is batch
    assert batch.outcome is Outcome.FAILED
    assert batch.error_of(0) is None
    assert isinstance(batch.error_of(batch.count - 1), RuntimeError)
    assert batch.metadata_of(0) == (0, rows[0][3])
