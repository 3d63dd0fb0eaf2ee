"""`ottla log repair`: a partition whose files do not add up is made whole again, without what cannot be read.

First look (`Repair.look`), then say what will be lost and done (`losses`, `steps`), then act (`copy`, `perform`). Every
readable batch stays byte for byte, but for the two fields that its checksum does not cover, where these can have one value
only. Offsets stay: what is lost is a hole; at the end of the log an empty batch takes its place, because consumers pass a
hole only where a batch follows.

Invariant: between any two steps the directory opens, with the old state or the new one. Segments are replaced as the cleaner
replaces them (`rewrite`), small files by a rename each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.errors import StorageError
from ottla.storage.checkpoints import (
    LEADER_EPOCH_FILE,
    PARTITION_METADATA_FILE,
    CorruptCheckpointError,
    decode_offsets,
    decode_partition_metadata,
    encode_offsets,
    encode_partition_metadata,
)
from ottla.storage.directory_state import lock_directory, parent_of, read_directory
from ottla.storage.findings import Finding, Kind, offset_range
from ottla.storage.leader_epochs import LeaderEpochs
from ottla.storage.log_directory import parse_partition_name
from ottla.storage.open_files import OpenFiles
from ottla.storage.partition_check import PartitionCheck, segment_bases
from ottla.storage.partition_copy import copy_aside, copy_name, directory_bytes
from ottla.storage.producer_state import ProducerState
from ottla.storage.recovery import finish_compaction, replay_producers
from ottla.storage.rewrite import INDEX_INTERVAL_BYTES, fill_end, rewrite
from ottla.storage.segment import (
    LOG_SUFFIX,
    SNAPSHOT_SUFFIX,
    Segment,
    file_name,
    link_segments,
)

if TYPE_CHECKING:
    from ottla.storage.files import FileLock, Files
    from ottla.storage.segment_check import SegmentCheck
    from ottla.types import TopicPartition

#: Room for indexes and small files, beside the largest segment.
_SPARE_BYTES = 1 << 20


class Repair:
    """The repair of the partition in `directory`.

    Attributes:
        findings: what `look` found, notes included.
        copy_path: where the copy is, or will be.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        unique: bytes,
        *,
        copy_parent: str | None = None,
        on_bytes: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Nothing is touched before `open`.

        Args:
            files: the file system.
            directory: the partition's.
            unique: makes the name of the copy unique.
            copy_parent: where the copy goes; the directory that holds the partition's unless given.
            on_bytes: called with the bytes read, copied or written since the last call.

        Raises:
            StorageError: the directory's name is no partition's.
        """
        self._files = files
        self._directory = directory.rstrip("/")
        name = self._directory.rpartition("/")[2]
        topic_partition = parse_partition_name(name)
        if topic_partition is None:
            raise StorageError(f"{name} is no partition: its directory has the name TOPIC-PARTITION")
        self.topic_partition: TopicPartition = topic_partition
        self._home = parent_of(self._directory)
        self._unique = unique
        self._copy_parent = (copy_parent or self._home).rstrip("/") or "/"
        self.copy_path = f"{self._copy_parent}/{copy_name(topic_partition, unique)}"
        self._on_bytes = on_bytes
        self._open_files = OpenFiles(files, 64)
        self._lock: FileLock | None = None
        self.findings: list[Finding] = []
        self._check: PartitionCheck | None = None

    def open(self) -> None:
        """Keep brokers out.

        Raises:
            InUseError: one runs.
            StorageError: there is no such partition.
            OSError: the disk failed.
        """
        if not self._files.is_dir(self._directory):
            raise StorageError(f"there is no directory {self._directory}")
        state = read_directory(self._files, self._home)
        self._lock = lock_directory(self._files, self._home, create=state.is_log_directory)

    def close(self) -> None:
        """Let brokers in."""
        self._open_files.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    # Looking

    def total_bytes(self) -> int:
        """Return how much `look` reads."""
        return self._new_check().total_bytes()

    def look(self) -> None:
        """Read everything and find out what has to be done.

        Raises:
            StorageError: the disk refuses to read a part of it, so nothing must be written there; or there is something
                with a name that brokers stop at.
            OSError: the disk failed.
        """
        self._check = check = self._new_check()
        self.findings = list(check.run())
        failed = next((finding for finding in self.findings if finding.kind in (Kind.DISK, Kind.ODD_NAME)), None)
        if failed is not None:
            raise StorageError(f"{failed.partition} {failed.file}: {failed.problem}; {failed.remedy}")

    def _new_check(self) -> PartitionCheck:
        known = read_directory(self._files, self._home).known(self.topic_partition)
        return PartitionCheck(
            self._open_files, self._directory, self.topic_partition, known, on_read=lambda count: self._on_bytes(count)
        )

    @property
    def check(self) -> PartitionCheck:
        """What `look` read last."""
        assert self._check is not None, "look first"
        return self._check

    @property
    def has_work(self) -> bool:
        """Whether there is anything to mend: the torn end of an unclean stop, alone, is the next start's business."""
        return bool(_to_mend(self.findings))

    def losses(self) -> list[str]:
        """Return what cannot be brought back, one line each; empty if all of it can."""
        lines = []
        size = offsets = 0
        for segment in self.check.segments:
            name = f"{file_name(segment.segment.base_offset)}{LOG_SUFFIX}"
            for damage in segment.damages:
                size += damage.end - damage.position
                offsets += damage.next_offset - damage.first_offset
                where = offset_range(damage.first_offset, damage.next_offset)
                lines.append(f"{where}: {damage.end - damage.position} bytes of {name} ({damage.reason})")
        check = self.check
        if check.batches_end < check.end_offset:
            offsets += check.end_offset - check.batches_end
            lines.append(f"{offset_range(check.batches_end, check.end_offset)}: their bytes are not there any more")
        if offsets:
            lines.append(
                f"in all {size} bytes and at most {offsets} offsets; how many records these were cannot be known"
            )
        elif size:
            lines.append(f"in all {size} bytes and no offset")
        return lines

    def steps(self) -> list[str]:
        """Return what `perform` will do, one line each; empty if there is nothing to do."""
        check = self.check
        lines = []
        wrong_epochs = self._segments_with_wrong_epochs()
        # What compaction left behind is no reason to repair: the next start does it.
        for segment in check.segments:
            base = segment.segment.base_offset
            if segment.must_be_rewritten:
                lines.append(
                    f"write segment {base} anew: {segment.batches} readable batches as they are, and its indexes"
                )
            elif base in wrong_epochs:
                lines.append(f"write segment {base} anew, with the right leader epochs")
            elif self._wrong_indexes(segment):
                lines.append(f"build the indexes of segment {base} anew")
            lines += [
                f"write the end marker of an aborted transaction of producer {entry.producer_id} anew, at offset "
                f"{entry.last_offset}: the transaction index names it"
                for entry, _ in segment.lost_aborts
            ]
            if segment.misplaced:
                lines.append(f"set the offsets of {len(segment.misplaced)} batches of segment {base} right")
        if check.is_end_missing:
            lines.append(
                f"write an empty batch for {offset_range(check.readable_end, check.end_offset)}: consumers pass, and no "
                "offset is given twice"
            )
        if check.orphans:
            lines.append(f"remove {', '.join(check.orphans)}, whose segment is not there")
        if check.wrong_snapshots:
            lines.append(f"write anew, or remove, {len(check.wrong_snapshots)} producer snapshots")
        if self._epochs_to_write() is not None:
            lines.append(f"write {LEADER_EPOCH_FILE} anew")
        if check.is_metadata_wrong:
            lines.append(f"take the topic's id from another partition, or remove {PARTITION_METADATA_FILE}")
        lines += [f"set the row of {self.topic_partition} in {name} right" for name in check.wrong_rows]
        if lines and check.has_leftovers:
            lines.insert(0, "finish what compaction, or a repair, left behind")
        return lines

    def _segments_with_wrong_epochs(self) -> set[int]:
        bases = [segment.segment.base_offset for segment in self.check.segments]
        wrong: set[int] = set()
        for run in self.check.epochs.wrong:
            wrong |= {base for base in bases if run.segment.base_offset <= base < run.next_offset}
        return wrong

    def _wrong_indexes(self, segment: SegmentCheck) -> bool:
        is_told = {finding.file for finding in self.findings if finding.kind in _INDEX_KINDS}
        stem = file_name(segment.segment.base_offset)
        return any(name.startswith(stem) for name in is_told)

    # Acting

    def bytes_needed(self) -> tuple[int, int]:
        """Return how many bytes the copy takes, and how many the work beside it takes at most at once."""
        largest = max((segment.segment.size for segment in self.check.segments), default=0)
        return directory_bytes(self._files, self._directory), largest + _SPARE_BYTES

    def check_space(self) -> None:
        """Check that there is room for the copy and for the work.

        Raises:
            StorageError: there is not.
            OSError: the place for the copy cannot be used.
        """
        for_copy, for_work = self.bytes_needed()
        is_same_place = self._copy_parent == self._home
        needed = for_copy + (for_work if is_same_place else 0)
        free = self._files.disk_usage(self._copy_parent)[1]
        if free < needed:
            raise StorageError(
                f"{self._copy_parent} has {free} bytes free, {needed} are needed for the copy: make room, "
                "or name another place for the copy with --copy-to"
            )
        if not is_same_place and self._files.disk_usage(self._home)[1] < for_work:
            raise StorageError(
                f"{self._home} has too little room: {for_work} bytes are needed while segments are written"
            )

    def copy(self) -> str:
        """Copy the partition's directory aside; return where it is.

        Raises:
            StorageError, OSError: as `copy_aside`; nothing was changed.
        """
        return copy_aside(
            self._files,
            self._directory,
            self._copy_parent,
            self.topic_partition,
            self._unique,
            lambda count: self._on_bytes(count),
        )

    def perform(self) -> list[Finding]:
        """Mend everything, then read everything again; return what is wrong still.

        Raises:
            OSError: the disk failed or is full. The directory opens nevertheless; the repair may be run again.
        """
        self._mend_epochs()
        if self.check.has_leftovers:
            finish_compaction(self._open_files, self._directory)
            self.look()
        self._mend()
        self.look()
        left = _to_mend(self.findings)
        if left and all(finding.kind in _INDEX_KINDS for finding in left):
            # Where damage was, less was known of the transactions behind it than is now.
            self._mend_epochs()
            self._mend()
            self.look()
        return _to_mend(self.findings)

    def _mend_epochs(self) -> None:
        """First of all: a broker may refuse to lead a log whose file has an epoch that is larger than its own."""
        epochs = self._epochs_to_write()
        if epochs is not None:
            self._write(LEADER_EPOCH_FILE, epochs.encode())

    def _mend(self) -> None:
        check = self.check
        for name in check.orphans:
            self._files.remove(f"{self._directory}/{name}")
        wrong_epochs = self._segments_with_wrong_epochs()
        for segment in check.segments:
            if segment.must_be_rewritten or segment.segment.base_offset in wrong_epochs:
                self._rewrite(segment)
            elif self._wrong_indexes(segment):
                self._rebuild_indexes(segment)
        if check.is_end_missing:
            epoch = check.epochs.epochs.latest
            fill_end(self._open_files, self._directory, check.readable_end, check.end_offset, epoch)
        self._mend_snapshots()
        if check.is_metadata_wrong:
            self._mend_metadata()
        for name, offset in check.wrong_rows.items():
            self._mend_row(name, offset)
        self._files.sync_dir(self._directory)

    def _epochs_to_write(self) -> LeaderEpochs | None:
        """Return what leader-epoch-checkpoint has to say; None if it says that."""
        check = self.check
        if check.are_epochs_wrong:
            return check.epochs.epochs
        if check.file_epochs is None or not check.is_end_missing or not check.epochs.epochs.entries:
            return None
        # What is written behind the last batch has its epoch: nothing can be read of those that began there.
        epochs = LeaderEpochs(check.file_epochs.entries)
        epochs.truncate_end(check.epochs.end_offset)
        return epochs if epochs.is_dirty else None

    def _write(self, name: str, data: bytes) -> None:
        self._files.write_atomic(f"{self._directory}/{name}", data)

    def _rewrite(self, old: SegmentCheck) -> None:
        end_offset = self.check.witnessed_end if old.segment is self._last else 0
        rewrite(old, end_offset, self._right_epoch, self._on_bytes)

    @property
    def _last(self) -> Segment:
        return self.check.segments[-1].segment

    def _right_epoch(self, offset: int, epoch: int) -> int:
        """Return the leader epoch that the batch at `offset`, which says `epoch`, should have."""
        runs = self.check.epochs.wrong
        is_wrong = epoch < 0 or any(run.epoch == epoch and run.start_offset <= offset < run.next_offset for run in runs)
        return self.check.right_epoch(offset) if is_wrong else epoch

    def _rebuild_indexes(self, check: SegmentCheck) -> None:
        segment = check.segment
        segment.rebuild_indexes(INDEX_INTERVAL_BYTES)
        segment.transaction_index.replace(check.aborted)
        segment.sync_indexes()
        segment.close()

    def _mend_snapshots(self) -> None:
        """Write damaged producer snapshots anew from an older one and the batches; remove them where these do not reach."""
        check, files = self.check, self._files
        if not check.wrong_snapshots:
            return
        names = files.listdir(self._directory)
        intact = [
            offset for offset in segment_bases(names, SNAPSHOT_SUFFIX) if offset not in set(check.wrong_snapshots)
        ]
        segments = [Segment(self._open_files, self._directory, base) for base in segment_bases(names)]
        for offset in check.wrong_snapshots:
            path = f"{self._directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"
            if not segments or not segments[0].base_offset < offset <= check.end_offset:
                files.remove(path)
                continue
            link_segments(segments)
            producers = ProducerState(self.topic_partition, 1 << 62)
            replay_producers(producers, segments, intact, 0, offset, 0, self._directory, removes_damaged=False)
            files.write_atomic(path, producers.snapshot())
            intact.append(offset)
        for segment in segments:
            segment.close()

    def _mend_metadata(self) -> None:
        """Take the topic's id from another partition of the topic; without one the broker writes it anew."""
        topic = self.topic_partition.topic
        for name in self._files.listdir(self._home):
            other = parse_partition_name(name)
            path = f"{self._home}/{name}/{PARTITION_METADATA_FILE}"
            if (
                other is not None
                and other.topic == topic
                and other != self.topic_partition
                and self._files.exists(path)
            ):
                try:
                    topic_id = decode_partition_metadata(self._files.read_bytes(path), path)
                except CorruptCheckpointError:
                    continue
                self._write(PARTITION_METADATA_FILE, encode_partition_metadata(topic_id))
                return
        self._files.remove(f"{self._directory}/{PARTITION_METADATA_FILE}")

    def _mend_row(self, name: str, offset: int | None) -> None:
        path = f"{self._home}/{name}"
        rows = decode_offsets(self._files.read_bytes(path), path)
        if offset is None:
            rows.pop(self.topic_partition, None)
        else:
            rows[self.topic_partition] = offset
        self._files.write_atomic(path, encode_offsets(rows))


_INDEX_KINDS = frozenset({Kind.OFFSET_INDEX, Kind.TIME_INDEX, Kind.TRANSACTION_INDEX})
#: What a repair leaves on purpose.
_STAY = frozenset({Kind.UNDECODABLE})


def _to_mend(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.is_wrong and finding.kind not in _STAY]
