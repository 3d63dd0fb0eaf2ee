"""Appends of a follower: batches come from the leader with their offsets, and are appended as they are.

The leader has checked them; here their checksums, their order and their leader epochs are checked, because they came over
a network. Source: Kafka's UnifiedLog.appendAsFollower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.errors import CorruptMessageError, NotLeaderOrFollowerError, OffsetOutOfRangeError
from ottla.protocol.records.batch import MAGIC, BatchHeader
from ottla.protocol.records.control import read_marker
from ottla.protocol.records.formats import check_any_crc
from ottla.protocol.records.walk import DamagedBatchError, iter_batches
from ottla.storage.appended import NOT_LED, AppendInfo

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog

_Batches = list[tuple[int, BatchHeader]]
"""Position in the leader's answer, and header."""


class FollowerAppender:
    """Appends to one log what its leader sent."""

    __slots__ = ("_log",)

    def __init__(self, log: PartitionLog) -> None:
        self._log = log

    def append_as_follower(
        self, records: bytearray | memoryview, *, now_ms: int = -1, leader_epoch: int | None = None
    ) -> AppendInfo:
        """Append whole batches from a leader as they are; they were checked there and have their offsets.

        Messages of formats 0 and 1, which the leader has from an older Kafka, are taken as they are, too. The last batch
        may have been cut by the size of the answer; it is left out.

        Args:
            now_ms: when producers have been heard of: their batches may have old timestamps, and a producer that is forgotten
                for these sends duplicates to the next leader.
            leader_epoch: in which the leader is followed; another role by the time of the append's turn refuses it. None: not
                checked, no broker is followed.

        Raises:
            NotLeaderOrFollowerError: this log follows no leader of that epoch, or a batch is of an older epoch than the log
                or of a newer one than that; nothing was appended.
            CorruptMessageError: the bytes are no batches, or a CRC is wrong; nothing was appended.
            OffsetOutOfRangeError: they do not continue this log; nothing was appended.
            KafkaStorageError, StorageError: as for a leader. Batches before the failing one may have been appended.
        """
        log = self._log
        try:
            batches = list(iter_batches(records, may_be_cut=True))
        except DamagedBatchError as error:
            raise CorruptMessageError(f"{log.topic_partition}: from the leader came {error}") from error
        if not batches:
            if records:
                raise CorruptMessageError(
                    f"{log.topic_partition}: {len(records)} bytes of a leader hold no whole batch"
                )
            return AppendInfo(-1, -1, -1, log.log_start_offset)
        with log.lock:
            log.health.check()
            check_followed(log, leader_epoch)
            # An epoch that this broker led in without a record is no part of the log: what comes now may be of an older one.
            log.leader_epochs.truncate_end(log.log_end_offset)
            self._check(records, batches, leader_epoch)
            self._append(memoryview(records), batches, now_ms)
        return AppendInfo(batches[0][1].base_offset, batches[-1][1].last_offset, -1, log.log_start_offset)

    def _check(self, records: bytearray | memoryview, batches: _Batches, leader_epoch: int | None) -> None:
        """Check that the batches are whole, and continue this log in offsets and leader epochs.

        A leader's log holds no newer epoch than its own. But an answer is sent from the file, late perhaps: who sent it may
        follow another leader by then, and have cut its log and gone on with that one's batches. Behind what was sent before
        the cut they would be a log that no leader has, and that looks right at its end (Kafka's KAFKA-18723).
        """
        log = self._log
        expected, epoch = log.log_end_offset, log.leader_epochs.latest
        for position, header in batches:
            if 0 <= header.partition_leader_epoch < epoch:
                raise NotLeaderOrFollowerError(
                    f"{log.topic_partition}: a replicated batch at {header.base_offset} has leader epoch "
                    f"{header.partition_leader_epoch}, the log holds {epoch}"
                )
            if leader_epoch is not None and header.partition_leader_epoch > leader_epoch:
                raise NotLeaderOrFollowerError(
                    f"{log.topic_partition}: a replicated batch at {header.base_offset} has leader epoch "
                    f"{header.partition_leader_epoch}, the leader that is followed has {leader_epoch}"
                )
            epoch = max(epoch, header.partition_leader_epoch)
            if header.base_offset < expected:
                raise OffsetOutOfRangeError(
                    f"{log.topic_partition}: a replicated batch begins at {header.base_offset}, "
                    f"the log goes on at {expected}"
                )
            if not check_any_crc(records, position, header):
                raise CorruptMessageError(f"{log.topic_partition}: the batch at {header.base_offset} is damaged")
            expected = header.next_offset

    def _append(self, view: memoryview, batches: _Batches, now_ms: int) -> None:
        """Write the batches in as few runs as the ends of segments allow."""
        log, writer = self._log, self._log.writer
        run: _Batches = []
        for at, header in batches:
            size = at + header.size - (run[0][0] if run else at)
            first, last, stamp = header.base_offset, header.last_offset, header.max_timestamp
            is_full = run and log.active_segment.size + size > log.config.segment_bytes
            if is_full or writer.should_roll(size, last, stamp, now_ms):
                self._append_run(view, run, now_ms)
                run = []
                if writer.should_roll(header.size, last, stamp, now_ms):
                    # Of a wrapper of format 0 or 1 the header holds the last offset only.
                    begins_at = first if header.magic == MAGIC else log.log_end_offset
                    writer.roll(max(begins_at, log.log_end_offset), now_ms)
            run.append((at, header))
        self._append_run(view, run, now_ms)

    def _append_run(self, view: memoryview, run: _Batches, now_ms: int) -> None:
        if not run:
            return
        writer, epochs = self._log.writer, self._log.leader_epochs
        start = run[0][0]
        end = run[-1][0] + run[-1][1].size
        position = writer.write(view[start:end])
        for at, header in run:
            if header.partition_leader_epoch > epochs.latest:
                epochs.assign(header.partition_leader_epoch, header.base_offset)
            marker = read_marker(view, at) if header.is_control and header.producer_id >= 0 else None
            writer.note(header, header.base_offset, position + at - start, marker, now_ms)
        self._log.appender.publish(run[-1][1].next_offset)


def check_followed(log: PartitionLog, leader_epoch: int | None) -> None:
    """Check, with the lock held, that the log follows the leader of this epoch; None: that it is not led here.

    Raises:
        NotLeaderOrFollowerError: it does not.
    """
    appender = log.appender
    if appender.led_epoch != NOT_LED:
        raise NotLeaderOrFollowerError(f"{log.topic_partition} is led here, in epoch {appender.led_epoch}")
    if leader_epoch is not None and appender.followed_epoch != leader_epoch:
        raise NotLeaderOrFollowerError(f"{log.topic_partition} follows no leader of epoch {leader_epoch}")
