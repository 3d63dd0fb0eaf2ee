"""A log of several segments with everything in it, in a log directory of a stopped broker; and ways to damage it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.storage.log_support import (
    DIRECTORY,
    NOW,
    TOPIC_ID,
    TP,
    append,
    batch,
    idempotent,
    lead_and_append,
    old_message,
    open_log,
)

from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.records.formats import read_any_header
from ottla.storage.check import LogCheck
from ottla.storage.checkpoints import (
    CLEAN_SHUTDOWN_FILE,
    CLEANER_FILE,
    HIGH_WATERMARK_FILE,
    LOG_START_FILE,
    META_PROPERTIES_FILE,
    RECOVERY_POINT_FILE,
    MetaProperties,
    encode_offsets,
)
from ottla.storage.config import LogConfig
from ottla.storage.files import Files
from ottla.storage.findings import Finding
from ottla.storage.log import PartitionLog
from ottla.storage.repair import Repair
from ottla.testing.memory_files import MemoryFiles
from ottla.types import AppendOrigin, CompressionType

HOME = DIRECTORY.rpartition("/")[0]
CONFIG = LogConfig(segment_bytes=900, index_interval_bytes=200)


def make_log(files: Files) -> int:
    """Write messages of formats 0 and 1, plain and compressed batches, committed and aborted transactions; return the end."""
    files.mkdir(DIRECTORY)
    old = b"".join(old_message(offset % 2, offset, NOW + offset, b"old-%d" % offset) for offset in range(10))
    files.write_atomic(path(0), old)
    log = open_log(files, CONFIG, recovery_point=0, high_watermark=10, topic_id=TOPIC_ID)
    for turn in range(8):
        codec = (CompressionType.NONE, CompressionType.GZIP, CompressionType.LZ4, CompressionType.ZSTD)[turn % 4]
        stamp, epoch = NOW + 100 * turn, turn // 3
        values = [b"%d-%d" % (turn, number) * 3 for number in range(4)]
        append(log, batch(values, timestamp=stamp, compression=codec), leader_epoch=epoch)
        for producer in (7, 8):
            for number in range(2):
                records = idempotent(producer, 0, 4 * turn + 2 * number, 2, transactional=True, timestamp=stamp)
                append(log, records, leader_epoch=epoch)
        end_transaction(log, 7, ControlType.ABORT if turn % 2 else ControlType.COMMIT, epoch)
        append(log, idempotent(9, 0, turn, timestamp=stamp), leader_epoch=epoch)
        end_transaction(log, 8, ControlType.COMMIT if turn % 2 else ControlType.ABORT, epoch)
    end = log.log_end_offset
    log.flush()
    log.close()
    write_checkpoints(files, end)
    return end


def end_transaction(log: PartitionLog, producer_id: int, kind: ControlType, leader_epoch: int) -> None:
    records = end_transaction_marker(kind, 0, timestamp_ms=NOW, producer_id=producer_id, producer_epoch=0)
    lead_and_append(log, records, leader_epoch=leader_epoch, origin=AppendOrigin.COORDINATOR)


def write_checkpoints(files: Files, end: int, *, clean: bool = True, recovery_point: int | None = None) -> None:
    """Write what a broker leaves in the log directory."""
    point = end if recovery_point is None else recovery_point
    rows = {RECOVERY_POINT_FILE: point, LOG_START_FILE: 0, HIGH_WATERMARK_FILE: end}
    for name, offset in rows.items():
        files.write_atomic(f"{HOME}/{name}", encode_offsets({TP: offset}))
    files.write_atomic(f"{HOME}/{CLEANER_FILE}", b"0\n0\n")
    identity = MetaProperties(version=1, cluster_id="c", node_id=1, directory_id="d")
    files.write_atomic(f"{HOME}/{META_PROPERTIES_FILE}", identity.encode())
    if clean:
        files.write_atomic(f"{HOME}/{CLEAN_SHUTDOWN_FILE}", b"{}")
    elif files.exists(f"{HOME}/{CLEAN_SHUTDOWN_FILE}"):
        files.remove(f"{HOME}/{CLEAN_SHUTDOWN_FILE}")


def path(base: int, kind: str = ".log") -> str:
    return f"{DIRECTORY}/{base:020d}{kind}"


def names(files: Files, kind: str) -> list[str]:
    return [name for name in files.listdir(DIRECTORY) if name.endswith(kind)]


def copy_disk(files: Files) -> MemoryFiles:
    """Return another disk with the same log directory."""
    copy = MemoryFiles(lambda: NOW)
    copy.mkdir(DIRECTORY)
    for directory in (HOME, DIRECTORY):
        for name in files.listdir(directory):
            if not files.is_dir(f"{directory}/{name}"):
                copy.write_atomic(f"{directory}/{name}", files.read_bytes(f"{directory}/{name}"))
    return copy


def batches(data: bytes) -> list[tuple[int, bytes]]:
    """Return (last offset, bytes) of the batches in an undamaged segment."""
    found, position = [], 0
    while position < len(data):
        header = read_any_header(data, position, len(data) - position)
        found.append((header.last_offset, data[position : position + header.size]))
        position += header.size
    return found


@dataclass(frozen=True)
class Edit:
    """The bytes from `position` up to `end` of a file become `data`."""

    name: str
    position: int
    end: int
    data: bytes

    def apply(self, files: Files) -> None:
        old = files.read_bytes(f"{DIRECTORY}/{self.name}")
        files.write_atomic(f"{DIRECTORY}/{self.name}", old[: self.position] + self.data + old[self.end :])

    def untouched(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return those of the batches in `data` that the edit leaves as they are."""
        kept, position, taken = [], 0, 0
        after = data[: self.position] + self.data + data[self.end :]
        for last_offset, one in batches(data):
            end = position + len(one)
            if not self.data:
                is_changed = position < max(self.end, taken) and self.position < end
                if position < self.position and after[position:end] == one:
                    # Its end was taken out, and the same bytes followed: it is whole, and the next one is not.
                    is_changed, taken = False, end + self.end - self.position
            elif self.position == self.end:
                is_changed = position < self.position < end
            else:  # others of the same number, some perhaps the same
                first, behind = max(position, self.position), min(end, self.end)
                is_changed = first < behind and (
                    self.data[first - self.position : behind - self.position] != data[first:behind]
                )
            if not is_changed:
                kept.append((last_offset, one))
            position = end
        return kept


def random_edit(random: random.Random, files: Files, name: str) -> Edit:
    """Change, cut off, take out or put in bytes somewhere; most often few, often where lengths and offsets are."""
    data = files.read_bytes(f"{DIRECTORY}/{name}")
    size = len(data)
    position = random.randrange(size) if size else 0
    if name.endswith(".log") and size and random.random() < 0.5:
        starts, at = [], 0
        for _, one in batches(data):
            starts.append(at)
            at += len(one)
        position = min(random.choice(starts) + random.randrange(24), size - 1)
    kind = random.choice(["change", "change", "change", "cut", "take out", "put in"])
    count = random.choice([1, 1, 2, 4, 8, 60, 300])
    end = min(position + count, size)
    if kind == "change":
        return Edit(name, position, end, random.randbytes(end - position))
    if kind == "cut":
        return Edit(name, position, size, b"")
    if kind == "take out":
        return Edit(name, position, end, b"")
    return Edit(name, position, position, random.choice([random.randbytes(count), bytes(count)]))


def check(files: Files, directory: str = HOME, *, deep: bool = False) -> list[Finding]:
    with LogCheck(files, directory, deep=deep) as looked:
        return list(looked.run())


def wrong(files: Files, directory: str = HOME, *, deep: bool = False) -> list[Finding]:
    return [finding for finding in check(files, directory, deep=deep) if finding.is_wrong]


def repair(files: Files, unique: bytes = b"c" * 16) -> list[Finding]:
    """Repair as the command does; return what is wrong still."""
    repaired = Repair(files, DIRECTORY, unique)
    repaired.open()
    try:
        repaired.look()
        if not repaired.has_work:
            return []
        repaired.losses(), repaired.steps()
        repaired.check_space()
        repaired.copy()
        return repaired.perform()
    finally:
        repaired.close()


def start(files: Files, end: int, *, clean: bool = True, recovery_point: int | None = None) -> PartitionLog:
    point = end if recovery_point is None else recovery_point
    return open_log(files, CONFIG, clean=clean, recovery_point=point, high_watermark=end)


def served(log: PartitionLog) -> dict[int, bytes]:
    """Return the bytes of each batch by its last offset, as fetches give them from the log's start to its end."""
    found: dict[int, bytes] = {}
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        part = log.read(offset, 1, upper_offset=log.log_end_offset)
        if not part.size:
            break
        found |= dict(batches(bytes(part.read())))
        assert part.next_offset > offset
        offset = part.next_offset
    return found
