"""Compiled kernels and plain kernels give the same answers; a stale extension is not run.

Where `make` built no extension, this module builds one in a scratch folder (5 s). Without Cython or a compiler
the comparison cannot be made, and pytest says so.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.records.strategies import record_lists
from tests.support.extensions import compiled_kernel

from ottla import compiled
from ottla.protocol.records import _records_plain as plain
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import HEADER_SIZE, read_header
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.checksum import crc32c

SOURCE = Path(kernels.__file__).with_name("_records_cy.py")


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled kernels: those beside the source if they are fresh, else just built."""
    return compiled_kernel(SOURCE, tmp_path_factory)


def answer(function: Any, *args: Any) -> Any:
    """What a kernel returns, or the error's type where it raises one."""
    try:
        return function(*args)
    except (ValueError, OverflowError) as error:
        return type(error)


def shift(records: list[Record]) -> tuple[int, int]:
    return records[0].offset, records[0].timestamp


@settings(deadline=None)
@given(records=record_lists(max_size=20))
def test_encode_agrees(extension: ModuleType, records: list[Record]) -> None:
    assert extension.encode_records(records, *shift(records)) == plain.encode_records(records, *shift(records))


@settings(deadline=None)
@given(records=record_lists(max_size=20), append_time=st.none() | st.integers(0, 2**60))
def test_decode_agrees_and_returns_what_was_encoded(
    extension: ModuleType, records: list[Record], append_time: int | None
) -> None:
    body = plain.encode_records(records, *shift(records))
    ours = plain.decode_records(body, len(records), *shift(records), append_time)
    assert extension.decode_records(body, len(records), *shift(records), append_time) == ours
    if append_time is None:
        assert ours == [tuple(record) for record in records]


@settings(deadline=None)
@given(records=record_lists(max_size=20, gaps=False))
def test_check_agrees_and_counts(extension: ModuleType, records: list[Record]) -> None:
    body = plain.encode_records(records, *shift(records))
    ours = plain.check_records(body, len(records), records[0].timestamp)
    assert extension.check_records(body, len(records), records[0].timestamp) == ours
    null_keys, contiguous, smallest, largest, longest = ours
    stamps = [record.timestamp for record in records]
    assert null_keys == sum(record.key is None for record in records)
    assert contiguous
    assert largest == max(stamps)
    assert smallest == min((stamp for stamp in stamps if stamp != -1), default=2**63 - 1)
    assert 6 <= longest <= len(body)


@settings(deadline=None)
@given(
    records=record_lists(max_size=6, gaps=False),
    producer=st.sampled_from([(-1, -1, -1), (5, 0, 0), (5, 1, -1)]),
    changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=2),
    cut=st.integers(-2, 3),
    is_crc_right=st.booleans(),
    flags=st.sampled_from([0, 0, 0x10, 0x08, 0x20, 0x01, 0x80]),
)
def test_a_look_at_a_batch_agrees_and_tells_only_of_ordinary_ones(
    extension: ModuleType,
    records: list[Record],
    producer: tuple[int, int, int],
    changes: list[tuple[int, int]],
    cut: int,
    is_crc_right: bool,
    flags: int,
) -> None:
    producer_id, epoch, sequence = producer
    whole = build_batch(
        records, base_offset=records[0].offset, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence
    )
    struct.pack_into(">q", whole, 0, 0)
    whole[22] |= flags
    for position, value in changes:
        whole[position % len(whole)] = value
    if is_crc_right:
        struct.pack_into(">I", whole, 17, crc32c(memoryview(whole)[21:]))
    damaged = bytes(whole[: len(whole) - cut]) if cut >= 0 else bytes(whole) + b"??"
    seen = plain.check_batch(damaged, crc32c)
    assert extension.check_batch(damaged, crc32c) == seen
    assert extension.check_batch(memoryview(damaged), crc32c) == seen
    if not changes and not cut and is_crc_right and flags in (0, 0x10) and producer != (5, 1, -1):
        assert (seen is not None) == (max(record.timestamp for record in records) >= -1)
    if seen is not None:
        fields, null_keys, smallest = seen
        header = read_header(damaged)
        assert fields == header
        body = damaged[HEADER_SIZE:]
        assert plain.check_records(body, header.record_count, header.base_timestamp)[:4] == (
            null_keys,
            True,
            smallest,
            header.max_timestamp,
        )


@settings(deadline=None)
@given(
    body=st.binary(max_size=60) | record_lists(max_size=4).map(lambda r: bytes(plain.encode_records(r, *shift(r)))),
    count=st.integers(-1, 6),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 3),
)
def test_damaged_bodies_agree(
    extension: ModuleType, body: bytes, count: int, changes: list[tuple[int, int]], cut: int
) -> None:
    """Whatever the bytes: both raise the same error, or both say the same."""
    data = bytearray(body)
    for position, value in changes:
        if data:
            data[position % len(data)] = value
    del data[len(data) - cut :]
    assert answer(extension.check_records, data, count, 1000) == answer(plain.check_records, data, count, 1000)
    assert answer(extension.decode_records, data, count, 5, 1000, None) == answer(
        plain.decode_records, data, count, 5, 1000, None
    )
    tables = [array("q", bytes(24 * 16)) for _ in range(2)]
    assert answer(extension.index_keys, data, count, 5, 0, tables[0], 0, 10) == answer(
        plain.index_keys, data, count, 5, 0, tables[1], 0, 10
    )
    assert tables[0] == tables[1]
    for keep in (False, True):
        assert answer(extension.filter_records, data, count, 5, 1000, tables[0], 6, keep) == answer(
            plain.filter_records, data, count, 5, 1000, tables[1], 6, keep
        )


keyed_lists = st.lists(
    st.tuples(st.none() | st.binary(max_size=2), st.none() | st.binary(max_size=3)), min_size=1, max_size=40
)


@settings(deadline=None)
@given(
    pairs=keyed_lists, latest=st.integers(0, 45), start=st.integers(0, 45), keep=st.booleans(), most=st.integers(0, 50)
)
def test_offset_map_agrees_and_is_a_dict(
    extension: ModuleType,
    pairs: list[tuple[bytes | None, bytes | None]],
    latest: int,
    start: int,
    keep: bool,
    most: int,
) -> None:
    records = [Record(index, 1000 + index, key, value) for index, (key, value) in enumerate(pairs)]
    body = bytes(plain.encode_records(records, 0, 1000))
    tables = [array("q", bytes(24 * 64)) for _ in range(2)]
    used = [
        module.index_keys(body, len(records), 0, start, table, 0, most)
        for module, table in zip((extension, plain), tables, strict=True)
    ]
    assert used[0] == used[1]
    assert tables[0] == tables[1]

    model: dict[bytes, int] = {}
    full = False
    for record in records:
        if record.key is not None and record.offset >= start and not full:
            if record.key not in model and len(model) >= most:
                full = True
            else:
                model[record.key] = record.offset
    assert used[0] == (-1 - len(model) if full else len(model))

    kept = [
        record
        for record in records
        if record.offset > latest
        or (
            record.key is not None and record.offset >= model.get(record.key, -1) and (keep or record.value is not None)
        )
    ]
    answers = [
        module.filter_records(body, len(records), 0, 1000, table, latest, keep)
        for module, table in zip((extension, plain), tables, strict=True)
    ]
    assert answers[0] == answers[1]
    count, tombstones, largest, rest = answers[0]
    assert count == len(kept)
    assert tombstones == sum(record.value is None for record in kept)
    assert largest == max((record.timestamp for record in kept), default=-1)
    if rest is None:
        assert kept == records
    else:
        assert plain.decode_records(rest, count, 0, 1000, None) == [tuple(record) for record in kept]


def test_keys_that_share_one_hash_are_different_keys(extension: ModuleType) -> None:
    first, second = plain.hash_key(b"key")
    body = bytes(plain.encode_records([Record(0, 0, b"key", b"v")], 0, 0))
    for module in (extension, plain):
        table = array("q", bytes(24 * 8))
        table[3 * (first & 7) : 3 * (first & 7) + 3] = array("q", [first, second ^ 1, 100])
        kept = module.filter_records(body, 1, 0, 0, table, 50, True)
        assert kept == (1, 0, 0, None)
        assert module.index_keys(body, 1, 0, 0, table, 1, 7) == 2
        assert table[3 * (first & 7) + 2] == 100


@settings(deadline=None)
@given(keys=st.sets(st.binary(max_size=4), max_size=30))
def test_rehash_agrees_and_keeps_every_key(extension: ModuleType, keys: set[bytes]) -> None:
    records = [Record(index, 0, key, b"") for index, key in enumerate(sorted(keys))]
    body = bytes(plain.encode_records(records, 0, 0))
    old = array("q", bytes(24 * 64))
    plain.index_keys(body, len(records), 0, 0, old, 0, 60)
    tables = [array("q", bytes(24 * 256)) for _ in range(2)]
    extension.rehash(old, tables[0])
    plain.rehash(old, tables[1])
    assert tables[0] == tables[1]
    count, _, _, rest = plain.filter_records(body, len(records), 0, 0, tables[0], 1000, True)
    assert (count, rest) == (len(records), None)


@settings(deadline=None)
@given(records=record_lists(max_size=10), delta=st.integers(-(2**62), 2**62), renumber=st.booleans())
def test_rewritten_records_keep_everything_else(records: list[Record], delta: int, renumber: bool) -> None:
    base_offset, base_timestamp = shift(records)
    body = plain.encode_records(records, base_offset, base_timestamp)
    rewritten = plain.rewrite_records(body, len(records), delta, renumber)
    again = plain.decode_records(rewritten, len(records), base_offset, base_timestamp - delta, None)
    offsets = [base_offset + index if renumber else record.offset for index, record in enumerate(records)]
    assert again == [(offset, *record[1:]) for offset, record in zip(offsets, records, strict=True)]


@pytest.mark.parametrize("count", [-1, 1, 2**31 - 1])
def test_count_that_cannot_be_is_refused(extension: ModuleType, count: int) -> None:
    table = array("q", bytes(24 * 8))
    for module in (extension, plain):
        for call in (
            lambda module=module: module.check_records(b"", count, 0),
            lambda module=module: module.decode_records(b"", count, 0, 0, None),
            lambda module=module: module.index_keys(b"", count, 0, 0, table, 0, 7),
            lambda module=module: module.filter_records(b"", count, 0, 0, table, 0, True),
        ):
            assert answer(call) is ValueError


def test_timestamps_wrap_like_java_longs() -> None:
    body = plain.encode_records([Record(0, -(2**63), None, None)], 0, 2**63 - 1)
    assert plain.decode_records(body, 1, 0, 2**63 - 1, None)[0][1] == -(2**63)


def load(folder: str, source: bytes | None) -> tuple[ModuleType | None, str]:
    return compiled.load("ottla.protocol.records", "_records_cy", folder, source)


def test_extension_of_another_source_is_stale(extension: ModuleType) -> None:
    folder = str(Path(str(extension.__file__)).parent)
    source = compiled.source_of(SOURCE)
    assert source is not None
    assert load(folder, source)[1] == "compiled"
    assert load(folder, source + b"# changed\n") == (None, "plain: extension is stale, run make")


def test_without_an_extension_the_plain_kernels_run(tmp_path: Path) -> None:
    assert load(str(tmp_path), b"") == (None, "plain: no extension built")


def test_broken_extension_is_reported(tmp_path: Path) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    (tmp_path / f"_records_cy{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    module, status = load(str(tmp_path), b"")
    assert module is None
    assert status.startswith("plain: the extension cannot be loaded")


def test_status_tells_what_runs() -> None:
    assert (kernels.STATUS == "compiled") is kernels.COMPILED
    assert kernels.COMPILED or kernels.STATUS.startswith("plain: ")
