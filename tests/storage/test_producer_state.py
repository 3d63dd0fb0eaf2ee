"""Idempotence and transactions of one partition: KIP-98, KIP-360, KIP-890."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.storage.log_support import NOW, TP, idempotent

from ottla.errors import (
    InvalidProducerEpochError,
    InvalidTxnStateError,
    OutOfOrderSequenceNumberError,
    TransactionCoordinatorFencedError,
)
from ottla.protocol.records.batch import MAX_SEQUENCE, BatchHeader, read_header
from ottla.protocol.records.checksum import crc32c
from ottla.protocol.records.control import ControlType, EndTransactionMarker
from ottla.storage.producer_state import ProducerState, SnapshotError, read_snapshot
from ottla.types import AppendOrigin

CLIENT, COORDINATOR = AppendOrigin.CLIENT, AppendOrigin.COORDINATOR
COMMIT, ABORT = ControlType.COMMIT, ControlType.ABORT
DAY = 86_400_000


def header(producer: int, epoch: int, sequence: int, count: int = 1, *, transactional: bool = False) -> BatchHeader:
    return read_header(idempotent(producer, epoch, sequence, count, transactional=transactional))


class Partition:
    """A producer state and the offsets a log would give."""

    def __init__(self) -> None:
        self.state = ProducerState(TP, DAY)
        self.end = 0

    def send(
        self, epoch: int, sequence: int, count: int = 1, *, producer: int = 7, transactional: bool = False
    ) -> tuple[int, bool]:
        """Return (offset, whether it was a duplicate)."""
        head = header(producer, epoch, sequence, count, transactional=transactional)
        known = self.state.check_batch(head, CLIENT)
        if known is not None:
            return known.first_offset, True
        self.state.add_batch(head, self.end, NOW)
        self.end += count
        return self.end - count, False

    def end_transaction(
        self, kind: ControlType, epoch: int, *, producer: int = 7, coordinator_epoch: int = 0, version: int = 0
    ) -> None:
        head = header(producer, epoch, 0, transactional=True)
        mark = EndTransactionMarker(kind, coordinator_epoch)
        self.state.check_marker(head, mark, COORDINATOR, version)
        self.state.add_marker(head, mark, self.end, NOW)
        self.end += 1


def test_each_of_the_last_five_batches_is_recognised() -> None:
    partition = Partition()
    offsets = [partition.send(0, 3 * number, 3)[0] for number in range(7)]
    for number in range(2, 7):
        assert partition.send(0, 3 * number, 3) == (offsets[number], True)
    with pytest.raises(OutOfOrderSequenceNumberError):
        partition.send(0, 3, 3)


def test_what_is_older_than_the_kept_batches_is_known_to_be_there() -> None:
    partition = Partition()
    for number in range(8):
        partition.send(0, 3 * number, 3)
    known = partition.state.end_of_old_duplicates
    for number in range(3):
        assert known(header(7, 0, 3 * number, 3)) == 9
    assert known(header(7, 0, 0, 9)) == 9
    assert known(header(7, 0, 9, 3)) is None, "one of those that are kept"
    assert known(header(7, 0, 6, 4)) is None, "it reaches into those that are kept"
    assert known(header(7, 0, 24)) is None, "the next one"
    assert known(header(7, 0, 30)) is None, "records before it are missing"
    assert known(header(7, 1, 0)) is None, "of another epoch"
    assert known(header(8, 0, 0)) is None, "of another producer"


def test_what_is_older_than_the_first_batch_is_not_known() -> None:
    """A producer may begin with any sequence where it is not known."""
    partition = Partition()
    for number in range(8):
        partition.send(0, MAX_SEQUENCE - 2 + number & MAX_SEQUENCE)
    known = partition.state.end_of_old_duplicates
    assert [known(header(7, 0, MAX_SEQUENCE - 2 + number & MAX_SEQUENCE)) for number in range(-2, 4)] == [
        *(None, None),
        *(3, 3, 3),
        None,
    ]
    assert known(header(7, 0, MAX_SEQUENCE - 3, 2)) is None


def test_a_batch_after_a_gap_is_no_old_one_however_long_the_producer_has_written() -> None:
    """Of nearly all sequences each was written once; what comes after a gap begins with the first ones again."""
    partition = Partition()
    partition.send(0, 0)
    partition.state.entries[7].batches.clear()
    for sequence in range(MAX_SEQUENCE - 12, MAX_SEQUENCE - 6):
        partition.state.add_batch(header(7, 0, sequence), partition.end, NOW)
        partition.end += 1
    partition.state.entries[7].run_start = 0
    known = partition.state.end_of_old_duplicates
    assert [known(header(7, 0, sequence)) for sequence in (MAX_SEQUENCE - 5, MAX_SEQUENCE, 0, 3)] == 4 * [None]
    assert known(header(7, 0, MAX_SEQUENCE - 12)) is not None


def test_a_gap_in_what_was_replicated_ends_what_is_known() -> None:
    """The leader had forgotten the producer, which may have begun anywhere then; the follower had not."""
    partition = Partition()
    partition.send(0, 3)
    known = partition.state.end_of_old_duplicates
    for sequence in range(8, 15):
        partition.state.add_batch(header(7, 0, sequence), partition.end, NOW)
        partition.end += 1
        assert [known(header(7, 0, never)) for never in (0, 2, 4, 7)] == 4 * [None]
    assert [known(header(7, 0, sequence)) for sequence in (3, 8, 9, 10)] == [None, 3, 3, None]


def test_a_snapshot_knows_of_what_it_has_rows_of() -> None:
    partition = Partition()
    for number in range(8):
        partition.send(0, number)
    other = Partition()
    other.state.load(partition.state.snapshot(), 8, NOW)
    other.end = 8
    for number in range(8, 11):
        other.send(0, number)
    known = other.state.end_of_old_duplicates
    assert [known(header(7, 0, number)) for number in range(7)] == [None, None, None, 6, 6, 6, None]


def test_a_batch_with_the_same_start_but_another_end_is_no_duplicate() -> None:
    partition = Partition()
    partition.send(0, 0, 3)
    with pytest.raises(OutOfOrderSequenceNumberError):
        partition.send(0, 0, 2)


def test_a_gap_is_refused_and_changes_nothing() -> None:
    partition = Partition()
    partition.send(0, 0)
    with pytest.raises(OutOfOrderSequenceNumberError):
        partition.send(0, 2)
    assert partition.send(0, 1) == (1, False)


def test_sequences_wrap_to_zero() -> None:
    partition = Partition()
    partition.send(0, MAX_SEQUENCE - 1, 2)
    assert partition.send(0, 0, 2) == (2, False)
    assert partition.send(0, MAX_SEQUENCE - 1, 2) == (0, True)


def test_a_batch_over_the_wrap_is_recognised() -> None:
    partition = Partition()
    partition.send(0, MAX_SEQUENCE, 3)
    assert partition.send(0, MAX_SEQUENCE, 3) == (0, True)
    assert partition.send(0, 2) == (3, False)


def test_an_unknown_producer_may_start_anywhere() -> None:
    assert Partition().send(3, 1000) == (0, False)


def test_a_new_epoch_starts_at_zero() -> None:
    partition = Partition()
    partition.send(0, 0, 5)
    with pytest.raises(OutOfOrderSequenceNumberError):
        partition.send(1, 5)
    assert partition.send(1, 0) == (5, False)


def test_an_older_epoch_is_fenced_even_with_a_known_sequence() -> None:
    partition = Partition()
    partition.send(0, 0)
    partition.send(1, 0)
    with pytest.raises(InvalidProducerEpochError):
        partition.send(0, 0)


def test_a_coordinator_is_checked_for_epochs_only() -> None:
    partition = Partition()
    partition.send(1, 0)
    partition.state.check_batch(header(7, 1, 99), COORDINATOR)
    with pytest.raises(InvalidProducerEpochError):
        partition.state.check_batch(header(7, 0, 1), COORDINATOR)


def test_a_replica_is_not_checked() -> None:
    partition = Partition()
    partition.send(1, 0)
    assert partition.state.check_batch(header(7, 0, 99), AppendOrigin.REPLICATION) is None


def test_silent_producers_expire_but_not_inside_a_transaction() -> None:
    partition = Partition()
    partition.send(0, 0)
    partition.send(0, 0, producer=8, transactional=True)
    assert partition.state.remove_expired(NOW + DAY - 1) == 0
    assert partition.state.remove_expired(NOW + DAY) == 1
    assert sorted(partition.state.entries) == [8]
    assert partition.send(0, 500) == (2, False)


def test_old_timestamps_do_not_make_a_producer_expire_at_once() -> None:
    state = ProducerState(TP, DAY)
    state.add_batch(read_header(idempotent(7, 0, 0, timestamp=1)), 0, NOW)
    assert state.remove_expired(NOW + 1) == 0


def test_writing_outside_of_an_open_transaction_is_refused() -> None:
    partition = Partition()
    partition.send(0, 0, transactional=True)
    with pytest.raises(InvalidTxnStateError):
        partition.send(0, 1)


def test_the_first_unstable_offset_is_that_of_the_oldest_undecided_transaction() -> None:
    partition = Partition()
    partition.send(0, 0)
    partition.send(0, 0, producer=8, transactional=True)
    partition.send(0, 0, producer=9, transactional=True)
    assert partition.state.first_unstable_offset == 1
    partition.end_transaction(COMMIT, 0, producer=8)
    # Decided, but its marker is not replicated yet.
    partition.state.on_high_watermark(partition.end - 1)
    assert partition.state.first_unstable_offset == 1
    partition.state.on_high_watermark(partition.end)
    assert partition.state.first_unstable_offset == 2
    partition.end_transaction(ABORT, 0, producer=9)
    partition.state.on_high_watermark(partition.end)
    assert partition.state.first_unstable_offset is None


def test_a_marker_of_an_older_coordinator_is_fenced() -> None:
    partition = Partition()
    partition.send(0, 0, transactional=True)
    partition.end_transaction(COMMIT, 0, coordinator_epoch=5)
    with pytest.raises(TransactionCoordinatorFencedError):
        partition.end_transaction(ABORT, 0, coordinator_epoch=4)


def test_with_transaction_version_2_a_late_marker_is_refused_but_its_repetition_is_not() -> None:
    partition = Partition()
    partition.send(4, 0, transactional=True)
    with pytest.raises(InvalidProducerEpochError):
        partition.end_transaction(ABORT, 4, version=2)
    partition.end_transaction(COMMIT, 5, version=2)
    partition.end_transaction(COMMIT, 5, version=2)
    partition.send(5, 0, transactional=True)
    with pytest.raises(InvalidProducerEpochError):
        partition.end_transaction(COMMIT, 5, version=2)


def test_after_a_marker_with_a_new_epoch_sequences_begin_at_zero() -> None:
    partition = Partition()
    partition.send(0, 0, 3, transactional=True)
    partition.end_transaction(ABORT, 1)
    with pytest.raises(OutOfOrderSequenceNumberError):
        partition.send(1, 3, transactional=True)
    assert partition.send(1, 0, transactional=True)[1] is False


def test_the_snapshot_has_kafkas_bytes() -> None:
    partition = Partition()
    partition.send(2, 10, 3)
    partition.send(0, 0, producer=8, transactional=True)
    body = struct.pack(">i", 2)
    body += struct.pack(">qhiqiqiq", 7, 2, 12, 2, 2, NOW, -1, -1)
    body += struct.pack(">qhiqiqiq", 8, 0, 0, 3, 0, NOW, -1, 3)
    assert partition.state.snapshot() == struct.pack(">hI", 1, crc32c(body)) + body


def test_a_loaded_snapshot_goes_on_where_it_was_taken() -> None:
    partition = Partition()
    partition.send(0, 0, 3)
    partition.send(0, 0, producer=8, transactional=True)
    other = Partition()
    other.state.load(partition.state.snapshot(), 4, NOW)
    other.end = 4
    assert other.send(0, 0, 3) == (0, True)
    assert other.send(0, 3) == (4, False)
    assert other.state.first_unstable_offset == 3


def test_a_snapshot_has_the_last_five_batches() -> None:
    """The last one comes last: who keeps one row of each producer, as Kafka does, keeps that one."""
    partition = Partition()
    partition.send(0, 0, producer=8)
    offsets = [partition.send(0, 3 * number, 3)[0] for number in range(7)]
    partition.send(0, 1, producer=8, transactional=True)
    snapshot = partition.state.snapshot()
    rows = [row[:3] for row in struct.iter_unpack(">qhiqiqiq", snapshot[10:])]
    assert rows == [(8, 0, 0), (8, 0, 1), *((7, 0, 3 * number + 2) for number in range(2, 7))]
    assert [row[-1] for row in struct.iter_unpack(">qhiqiqiq", snapshot[10:])] == [-1, 22] + 5 * [-1]
    other = Partition()
    other.state.load(snapshot, partition.end, NOW)
    other.end = partition.end
    assert other.state.snapshot() == snapshot
    for number in range(2, 7):
        assert other.send(0, 3 * number, 3) == (offsets[number], True)
    with pytest.raises(OutOfOrderSequenceNumberError):
        other.send(0, 3, 3)
    assert other.send(0, 21) == (partition.end, False)


def test_a_snapshot_has_no_batch_of_an_earlier_epoch() -> None:
    partition = Partition()
    partition.send(0, 0)
    partition.send(1, 0)
    assert [(entry.producer_epoch, len(entry.batches)) for entry in read_snapshot(partition.state.snapshot())] == [
        (1, 1)
    ]


def test_of_two_epochs_in_a_snapshot_the_last_one_counts() -> None:
    """ottla writes no such snapshot."""
    rows = [(7, epoch, 4, 4, 0, NOW, -1, -1) for epoch in (0, 1)]
    body = struct.pack(">i", 2) + b"".join(struct.pack(">qhiqiqiq", *row) for row in rows)
    (entry,) = read_snapshot(struct.pack(">hI", 1, crc32c(body)) + body)
    assert (entry.producer_epoch, len(entry.batches)) == (1, 1)


@given(st.data())
def test_a_damaged_snapshot_is_refused(data: st.DataObject) -> None:
    partition = Partition()
    partition.send(0, 0)
    good = bytearray(partition.state.snapshot())
    position = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError):
        read_snapshot(bytes(damaged))
    with pytest.raises(SnapshotError):
        read_snapshot(bytes(good[:position]))


class Reference:
    """The rules told again, slowly: all batches of each producer are kept."""

    def __init__(self) -> None:
        self.batches: dict[int, list[tuple[int, int, int, int]]] = {}
        self.end = 0

    def send(self, producer: int, epoch: int, sequence: int, count: int) -> tuple[int, bool] | type[Exception]:
        sent = self.batches.setdefault(producer, [])
        if sent:
            newest_epoch = sent[-1][0]
            if epoch < newest_epoch:
                return InvalidProducerEpochError
            same = [batch for batch in sent if batch[0] == epoch]
            for _, first, length, offset in same[-5:]:
                if (first, length) == (sequence, count):
                    return offset, True
            expected = (same[-1][1] + same[-1][2]) % (MAX_SEQUENCE + 1) if same else 0
            if sequence != expected:
                return OutOfOrderSequenceNumberError
        sent.append((epoch, sequence, count, self.end))
        self.end += count
        return self.end - count, False


@given(st.integers(0, 1 << 32))
def test_every_answer_is_that_of_the_reference(seed: int) -> None:
    random = Random(seed)
    partition, reference = Partition(), Reference()
    start = random.choice([0, MAX_SEQUENCE - 5])
    for _ in range(60):
        producer, epoch, count = random.randint(1, 2), random.choice([0, 0, 0, 1, 2]), random.randint(1, 3)
        sequence = (start + random.randint(0, 12)) & MAX_SEQUENCE if random.random() < 0.5 else 0
        sent = reference.batches.get(producer)
        if sent and random.random() < 0.7:
            sequence = (sent[-1][1] + sent[-1][2]) & MAX_SEQUENCE
            epoch = sent[-1][0]
        elif sent and random.random() < 0.5:
            epoch, sequence, count, _ = random.choice(sent[-7:])
        wanted = reference.send(producer, epoch, sequence, count)
        if isinstance(wanted, tuple):
            assert partition.send(epoch, sequence, count, producer=producer) == wanted
        else:
            with pytest.raises(wanted):
                partition.send(epoch, sequence, count, producer=producer)
