"""Offset and time index against brute force; the transaction index."""

from __future__ import annotations

import errno
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.storage.index import AbortedTransaction, OffsetIndex, TimeEntry, TimeIndex, TransactionIndex
from ottla.storage.open_files import OpenFiles
from ottla.testing.memory_files import MemoryFiles

BASE = 1000


def open_files() -> OpenFiles:
    return OpenFiles(MemoryFiles())


def offset_index(files: OpenFiles) -> OffsetIndex:
    index = OffsetIndex(files, "0.index", BASE)
    if not files.files.exists("0.index"):
        index.start_empty()
    return index


def time_index(files: OpenFiles) -> TimeIndex:
    index = TimeIndex(files, "0.timeindex", BASE)
    if not files.files.exists("0.timeindex"):
        index.start_empty()
    return index


steps = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=1200)


@given(steps, st.integers(0, 1200), st.integers(-5, 9000))
def test_lookups_agree_with_a_search_through_all_entries(
    gaps: list[tuple[int, int]], written: int, target: int
) -> None:
    files = open_files()
    index, times = offset_index(files), time_index(files)
    entries: list[tuple[int, int]] = []
    offset, position = BASE, 0
    for number, (more_offsets, more_bytes) in enumerate(gaps):
        offset, position = offset + more_offsets, position + more_bytes
        entries.append((offset, position))
        index.add(offset, position)
        times.maybe_add(position, offset)
        if number == written:  # the entries before are in the file, those after it in memory
            index.write()
            times.write()
    assert index.entries() == entries
    before = bisect_right([entry[0] for entry in entries], BASE + target)
    assert index.lookup(BASE + target) == (entries[before - 1] if before else None)
    before = bisect_right([entry[1] for entry in entries], target)
    assert index.floor(target) == (entries[before - 1] if before else None)
    assert index.next_position(target) == (entries[before][1] if before < len(entries) else None)
    assert index.last_entry() == (entries[-1] if entries else None)
    wanted = TimeEntry(entries[before - 1][1], entries[before - 1][0]) if before else TimeEntry(-1, BASE)
    assert times.lookup(target) == wanted
    assert times.last_entry() == (TimeEntry(entries[-1][1], entries[-1][0]) if entries else TimeEntry(-1, BASE))


@given(steps, st.integers(0, 1200), st.integers(0, 6000), st.booleans())
def test_truncation_keeps_what_is_below(gaps: list[tuple[int, int]], written: int, cut: int, reopen: bool) -> None:
    files = open_files()
    index, times = offset_index(files), time_index(files)
    entries: list[tuple[int, int]] = []
    offset = position = 0
    for number, (more_offsets, more_bytes) in enumerate(gaps):
        offset, position = offset + more_offsets, position + more_bytes
        entries.append((BASE + offset, position))
        index.add(BASE + offset, position)
        times.maybe_add(position, BASE + offset)
        if number == written:
            index.write()
            times.write()
    index.truncate_to(BASE + cut)
    times.truncate_to(BASE + cut)
    kept = [entry for entry in entries if entry[0] < BASE + cut]
    if reopen:
        index.write()
        times.write()
        index, times = offset_index(files), time_index(files)
    assert index.entries() == kept
    assert times.entries() == [TimeEntry(position, offset) for offset, position in kept]
    times.maybe_add(10**9, BASE + cut)
    assert times.last_entry() == TimeEntry(10**9, BASE + cut)


def test_the_files_have_kafkas_bytes() -> None:
    files = open_files()
    index, times = offset_index(files), time_index(files)
    index.add(BASE + 4, 100)
    times.maybe_add(7, BASE + 4)
    index.write()
    times.write()
    assert files.files.read_bytes("0.index").hex() == "0000000400000064"
    assert files.files.read_bytes("0.timeindex").hex() == "000000000000000700000004"


def test_a_timestamp_that_is_not_larger_gets_no_entry() -> None:
    times = time_index(open_files())
    times.maybe_add(5, BASE + 1)
    times.maybe_add(5, BASE + 2)
    times.maybe_add(4, BASE + 3)
    assert times.entries() == [TimeEntry(5, BASE + 1)]


def test_entries_wait_in_memory_while_the_disk_is_full() -> None:
    disk = MemoryFiles()
    index = OffsetIndex(OpenFiles(disk), "0.index", BASE)
    index.start_empty()
    disk.capacity = 0
    for number in range(2000):
        index.add(BASE + number + 1, number + 1)
    with pytest.raises(OSError) as full:  # noqa: PT011 - the errno says which
        index.write()
    assert full.value.errno == errno.ENOSPC
    assert disk.size("0.index") == 0
    disk.capacity = 1 << 30
    index.write()
    assert len(index.entries()) == 2000
    assert disk.size("0.index") == 16000


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", True),
        (bytes.fromhex("0000000400000064"), True),
        (bytes.fromhex("000000040000006400"), False),  # half an entry
        (bytes.fromhex("00000004000000640000000000000000"), False),  # the zeros that Kafka preallocates
        (bytes.fromhex("00000004000000640000000500000065"), True),
    ],
)
def test_a_file_that_cannot_be_an_index_is_noticed(data: bytes, whole: bool) -> None:
    files = open_files()
    files.files.open("0.index", create=True).append(data)
    assert OffsetIndex(files, "0.index", BASE).is_whole() is whole


def test_a_missing_file_is_no_index() -> None:
    assert not OffsetIndex(open_files(), "0.index", BASE).is_whole()


def test_the_transaction_index() -> None:
    files = open_files()
    index = TransactionIndex(files, "0.txnindex")
    first, second = AbortedTransaction(7, 0, 5, 3), AbortedTransaction(8, 3, 9, 10)
    assert index.entries() == []
    assert not files.files.exists("0.txnindex"), "the file is there only if a transaction was aborted"
    index.add(first)
    index.add(second)
    assert files.files.read_bytes("0.txnindex").hex() == (
        "0000" + "0000000000000007" + "0000000000000000" + "0000000000000005" + "0000000000000003"
    ) + ("0000" + "0000000000000008" + "0000000000000003" + "0000000000000009" + "000000000000000a")
    assert TransactionIndex(files, "0.txnindex").entries() == [first, second]
    index.truncate_to(9)
    assert TransactionIndex(files, "0.txnindex").entries() == [first]


@pytest.mark.parametrize("data", [b"x", bytes(33), b"\0\1" + bytes(32)])
def test_a_damaged_transaction_index_is_refused(data: bytes) -> None:
    files = open_files()
    files.files.open("0.txnindex", create=True).append(data)
    with pytest.raises(ValueError, match="txnindex"):
        TransactionIndex(files, "0.txnindex").entries()
