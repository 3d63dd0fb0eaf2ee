"""Checking one partition's directory while no broker runs: reads everything, changes nothing, says what is wrong where.

`run` yields findings in the order in which they come up; afterwards the attributes hold what `repair` needs. What the
findings say about the future is what `recovery` and `log` do at the next start.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ottla.storage.checkpoints import (
    CLEANER_FILE,
    HIGH_WATERMARK_FILE,
    LEADER_EPOCH_FILE,
    LOG_START_FILE,
    PARTITION_METADATA_FILE,
    RECOVERY_POINT_FILE,
    CorruptCheckpointError,
    decode_partition_metadata,
)
from ottla.storage.directory_state import KnownOffsets
from ottla.storage.epoch_check import EpochCheck
from ottla.storage.findings import Finding, Kind, offset_range
from ottla.storage.leader_epochs import LeaderEpochs
from ottla.storage.producer_state import ProducerState, SnapshotError, read_snapshot
from ottla.storage.recovery import LEFTOVER_SUFFIXES, replaced_by
from ottla.storage.segment import (
    CLEANED_SUFFIX,
    DELETED_SUFFIX,
    LOG_SUFFIX,
    SEGMENT_SUFFIXES,
    SNAPSHOT_SUFFIX,
    SWAP_SUFFIX,
    Segment,
    file_name,
    link_segments,
)
from ottla.storage.segment_check import SegmentCheck
from ottla.storage.segment_findings import SegmentFindings
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.storage.open_files import OpenFiles

_SEGMENT_FILE = re.compile(r"([0-9]{20})(\.log|\.index|\.timeindex|\.txnindex|\.snapshot)")
_LEFTOVER_FILE = re.compile(_SEGMENT_FILE.pattern + r"(\.swap|\.cleaned|\.deleted)")
_OFFSET_MAX = (1 << 63) - 1
_KINDS = (*SEGMENT_SUFFIXES, SNAPSHOT_SUFFIX)
_LEFTOVERS = {
    CLEANED_SUFFIX: "compaction or a repair was writing it when the broker died",
    SWAP_SUFFIX: "compaction or a repair had written it and was about to put it in its place",
    DELETED_SUFFIX: "a file of a deleted segment that waited for its removal",
    ".tmp": "a file that was being written when the broker died",
}


def segment_bases(names: list[str], kind: str = LOG_SUFFIX) -> list[int]:
    """Return the offsets of the files of one kind in a partition's directory, smallest first."""
    return sorted(int(found[1]) for name in names if (found := _SEGMENT_FILE.fullmatch(name)) and found[2] == kind)


def odd_name(name: str, *, is_directory: bool) -> str:
    """Return why a broker may stop at a name in a partition's directory; "" if it does not."""
    found = _SEGMENT_FILE.fullmatch(name) or _LEFTOVER_FILE.fullmatch(name)
    is_small_file = name in (LEADER_EPOCH_FILE, PARTITION_METADATA_FILE)
    if is_directory:
        is_for_file = found is not None or is_small_file or name.endswith(LEFTOVER_SUFFIXES)
        return "a directory, where a broker reads or removes a file" if is_for_file else ""
    if found is not None:
        return "its number is larger than any offset" if int(found[1]) > _OFFSET_MAX else ""
    has_number = name[:20].isdigit() and name[20:21] == "." and not name.endswith(".tmp")
    is_odd = name.endswith(SWAP_SUFFIX) or (has_number and name.endswith((*_KINDS, *LEFTOVER_SUFFIXES)))
    return "it has the name of a segment's file without being one: 20 ASCII digits have to come first" if is_odd else ""


class PartitionCheck:
    """One look at the partition in `directory`.

    Attributes:
        name: of the directory.
        names: of the files in it, but those that a broker stops at.
        segments: what each of them showed, oldest first.
        end_offset: where the log ends, or, if that is more, where witnesses say that it ended.
        witnessed_end: what these say; 0 if they do not agree.
        batches_end: behind the last batch, or damage.
        readable_end: behind the last batch of the log that can be read; its start if there is none.
        orphans: files of segments whose .log is missing.
        wrong_snapshots: offsets of producer snapshots that are damaged, or lie behind the end.
        wrong_rows: by checkpoint file, the offset that the row should have; None: it should go.
        epochs: leader epochs against the batches.
        file_epochs: leader-epoch-checkpoint; None if it cannot be read.
        topic_id: what partition.metadata says; None if it is missing or cannot be read.
        are_epochs_wrong, is_metadata_wrong: whether these files have to be written anew.
        is_end_missing: whether the offsets from `readable_end` up to `end_offset` are lost, and no batch comes behind them.
        has_leftovers: whether something waits to be finished or removed.
    """

    def __init__(
        self,
        open_files: OpenFiles,
        directory: str,
        topic_partition: TopicPartition | None,
        known: KnownOffsets,
        *,
        deep: bool = False,
        on_read: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self.directory = directory
        self.name = directory.rpartition("/")[2]
        self.known = known
        self.topic_partition = topic_partition or TopicPartition(self.name, 0)
        self.names: list[str] = []
        self.segments: list[SegmentCheck] = []
        self.end_offset = 0
        self.witnessed_end = 0
        self.batches_end = 0
        self.readable_end = 0
        self.orphans: list[str] = []
        self.wrong_snapshots: list[int] = []
        self.wrong_rows: dict[str, int | None] = {}
        self.epochs = EpochCheck()
        self.file_epochs: LeaderEpochs | None = None
        self.are_epochs_wrong = False
        self.topic_id: bytes | None = None
        self.is_metadata_wrong = False
        self.is_end_missing = False
        self.has_leftovers = False
        self._useless_swaps: set[int] = set()
        self._odd_names: dict[str, str] = {}
        self._open_files = open_files
        self._files = open_files.files
        self._deep = deep
        self._on_read = on_read

    def total_bytes(self) -> int:
        """Return how much `run` will report to `on_read`."""
        self._list_names()
        return sum(self._files.size(f"{self.directory}/{name}") for name in self.names if LOG_SUFFIX in name)

    def _list_names(self) -> None:
        self.names, self._odd_names = [], {}
        for name in self._files.listdir(self.directory):
            problem = odd_name(name, is_directory=self._files.is_dir(f"{self.directory}/{name}"))
            if problem:
                self._odd_names[name] = problem
            else:
                self.names.append(name)

    def run(self) -> Iterator[Finding]:
        """Read everything.

        Raises:
            OSError: the directory cannot be read.
        """
        self._list_names()
        segments = self._list_segments()
        yield from self._check_names()
        snapshots, damaged = self._read_snapshots()
        newest = max(snapshots, default=0)
        witnessed = self.witnessed_end = self.known.end_offset(newest)
        recovered = self._first_recovered(segments)
        yield from self._check_segments(segments, witnessed, recovered)
        self.batches_end = self.segments[-1].end_offset if self.segments else 0
        self.end_offset = max(self.batches_end, witnessed)
        yield from self._check_end(witnessed)
        yield from self._tell_holes()
        yield from self._check_snapshots(snapshots, damaged)
        yield from self._check_epochs(segments, recovered)
        yield from self._check_metadata()
        yield from self._check_rows()

    def _finding(self, kind: Kind, file: str, problem: str, consequence: str, remedy: str, **ranges: int) -> Finding:
        return Finding(
            kind=kind,
            partition=self.name,
            file=file,
            problem=problem,
            consequence=consequence,
            remedy=remedy,
            **ranges,
        )

    # What is in the directory

    def _check_names(self) -> Iterator[Finding]:
        for name, problem in self._odd_names.items():
            yield self._finding(
                Kind.ODD_NAME, name, problem, "the partition may not open", "cannot before you have moved it away"
            )
        bases = {int(name[:20]) for name in self.names if re.match(r"[0-9]{20}\.log(\.swap)?$", name)}
        for name in self.names:
            found = _SEGMENT_FILE.fullmatch(name)
            if found is not None:
                if found[2] in SEGMENT_SUFFIXES and int(found[1]) not in bases:
                    self.orphans.append(name)
                    yield self._finding(
                        Kind.MISSING_SEGMENT,
                        name,
                        f"the segment's {LOG_SUFFIX} is missing",
                        "the broker removes this file at the next start; the records are not there",
                        "removes this file",
                    )
            elif suffix := next((suffix for suffix in LEFTOVER_SUFFIXES if name.endswith(suffix)), None):
                self.has_leftovers = True
                is_swap = suffix == SWAP_SUFFIX
                is_useless = is_swap and any(name.startswith(file_name(base)) for base in self._useless_swaps)
                does = "finishes that" if is_swap and not is_useless else "removes it"
                problem = _LEFTOVERS[suffix] + (
                    "; it cannot be read whole, and the segments that it was to replace are there" if is_useless else ""
                )
                yield self._finding(Kind.LEFTOVER, name, problem, f"the broker {does} at the next start", does)
            elif name not in (LEADER_EPOCH_FILE, PARTITION_METADATA_FILE):
                yield self._finding(
                    Kind.UNKNOWN_FILE, name, "no file of a log", "nothing: brokers leave it alone", "leaves it alone"
                )

    def _list_segments(self) -> list[Segment]:
        """Return the segments as they are once a swap that was interrupted is finished."""
        suffix = LOG_SUFFIX + SWAP_SUFFIX
        cleaned = [int(name[:20]) for name in self.names if name.endswith(CLEANED_SUFFIX) and name[:20].isdigit()]
        first_cleaned = min(cleaned, default=1 << 63)
        segments = [Segment(self._open_files, self.directory, base) for base in segment_bases(self.names)]
        for name in self.names:
            if name.endswith(suffix) and name[:20].isdigit() and int(name[:20]) < first_cleaned:
                swap = Segment(self._open_files, self.directory, int(name[:20]), suffix=SWAP_SUFFIX)
                replaced = replaced_by(swap, self.names)
                if replaced is None:
                    self._useless_swaps.add(swap.base_offset)
                    continue
                gone = set(segment_bases(replaced))
                segments = [segment for segment in segments if segment.base_offset not in gone]
                segments.append(swap)
        segments.sort(key=lambda segment: segment.base_offset)
        return link_segments(segments) if segments else []

    def _first_recovered(self, segments: list[Segment]) -> int | None:
        """Return the number of the first segment that the next start reads again, None after a clean stop."""
        if self.known.is_clean:
            return None
        bases = [segment.base_offset for segment in segments]
        return max(bisect_left(bases, self.known.recovery_point or 0) - 1, 0)

    # Segments

    def _check_segments(self, segments: list[Segment], witnessed: int, recovered: int | None) -> Iterator[Finding]:
        producers = ProducerState(self.topic_partition, 1 << 62)
        markers: dict[int, int] = {}
        findings = SegmentFindings(self.name, self.names, self.known)
        is_exact = self.known.cleaned_to is None
        if segments and segments[0].base_offset:
            is_exact = self._load_first_snapshot(producers, segments[0].base_offset) and is_exact
        for number, segment in enumerate(segments):
            is_last = number + 1 == len(segments)
            check = SegmentCheck(segment)
            self.segments.append(check)
            check.run(
                producers,
                self.epochs,
                markers,
                end_offset=witnessed if is_last else 0,
                is_exact=is_exact,
                deep=self._deep,
                on_read=self._on_read,
            )
            segment.forget()
            is_whole = not (check.damages or check.holes or check.disk_error)
            is_exact = is_exact and is_whole and (is_last or check.end_offset == segment.next_base_offset)
            is_recovered = recovered is not None and number >= recovered
            yield from findings.of(check, is_last=is_last, is_recovered=is_recovered)

    def _load_first_snapshot(self, producers: ProducerState, offset: int) -> bool:
        """Load what was known where the log begins now; return whether that is there."""
        try:
            data = self._files.read_bytes(f"{self.directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}")
            producers.load(data, offset, 0)
        except (OSError, SnapshotError):
            return False
        return True

    # The log as a whole

    def _check_end(self, witnessed: int) -> Iterator[Finding]:
        last = self.segments[-1] if self.segments else None
        if last is None or last.disk_error is not None:
            return
        with_batches = [check for check in self.segments if check.batches or check.lost_aborts]
        self.readable_end = with_batches[-1].readable_end if with_batches else self.segments[0].segment.base_offset
        damages = [damage for check in self.segments for damage in check.damages]
        is_end_damaged = any(damage.next_offset > self.readable_end for damage in damages)
        # Compaction, too, may leave no batch at the end: then nothing is damaged, and nothing says that there was more.
        self.is_end_missing = self.readable_end < self.end_offset and (is_end_damaged or self.batches_end < witnessed)
        if self.batches_end < witnessed:
            yield self._finding(
                Kind.MISSING_END,
                "",
                f"the batches end at offset {self.batches_end}, but the log had reached {witnessed}",
                "fetches of these offsets get CORRUPT_MESSAGE"
                if self.known.is_clean
                else "new records get these offsets",
                "writes an empty batch that takes these offsets: consumers pass, and no offset is given twice",
                first_offset=self.batches_end,
                next_offset=witnessed,
            )

    def _tell_holes(self) -> Iterator[Finding]:
        if self.known.cleaned_to is not None:
            return
        holes: list[tuple[int, int, str]] = []
        previous: SegmentCheck | None = None
        for check in self.segments:
            name = f"{file_name(check.segment.base_offset)}{LOG_SUFFIX}"
            if previous is not None and previous.end_offset < check.segment.base_offset:
                holes.append((previous.end_offset, check.segment.base_offset, f"before {name}"))
            holes += [(first, behind, f"in {name}") for first, behind in check.holes]
            previous = check
        if holes:
            first, behind, where = holes[0]
            more = f", and {len(holes) - 1} more holes" if len(holes) > 1 else ""
            missing = sum(behind - first for first, behind, _ in holes)
            yield self._finding(
                Kind.HOLE,
                "",
                f"no batch has {offset_range(first, behind)} ({where}{more}; {missing} offsets in all); compaction and "
                "repairs leave holes, in a topic that was never compacted or repaired records are missing",
                "consumers go on behind it without an error",
                "leaves it",
                first_offset=first,
                next_offset=behind,
            )

    # Snapshots

    def _read_snapshots(self) -> tuple[list[int], dict[int, str]]:
        """Return the offsets of the intact producer snapshots, and what is wrong with the others."""
        intact: list[int] = []
        damaged: dict[int, str] = {}
        for offset in segment_bases(self.names, SNAPSHOT_SUFFIX):
            try:
                read_snapshot(self._files.read_bytes(f"{self.directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"))
                intact.append(offset)
            except SnapshotError as error:
                damaged[offset] = str(error)
            except OSError as error:
                damaged[offset] = f"the disk refuses to read it: {error.strerror or error}"
        return intact, damaged

    def _check_snapshots(self, intact: list[int], damaged: dict[int, str]) -> Iterator[Finding]:
        for offset, reason in damaged.items():
            self.wrong_snapshots.append(offset)
            yield self._finding(
                Kind.SNAPSHOT,
                f"{file_name(offset)}{SNAPSHOT_SUFFIX}",
                f"the producer snapshot is damaged: {reason}",
                "the broker removes it when it meets it, and reads the batches behind an older one instead",
                "writes it anew from the batches",
            )
        for offset in intact:
            if offset > self.end_offset and self.known.is_clean:
                self.wrong_snapshots.append(offset)
                yield self._finding(
                    Kind.SNAPSHOT,
                    f"{file_name(offset)}{SNAPSHOT_SUFFIX}",
                    f"a producer snapshot behind the end of the log, which is {self.end_offset}: records may be missing",
                    "the broker removes it at the next start",
                    "removes it",
                )

    # Small files

    def _check_epochs(self, segments: list[Segment], recovered: int | None) -> Iterator[Finding]:
        self.epochs.finish()
        up_to = self.batches_end if recovered is None or not segments else segments[recovered].base_offset
        problem = ""
        if LEADER_EPOCH_FILE in self.names:
            try:
                data = self._files.read_bytes(f"{self.directory}/{LEADER_EPOCH_FILE}")
                self.file_epochs = LeaderEpochs.decode(data, LEADER_EPOCH_FILE)
                problem = self.epochs.compare(self.file_epochs, up_to)
            except CorruptCheckpointError as error:
                problem = str(error).removeprefix(f"{LEADER_EPOCH_FILE}: ")
        else:
            problem = self.epochs.compare(LeaderEpochs(), up_to)
            problem = problem and "it is missing, although the batches have leader epochs"
        if problem:
            self.are_epochs_wrong = True
            yield self._finding(
                Kind.LEADER_EPOCHS,
                LEADER_EPOCH_FILE,
                f"the leader epochs are wrong: {problem}",
                "clients that ask where an epoch ended may get a wrong answer, and start again elsewhere",
                "writes it anew from the batches",
            )
        for run in self.epochs.wrong:
            yield self._finding(
                Kind.WRONG_EPOCH,
                f"{file_name(run.segment.base_offset)}{LOG_SUFFIX}",
                f"its records are intact, but {run.batches} batches from here on say leader epoch {run.epoch}, where only "
                f"{self.right_epoch(run.start_offset)} can be",
                "clients that compare leader epochs may start again elsewhere",
                f"sets the leader epoch to {self.right_epoch(run.start_offset)}",
                position=run.position,
                end=run.end,
                first_offset=run.start_offset,
                next_offset=run.next_offset,
            )

    def right_epoch(self, offset: int) -> int:
        """Return the leader epoch that the batch at `offset` should have."""
        own = self.epochs.epochs
        epoch = own.epoch_for(offset)
        following = [entry.epoch for entry in own.entries if entry.start_offset > offset]
        written = -1 if self.file_epochs is None else self.file_epochs.epoch_for(offset)
        if following and epoch < written <= following[0]:
            return written  # it lies where one epoch followed the other: the file knows where
        return epoch if epoch >= 0 or not following else following[0]

    def _check_metadata(self) -> Iterator[Finding]:
        if PARTITION_METADATA_FILE not in self.names:
            return
        data = self._files.read_bytes(f"{self.directory}/{PARTITION_METADATA_FILE}")
        try:
            self.topic_id = decode_partition_metadata(data, PARTITION_METADATA_FILE)
        except CorruptCheckpointError as error:
            self.is_metadata_wrong = True
            reason = str(error).removeprefix(f"{PARTITION_METADATA_FILE}: ") if data else "it is empty"
            yield self._finding(
                Kind.PARTITION_METADATA,
                PARTITION_METADATA_FILE,
                f"the topic's id cannot be read: {reason}",
                "ottla writes it anew at the next start; Apache Kafka takes the partition for a stray one",
                "takes the id from another partition of the topic, else removes the file: ottla writes it anew",
            )

    # Rows of the directory's checkpoints

    def _check_rows(self) -> Iterator[Finding]:
        known, end = self.known, self.end_offset
        if any(check.disk_error is not None for check in self.segments):
            return
        if known.log_start is not None and known.log_start > end:
            self.wrong_rows[LOG_START_FILE] = None
            yield self._row(
                LOG_START_FILE,
                f"it says that the log begins at {known.log_start}, but it ends at {end}",
                "ottla keeps all of it where the high watermark or a clean stop speaks for it; Apache Kafka empties the log",
                "takes the row away: the log begins with its first segment",
            )
        # After an unclean stop it may be: a power cut took what had not been synced.
        if known.is_clean and known.high_watermark is not None and known.high_watermark > end:
            self.wrong_rows[HIGH_WATERMARK_FILE] = end
            yield self._row(
                HIGH_WATERMARK_FILE,
                f"it says that the high watermark is {known.high_watermark}, but the log ends at {end}: records may be "
                "missing",
                "the high watermark is the log's end after the next start",
                f"sets it to {end}",
            )
        recovery_point = known.recovery_point
        if recovery_point is not None and (
            recovery_point > end or (known.is_clean and recovery_point < self.batches_end)
        ):
            self.wrong_rows[RECOVERY_POINT_FILE] = end
            yield self._row(
                RECOVERY_POINT_FILE,
                f"it says that the log was synced up to {recovery_point}, but it ends at {end}"
                + (": records may be missing" if recovery_point > end else ""),
                "the broker finds the end by the batches",
                f"sets it to {end}",
            )
        if known.cleaned_to is not None and known.cleaned_to > end:
            self.wrong_rows[CLEANER_FILE] = None
            yield self._row(
                CLEANER_FILE,
                f"it says that the log is compacted up to {known.cleaned_to}, but it ends at {end}",
                "compaction begins again at the log's start",
                "takes the row away: compaction begins again at the log's start",
            )

    def _row(self, file: str, problem: str, consequence: str, remedy: str) -> Finding:
        return self._finding(Kind.CHECKPOINT, file, problem, consequence, remedy)
