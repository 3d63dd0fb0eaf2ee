"""The column kernels, compiled and plain, give the same columns and the same answers; rows come back as they went in."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.records.strategies import record_lists
from tests.support.extensions import compiled_kernel

from ottla.protocol.records import _columns_plain as plain
from ottla.protocol.records import column_kernels
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.checksum import crc32c

SOURCE = Path(column_kernels.__file__).with_name("_columns_cy.py")
NO_END = (1 << 63) - 1


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled kernels."""
    return compiled_kernel(SOURCE, tmp_path_factory)


def buffers(rows: int = 32, size: int = 4000) -> tuple[bytearray, ...]:
    ends, bits = 8 * (rows + 1), rows // 8
    sizes = (8 * rows, 8 * rows, ends, bits, size, ends, bits, size, ends, size)
    return tuple(bytearray(b"\xaa" * size) for size in sizes)


def append(kernel: Any, room: tuple[bytearray, ...], body: bytes, count: int, records: list[Record], *more: int) -> Any:
    try:
        return kernel.append_records(
            room, (0, 0, 0, 0), body, 0, count, records[0].offset, records[0].timestamp, None, *more
        )
    except ValueError:
        return ValueError


@settings(deadline=None)
@given(
    records=record_lists(max_size=20),
    rows=st.sampled_from([8, 32]),
    size=st.sampled_from([50, 4000]),
    first=st.integers(0, 2**40 + 5000),
    end=st.integers(0, 2**40 + 5000) | st.just(NO_END),
    rows_max=st.integers(0, 40),
    damage=st.none() | st.tuples(st.integers(0), st.integers(0, 255)),
)
def test_they_agree(
    extension: ModuleType,
    records: list[Record],
    rows: int,
    size: int,
    first: int,
    end: int,
    rows_max: int,
    damage: tuple[int, int] | None,
) -> None:
    body = build_batch(records)[61:]
    if damage is not None:
        body[damage[0] % len(body)] = damage[1]
    one, other = buffers(rows, size), buffers(rows, size)
    found = append(extension, one, bytes(body), len(records), records, first, end, rows_max)
    assert found == append(plain, other, bytes(body), len(records), records, first, end, rows_max)
    if found is not ValueError:
        # What an end was written for is the same; buffers behind what is used are of no meaning.
        made = extension.make_rows(one, found[3], 0, found[3][0])
        assert made == plain.make_rows(other, found[3], 0, found[3][0])
        if damage is None:
            wanted = [tuple(record) for record in records if first <= record.offset < end]
            assert made == wanted[: len(made)]
            assert found[0] != plain.DONE or len(made) == len(wanted)


@settings(deadline=None)
@given(
    lists=st.lists(record_lists(max_size=5), min_size=1, max_size=5),
    first=st.integers(0, 2**40),
    end=st.integers(0, 2**41) | st.just(NO_END),
    rows_max=st.integers(0, 40),
    odd=st.integers(0, 30),
)
def test_batches_that_need_no_thought_are_read_as_one_by_one(
    extension: ModuleType, lists: list[list[Record]], first: int, end: int, rows_max: int, odd: int
) -> None:
    run = bytearray()
    starts = [0]
    for number, records in enumerate(lists):
        batch = build_batch(records, leader_epoch=3 if number * 7 != odd else 4, transactional=number * 5 == odd)
        if number * 11 == odd:
            batch[-1] ^= 1
        run += batch
        starts.append(len(run))
    room = buffers()
    position, following, used = extension.append_batches(
        room, (0, 0, 0, 0), run, 0, 3, False, first, end, rows_max, crc32c
    )
    # Which ones it takes is its own business, as long as they are whole, and rows are those of the other way.
    assert position in starts
    taken = lists[: starts.index(position)]
    assert extension.make_rows(room, used, 0, used[0]) == [
        tuple(record) for records in taken for record in records if record.offset >= first
    ]
    assert used[0] <= rows_max
    assert following == (taken[-1][-1].offset + 1 if taken else first)
    for number, records in enumerate(taken):
        assert records[-1].offset < end
        assert odd not in (number * 7, number * 5, number * 11)


def test_a_run_of_ordinary_batches_is_read_in_one_call(extension: ModuleType) -> None:
    records = [Record(offset, 1, b"key", b"value") for offset in range(10)]
    run = build_batch(records[:4]) + build_batch(records[4:])
    position, following, used = extension.append_batches(
        buffers(), (0, 0, 0, 0), run, 0, -1, False, 2, NO_END, 30, crc32c
    )
    assert (position, following, used[0]) == (len(run), 10, 8)


def test_small_buffers_are_not_written_past(extension: ModuleType) -> None:
    body = build_batch([Record(offset, 1, b"key", b"value", (("a", b"1"),)) for offset in range(10)])[61:]
    for number in range(10):
        short = list(buffers())
        short[number] = bytearray(8 if number in (2, 5, 8) else 0)
        found = append(extension, tuple(short), bytes(body), 10, [Record(0, 1, None, None)], 0, NO_END, 30)
        assert found[0] != plain.DONE
        assert found[3][0] == 0
