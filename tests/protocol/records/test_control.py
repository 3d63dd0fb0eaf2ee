"""Transaction markers."""

from __future__ import annotations

import pytest

from ottla.protocol.records.batch import check_crc, read_header
from ottla.protocol.records.builder import Record, build_batch, build_empty_batch
from ottla.protocol.records.control import ControlType, control_type, end_transaction_marker, read_marker
from ottla.protocol.records.reader import iter_records


@pytest.mark.parametrize("kind", [ControlType.ABORT, ControlType.COMMIT])
def test_marker_says_how_the_transaction_ended(kind: ControlType) -> None:
    batch = end_transaction_marker(kind, 12, timestamp_ms=5, producer_id=8, producer_epoch=3, base_offset=70)
    header = read_header(batch)
    assert check_crc(batch, 0, header)
    assert header.is_control
    assert header.is_transactional
    assert (header.base_offset, header.last_offset, header.record_count) == (70, 70, 1)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (8, 3, -1)
    assert read_marker(batch) == (kind, 12)


def test_marker_has_the_bytes_kafka_writes() -> None:
    batch = end_transaction_marker(ControlType.COMMIT, 2, timestamp_ms=0, producer_id=0, producer_epoch=0)
    # length 16, attributes, deltas, key of 4: version 0 type 1, value of 6: version 0 epoch 2, no headers
    assert bytes(batch[61:]) == bytes.fromhex("20 00 00 00 08 00000001 0c 000000000002 00".replace(" ", ""))


def test_marker_must_end_a_transaction() -> None:
    with pytest.raises(ValueError, match="LEADER_CHANGE"):
        end_transaction_marker(ControlType.LEADER_CHANGE, 0, timestamp_ms=0, producer_id=0, producer_epoch=0)


def test_other_control_records_are_no_markers() -> None:
    batch = build_batch([Record(0, 0, b"\0\0\0\2", b"")], control=True)
    assert read_marker(batch) is None
    assert control_type(b"\0\0\0\x63") is ControlType.UNKNOWN
    assert control_type(b"\0\1\0\1more") is ControlType.COMMIT


def test_marker_emptied_by_compaction_says_nothing() -> None:
    empty = build_empty_batch(
        base_offset=1,
        last_offset=1,
        max_timestamp=0,
        leader_epoch=0,
        producer_id=1,
        producer_epoch=0,
        base_sequence=-1,
        transactional=True,
        control=True,
    )
    assert read_marker(empty) is None


@pytest.mark.parametrize("key", [None, b"", b"\0\0\0", b"\xff\xff\0\1"])
def test_damaged_control_key_is_refused(key: bytes | None) -> None:
    with pytest.raises(ValueError, match="control record"):
        control_type(key)


def test_damaged_marker_value_is_refused() -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        read_marker(build_batch([Record(0, 0, b"\0\0\0\1", b"\0\0")], control=True, transactional=True))


def test_consumers_do_not_see_markers() -> None:
    data = build_batch([Record(0, 0, b"k", b"v")]) + end_transaction_marker(
        ControlType.ABORT, 0, timestamp_ms=0, producer_id=0, producer_epoch=0, base_offset=1
    )
    assert [record.offset for record in iter_records(data)] == [0]
