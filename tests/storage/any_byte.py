"""A disk on which one byte or one length is changed, and what becomes of it: the engine behind `test_any_byte`.

A small log directory holds a topic in today's format, a compacted one with transactions, one with messages of the formats
0, 1 and 2, and a witness. `Change` says what is done to one of its files after a clean stop; `run` starts a log manager on
it, cleanly or not, and has everything done that reads: fetches, look-ups by time, compaction, retention, appends, another
stop and start. What each record was answered with is compared with what was there before.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from tests.protocol.records.legacy_support import entries
from tests.storage.log_support import NOW, append, batch, idempotent, marker

from ottla.errors import CorruptMessageError, KafkaError, NotLeaderOrFollowerError, StorageError
from ottla.offload import InlineOffload
from ottla.protocol.records.builder import Record
from ottla.protocol.records.control import ControlType
from ottla.protocol.records.formats import read_any_header
from ottla.protocol.records.reader import iter_records, read_records
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.storage.log_manager import LogManager, LogManagerSettings
from ottla.testing.memory_files import MemoryFiles
from ottla.types import CompressionType, TopicPartition

PLAIN, KEYED, OLD, WITNESS = (TopicPartition(name, 0) for name in ("plain", "keyed", "old", "witness"))
TOPICS = (PLAIN, KEYED, OLD, WITNESS)
VICTIMS = TOPICS[:3]
SMALL = LogConfig(
    segment_bytes=500, index_interval_bytes=100, retention_ms=10_000_000, retention_bytes=50_000, segment_ms=10**12
)
CONFIGS = {
    "plain": SMALL,
    "keyed": dataclasses.replace(SMALL, cleanup_delete=False, cleanup_compact=True, min_cleanable_dirty_ratio=0.0),
    "old": dataclasses.replace(SMALL, cleanup_compact=True, min_cleanable_dirty_ratio=0.0),
    "witness": SMALL,
}
NOT_STABLE = "not stable"
CHECKPOINTS = (
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
)


class Clock:
    """Ten seconds after the last record."""

    def monotonic_ms(self) -> int:
        return NOW

    def boot_ms(self) -> int:
        return NOW

    def wall_ms(self) -> int:
        return NOW + 100_000

    def thread_waits(self) -> int:
        return 0


class Place(NamedTuple):
    """Where a record lies: its partition, the first byte of its batch in a segment, and the byte behind it."""

    path: str
    start: int
    end: int


class Change(NamedTuple):
    """What is done to one file: bytes are overwritten from `position` on, or it gets another length."""

    path: str
    position: int
    data: bytes = b""
    length: int = -1

    def apply(self, files: MemoryFiles) -> None:
        old = files.read_bytes(self.path)
        if self.length >= 0:
            new = (old + self.data * (1 + self.length // max(len(self.data), 1)))[: self.length]
        else:
            new = old[: self.position] + self.data + old[self.position + len(self.data) :]
        files.write_atomic(self.path, new)

    def touches(self, place: Place) -> bool:
        if place.path != self.path:
            return False
        if self.length >= 0:
            return place.end > self.length
        return place.start < self.position + len(self.data) and self.position < place.end


@dataclass(slots=True)
class Disk:
    """The directory before the change.

    Attributes:
        names: its files, with their content.
        found: partition -> offset -> what a look-up by that record's time finds.
        values: partition -> offset -> value of the record, where a consumer that reads committed records sees one.
        places: partition -> offset -> where the record lies.
    """

    names: dict[str, bytes] = field(default_factory=dict)
    values: dict[TopicPartition, dict[int, bytes]] = field(default_factory=dict)
    times: dict[TopicPartition, dict[int, int]] = field(default_factory=dict)
    places: dict[TopicPartition, dict[int, Place]] = field(default_factory=dict)
    found: dict[TopicPartition, dict[int, int]] = field(default_factory=dict)

    def copy(self) -> MemoryFiles:
        files = MemoryFiles(lambda: NOW)
        for path, data in self.names.items():
            parent = path.rpartition("/")[0]
            if not files.is_dir(parent):
                files.mkdir(parent)
            files.write_atomic(path, data)
        return files

    def changeable(self) -> list[str]:
        """The files that a change may hit."""
        kinds = (
            ".log",
            ".index",
            ".timeindex",
            ".txnindex",
            ".snapshot",
            "leader-epoch-checkpoint",
            "partition.metadata",
        )
        return [
            path
            for path, data in self.names.items()
            if data
            and (
                path.rpartition("/")[2] in CHECKPOINTS
                or (path.endswith(kinds) and path.split("/")[1] in {str(victim) for victim in VICTIMS})
            )
        ]


def manager_of(files: MemoryFiles) -> LogManager:
    return LogManager(
        files,
        ["data"],
        cluster_id="cluster-of-the-tests-1",
        node_id=1,
        clock=Clock(),
        offload=InlineOffload(),
        default_config=SMALL,
        random=Random(1),
        settings=LogManagerSettings(),
    )


async def start(files: MemoryFiles) -> LogManager:
    manager = manager_of(files)
    await manager.load(CONFIGS.__getitem__)
    for number, topic_partition in enumerate(TOPICS):
        try:
            log = manager.create(topic_partition, bytes([number + 1] * 16), CONFIGS[topic_partition.topic])
        except StorageError:
            continue
        log.advance_high_watermark(log.log_end_offset)
    return manager


async def build() -> Disk:
    """Make the directory and stop cleanly."""
    files = MemoryFiles(lambda: NOW)
    manager = await start(files)
    for topic_partition in (PLAIN, WITNESS):
        log = manager.logs[topic_partition]
        for number in range(12):
            values = [b"%d-%d" % (number, record) + b"." * 20 for record in range(1 + number % 3)]
            append(log, batch(values, key=b"k", timestamp=NOW + 1000 * number), leader_epoch=number // 6)
    keyed = manager.logs[KEYED]
    sequences = {7: 0, 8: 0}
    for number in range(10):
        producer, kind = 7 + number % 2, ControlType.ABORT if number % 3 == 2 else ControlType.COMMIT
        for part in range(2):
            key = b"key-%d-%d" % (number, part)
            append(keyed, idempotent(producer, 0, sequences[producer], transactional=True, key=key))
            sequences[producer] += 1
        marker(keyed, kind, producer, 0)
    _write_old(files, manager.logs[OLD])
    for log in manager.logs.values():
        log.advance_high_watermark(log.log_end_offset)
    manager.logs[PLAIN].advance_log_start(1)
    await manager.close()
    disk = Disk()
    _walk(files, "data", disk.names)
    # The records of the old formats come in as an older Kafka would have left them: their indexes are built at this start.
    manager = await start(files)
    await manager.clean_dirtiest()
    for topic_partition in TOPICS:
        log = manager.logs[topic_partition]
        log.advance_high_watermark(log.log_end_offset)
        disk.values[topic_partition] = {}
        disk.times[topic_partition] = {}
        disk.places[topic_partition] = {}
    await manager.close()
    disk.names.clear()
    _walk(files, "data", disk.names)
    manager = await start(disk.copy())
    for topic_partition in TOPICS:
        log = manager.logs[topic_partition]
        for segment in log.segments:
            for position, header, data in segment.batches():
                for record in read_records(data):
                    if not header.is_control and record.offset >= log.log_start_offset:
                        place = Place(segment.path(".log"), position, position + header.size)
                        disk.places[topic_partition][record.offset] = place
                        disk.times[topic_partition][record.offset] = record.timestamp
        for offset in disk.places[topic_partition]:
            answer = ask(log, offset)
            if isinstance(answer, bytes):
                disk.values[topic_partition][offset] = answer
        disk.found[topic_partition] = {
            offset: -1 if (found := log.offset_for_timestamp(time)) is None else found.offset
            for offset, time in disk.times[topic_partition].items()
        }
    return disk


def _write_old(files: MemoryFiles, log: PartitionLog) -> None:
    """Put messages of the formats 0 and 1 before batches of today's format, in several segments."""
    offset = 0
    for number in range(8):
        magic, codec = number % 2, CompressionType((number // 2) % 2)
        records = [
            Record(offset + record, NOW + 1000 * number, b"o-%d-%d" % (number, record), b"old-%d" % number + b"." * 20)
            for record in range(2)
        ]
        log.append_as_follower(bytearray(entries(records, codec, magic=magic)), now_ms=NOW)
        offset += 2
        if number % 3 == 2:
            log.roll(NOW)
    for number in range(6):
        append(log, batch([b"new-%d" % number + b"." * 20], key=b"n-%d" % number, timestamp=NOW + 20_000 + number))


def _walk(files: MemoryFiles, path: str, found: dict[str, bytes]) -> None:
    for name in files.listdir(path):
        inner = f"{path}/{name}"
        if files.is_dir(inner):
            _walk(files, inner, found)
        elif not name.endswith(".lock"):
            found[inner] = files.read_bytes(inner)


def ask(log: PartitionLog, offset: int) -> bytes | str | None:
    """Return what a consumer of committed records gets for one offset: a value, an error, or None if it is passed over."""
    try:
        log.check_aborted(offset, nowait=False)
        if offset >= log.last_stable_offset:
            return NOT_STABLE
        part = log.read(offset, 1, upper_offset=log.log_end_offset)
    except CorruptMessageError:
        return "corrupt"
    except KafkaError as error:
        return error.code.name
    if not part.size:
        return "nothing"
    data = part.read()
    try:
        record = next((record for record in iter_records(data) if record.offset == offset), None)
    except ValueError:
        return "garbage"
    if record is None:
        return None
    header = read_any_header(data, 0, len(data))
    if header.is_transactional:
        for producer_id, first_offset in log.aborted_transactions(offset, log.log_end_offset):
            if producer_id == header.producer_id and first_offset <= offset:
                return None
    return record.value


class _Watch(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def watch() -> Iterator[_Watch]:
    """Collect what the log says while the changed directory is used."""
    handler = _Watch()
    logger = logging.getLogger("ottla")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@dataclass(slots=True)
class Outcome:
    """What a change led to.

    Attributes:
        noticed: what was said about it, warnings and errors of the log.
        answers: (partition, offset, what a reader got, whether the change lies in that record's batch), where that
            differs from before.
    """

    noticed: list[str]
    answers: list[tuple[TopicPartition, int, bytes | str | None, bool]]


def _leads(log: PartitionLog) -> bool:
    """Lead in epoch 2 as a partition does: a log that claims a larger epoch is compared with its batches first."""
    try:
        log.lead(2)
    except NotLeaderOrFollowerError:
        if not log.mend_epochs():
            return False
        try:
            log.lead(2)
        except NotLeaderOrFollowerError:
            return False
    return True


async def _use(
    disk: Disk, files: MemoryFiles, change: Change
) -> list[tuple[TopicPartition, int, bytes | str | None, bool]]:
    differing: dict[tuple[TopicPartition, int], tuple[bytes | str | None, bool]] = {}

    def read_everything(manager: LogManager) -> None:
        for topic_partition in TOPICS:
            log = manager.logs.get(topic_partition)
            for offset, place in disk.places[topic_partition].items():
                answer = "offline" if log is None else ask(log, offset)
                if answer != disk.values[topic_partition].get(offset):
                    # A marker that cannot be read leaves its transaction open.
                    is_own = answer == NOT_STABLE and place.path == change.path
                    differing[topic_partition, offset] = answer, is_own or change.touches(place)

    manager = await start(files)
    read_everything(manager)
    for topic_partition, log in manager.logs.items():
        for offset, time in disk.times[topic_partition].items():
            try:
                found = log.offset_for_timestamp(time)
            except CorruptMessageError:
                continue
            expected = disk.found[topic_partition][offset]
            if expected >= 0 and (found is None or found.offset > expected):
                is_own = change.touches(disk.places[topic_partition][expected])
                differing[topic_partition, expected] = "hidden from a look-up by time", is_own
    for _ in range(3):
        await manager.clean_dirtiest()
    await manager.apply_retention()
    for log in manager.logs.values():
        if not _leads(log):
            # The epoch of its last batch, which no checksum covers and no neighbour contradicts, is larger than the tree's.
            assert log.topic_partition in VICTIMS
            assert change.path.startswith(f"{log.directory}/")
            assert change.path.endswith(".log")
            continue
        append(log, batch([b"one more"], key=b"one more", timestamp=NOW + 50_000), leader_epoch=2)
        log.advance_high_watermark(log.log_end_offset)
    read_everything(manager)
    await manager.close()
    manager = await start(files)
    for _ in range(3):
        await manager.clean_dirtiest()
    read_everything(manager)
    for log in manager.logs.values():
        assert log.log_end_offset >= max(disk.places[log.topic_partition])
    return [(*key, *answer) for key, answer in differing.items()]


def run(disk: Disk, change: Change, *, clean: bool) -> Outcome:
    """Apply the change and use the directory."""
    files = disk.copy()
    change.apply(files)
    if not clean:
        files.remove("data/.kafka_cleanshutdown")
    with watch() as seen:
        answers = asyncio.run(_use(disk, files, change))
    return Outcome(seen.messages, answers)


def random_change(disk: Disk, random: Random) -> Change:
    """Return any change: a bit, a byte, a whole field, a length."""
    path = random.choice(disk.changeable())
    old = disk.names[path]
    match random.randrange(5):
        case 0:
            position = random.randrange(len(old))
            return Change(path, position, bytes([old[position] ^ 1 << random.randrange(8)]))
        case 1:
            return Change(path, random.randrange(len(old)), random.randbytes(1))
        case 2:
            size = min(random.choice((2, 4, 8)), len(old))
            return Change(path, random.randrange(len(old) - size + 1), random.randbytes(size))
        case 3:
            return Change(path, 0, length=random.randrange(len(old)))
        case _:
            return Change(
                path, 0, random.choice((b"\0", b"\xff", b"rubbish", old)), len(old) + random.randrange(1, 300)
            )


def kind_of(path: str) -> str:
    """The kind of a file, for tables."""
    name = path.rpartition("/")[2]
    return name[20:] if name[:20].isdigit() else name


def count(outcomes: list[tuple[Change, Outcome]]) -> dict[str, Counter[str]]:
    """Return how the changes of each kind of file were noticed: at all, or not."""
    table: dict[str, Counter[str]] = {}
    for change, outcome in outcomes:
        row = table.setdefault(kind_of(change.path), Counter())
        row["changes"] += 1
        if outcome.noticed:
            row["reported"] += 1
        elif outcome.answers:
            row["served changed"] += 1
        else:
            row["without effect"] += 1
    return table
