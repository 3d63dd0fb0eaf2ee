"""Reading one segment whole: its batches with their checksums, and its indexes against them.

Collects facts (`SegmentCheck`); what they mean for the partition, in words, `partition_check` says. Changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.protocol.records.batch import read_header
from ottla.protocol.records.control import ControlType, end_transaction_marker, read_marker
from ottla.protocol.records.reader import read_records
from ottla.storage.damage import Damage
from ottla.storage.index_check import OffsetIndexCheck, TimeIndexCheck, TransactionIndexCheck
from ottla.storage.intact import Batch, read_intact
from ottla.storage.segment import INDEX_SUFFIX, TIME_INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.storage.epoch_check import EpochCheck
    from ottla.storage.index import AbortedTransaction
    from ottla.storage.producer_state import ProducerState
    from ottla.storage.segment import Segment

_REPORT_BYTES = 1 << 20


class SegmentCheck:
    """What a whole read of `segment` shows.

    Attributes:
        damages: what cannot be read, in order.
        misplaced: intact batches with a wrong base offset, as (position, size, right offset, next offset, written offset).
        undecodable: batches whose records cannot be decoded, as (position, size, first offset, next offset, reason).
        holes: offsets that no batch has, as (first, next).
        end_offset: behind the last batch, or damage.
        readable_end: behind the last intact batch, or what stands for one in `lost_aborts`.
        batches: how many are intact.
        index_problem, time_index_problem, transaction_index_problem: "" or what is wrong with the file.
        aborted: what the transaction index should say.
        lost_aborts: aborted transactions whose end marker cannot be read, each with a marker that says the same
            (its leader epoch is still to be set).
        disk_error: the disk refused to go on reading here.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.damages: list[Damage] = []
        self.misplaced: list[tuple[int, int, int, int, int]] = []
        self.undecodable: list[tuple[int, int, int, int, str]] = []
        self.holes: list[tuple[int, int]] = []
        self.end_offset = self.readable_end = segment.base_offset
        self.batches = 0
        self.index_problem = ""
        self.time_index_problem = ""
        self.transaction_index_problem = ""
        self.aborted: list[AbortedTransaction] = []
        self.lost_aborts: list[tuple[AbortedTransaction, bytes]] = []
        self.disk_error: OSError | None = None

    @property
    def must_be_rewritten(self) -> bool:
        """Whether its .log has to be written anew, leader epochs aside."""
        return bool(self.damages or self.misplaced)

    def run(
        self,
        producers: ProducerState,
        epochs: EpochCheck,
        markers: dict[int, int],
        *,
        end_offset: int,
        is_exact: bool,
        deep: bool,
        on_read: Callable[[int], None],
    ) -> None:
        """Read the segment.

        Args:
            producers: the producers' state at the segment's begin; what is read is taken into it.
            epochs: takes every batch.
            markers: by producer id, where its last marker is; brought up to date.
            end_offset: where the log ended, 0 if that is not known.
            is_exact: whether `producers` knows all batches that were ever written before: not where there are holes.
            deep: decompress and decode the records, too.
            on_read: called with the bytes read since the last call.
        """
        try:
            self._run(producers, epochs, markers, end_offset, is_exact, deep, on_read)
        except OSError as error:
            self.disk_error = error

    def _run(
        self,
        producers: ProducerState,
        epochs: EpochCheck,
        markers: dict[int, int],
        end_offset: int,
        is_exact: bool,
        deep: bool,
        on_read: Callable[[int], None],
    ) -> None:
        segment = self.segment
        files = segment.open_files.files
        index = OffsetIndexCheck(segment) if files.exists(segment.path(INDEX_SUFFIX)) else None
        times = TimeIndexCheck(segment) if files.exists(segment.path(TIME_INDEX_SUFFIX)) else None
        transactions = TransactionIndexCheck(segment)
        reported = 0
        for item in read_intact(segment, end_offset):
            if item.end - reported >= _REPORT_BYTES:
                on_read(item.end - reported)
                reported = item.end
            if isinstance(item, Damage):
                self.damages.append(item)
                self.end_offset = item.next_offset
                is_exact = False
                self._restore_aborts(item, producers, markers, transactions)
                continue
            header = item.header
            self.batches += 1
            if header.base_offset > self.end_offset and header.record_count >= 0:
                self.holes.append((self.end_offset, header.base_offset))
                is_exact = False
            self.end_offset = self.readable_end = header.next_offset
            if item.written_offset is not None:
                self.misplaced.append(
                    (item.position, header.size, header.base_offset, header.next_offset, item.written_offset)
                )
            epochs.on_batch(segment, item.position, header)
            if index is not None:
                index.on_batch(item.position, header)
            if times is not None:
                times.on_batch(header)
            if header.producer_id >= 0:
                self._take_in(item, producers, markers, transactions, is_exact)
            if deep:
                self._decode(item)
        on_read(segment.size - reported)
        self.transaction_index_problem = transactions.finish()
        self.aborted = transactions.entries
        self.index_problem = "it is missing" if index is None else index.finish()
        self.time_index_problem = "it is missing" if times is None else times.finish()

    def _restore_aborts(
        self,
        damage: Damage,
        producers: ProducerState,
        markers: dict[int, int],
        transactions: TransactionIndexCheck,
    ) -> None:
        """Where the transaction index names an abort in what cannot be read, and the batches before it agree, end it so.

        Without its end the records of the aborted transaction would be shown as committed ones.
        """
        for entry in transactions.named_in(damage.first_offset, damage.next_offset):
            producer = producers.entries.get(entry.producer_id)
            if producer is None or producer.current_txn_first_offset < 0:
                continue  # none of its records are there
            if not markers.get(entry.producer_id, -1) < entry.first_offset <= entry.last_offset:
                continue
            marker = end_transaction_marker(
                ControlType.ABORT,
                max(producer.coordinator_epoch, 0),
                timestamp_ms=producer.last_timestamp,
                producer_id=entry.producer_id,
                producer_epoch=producer.producer_epoch,
                base_offset=entry.last_offset,
            )
            header = read_header(marker)
            content = read_marker(marker)
            assert content is not None
            producers.add_marker(header, content, entry.last_offset, 0)
            after = markers.get(entry.producer_id, -1)
            transactions.on_abort(header, None, after=after, is_exact=False)
            markers[entry.producer_id] = entry.last_offset
            self.readable_end = max(self.readable_end, entry.last_offset + 1)
            self.lost_aborts.append((entry, bytes(marker)))

    def _take_in(
        self,
        batch: Batch,
        producers: ProducerState,
        markers: dict[int, int],
        transactions: TransactionIndexCheck,
        is_exact: bool,
    ) -> None:
        header = batch.header
        if not header.is_control:
            producers.add_batch(header, header.base_offset, 0)
            return
        try:
            marker = read_marker(batch.data)
        except ValueError as error:
            self.undecodable.append(
                (batch.position, header.size, header.base_offset, header.next_offset, f"a marker that is none: {error}")
            )
            return
        if marker is None:
            return
        completed = producers.add_marker(header, marker, header.base_offset, 0)
        if marker.kind is ControlType.ABORT:
            expected = None if completed is None else producers.aborted_entry(completed)
            after = markers.get(header.producer_id, -1)
            transactions.on_abort(header, expected, after=after, is_exact=is_exact)
        markers[header.producer_id] = header.base_offset

    def _decode(self, batch: Batch) -> None:
        header = batch.header
        try:
            records = read_records(batch.data)
        except ValueError as error:
            reason = str(error)
        else:
            is_too_far = bool(records) and batch.written_offset is None and records[-1].offset > header.last_offset
            reason = f"it has a record with offset {records[-1].offset}" if is_too_far else ""
        if reason and not header.is_control:
            self.undecodable.append((batch.position, header.size, header.base_offset, header.next_offset, reason))
