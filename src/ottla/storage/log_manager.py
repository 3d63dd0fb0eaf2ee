"""LogManager: all logs of a broker, in one or several directories, and the work behind them.

Opens and recovers the logs at start, makes and deletes them, notes offsets in checkpoints, closes everything so that the
next start need not read. What `background` runs by the clock is here, too: retention, checkpoints, timed flushes, expiry
of producers, compaction, unlinking of deleted files. All of it leaves the loop in small slices (`Offload`); where it changes
a log it holds that log's lock, never for an fsync; an append that finds it held leaves the loop
(`PartitionLog.append_as_leader_nowait`).

A directory whose disk fails (any `OSError` but "no space" and "no descriptor") goes offline: its logs refuse everything,
the log manager calls the owner, and the directory stays away until the next start. This module is a shell: what is
deleted, cleaned or recovered is decided in `retention`, `compaction`, `recovery`; it is the one place of the storage that
knows a loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ottla.errors import KafkaStorageError, StorageError
from ottla.offload import run_to_end
from ottla.storage.background import run_in_background
from ottla.storage.checkpoints import HIGH_WATERMARK_FILE, LOG_START_FILE, RECOVERY_POINT_FILE
from ottla.storage.cleaner import Cleaner
from ottla.storage.compaction import DEFAULT_LOAD_FACTOR, DEFAULT_MEMORY_BYTES, CleaningResult
from ottla.storage.config import LONG_MAX, LogConfig
from ottla.storage.disk_watch import DiskWatch, WatchedOffload
from ottla.storage.files import NO_DESCRIPTOR, PASSING
from ottla.storage.group_commit import GroupCommit
from ottla.storage.log import DEFAULT_PRODUCER_ID_EXPIRATION_MS, PartitionLog
from ottla.storage.log_directory import DELETE_SUFFIX, STRAY_SUFFIX, Checkpoints, LogDirectory, renamed
from ottla.storage.open_files import DEFAULT_CAPACITY, OpenFiles
from ottla.storage.relocation import Relocation, partition_of_future
from ottla.storage.removals import Removals
from ottla.storage.shortages import Shortages
from ottla.types import TopicPartition

if TYPE_CHECKING:
    import random

    from ottla.clock import Clock
    from ottla.offload import Offload
    from ottla.storage.damage import Damage
    from ottla.storage.files import Files, FileSystem
    from ottla.storage.segment import Segment

logger = logging.getLogger(__name__)

#: Logs that one call on another thread opens, closes or looks at.
SLICE = 64
#: Slices at once while opening: a second one reads while the first one checks; more only fight for the interpreter.
OPEN_LANES = 2
#: Slices at once while closing: fsyncs that wait together are merged by the file system.
CLOSE_LANES = 8
#: A directory where a file should be, or the other way round: somebody's mistake in one partition.
NOT_OF_THE_DISK = (IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogManagerSettings:
    """Kafka's broker keys of the same names; milliseconds."""

    retention_check_interval_ms: int = 300_000
    initial_task_delay_ms: int = 30_000
    flush_scheduler_interval_ms: int = LONG_MAX
    flush_offset_checkpoint_interval_ms: int = 60_000
    flush_start_offset_checkpoint_interval_ms: int = 60_000
    high_watermark_checkpoint_interval_ms: int = 5_000
    cleaner_enable: bool = True
    cleaner_backoff_ms: int = 15_000
    cleaner_memory_bytes: int = DEFAULT_MEMORY_BYTES
    cleaner_load_factor: float = DEFAULT_LOAD_FACTOR
    cleaner_bytes_per_second_max: float = float("inf")
    producer_id_expiration_ms: int = DEFAULT_PRODUCER_ID_EXPIRATION_MS
    producer_id_expiration_check_interval_ms: int = 600_000
    #: `ottla.foreign.confirm`: treat directories that Apache Kafka wrote as our own.
    foreign_confirmed: bool = False
    open_files_max: int = DEFAULT_CAPACITY


class LogManager:
    """The logs of this broker.

    All coroutines belong to the loop's thread, and so do the other methods, with two exceptions. `create`, `delete`,
    `set_aside` and `refuse` wait for the disk and change `logs` on other threads: a loop over `logs` takes a copy first.
    Logs call the hooks (`on_flush_due`, `on_files_removed`, `on_refused`, `on_failed`) on the thread of the change.

    Attributes:
        clock: what it takes the time from.
        logs: every log that can be used.
        directories: the usable directories by path.
        offline_dirs: path -> why it cannot be used.
        unusable: partition -> why its log is not served; its files are kept, the rest of its directory is served.
        on_directory_offline: called with (path, partitions that were in it).
        on_damage: called when more of a log cannot be read (`damages`).
        is_clock_right: asked before anything is deleted or expired by time.
        on_hung: called when other directories hang than before (`disk_watch.hung`).
        cleaner: compacts.
        shortages: which directories are full.
    """

    def __init__(
        self,
        files: Files,
        log_dirs: Sequence[str],
        *,
        cluster_id: str | None,
        node_id: int,
        clock: Clock,
        offload: Offload,
        default_config: LogConfig,
        random: random.Random,
        settings: LogManagerSettings | None = None,
        on_directory_offline: Callable[[str, list[TopicPartition]], None] | None = None,
        make_lock: Callable[[], threading.RLock] = threading.RLock,
    ) -> None:
        """Nothing is touched before `load`.

        Args:
            files: the file system.
            log_dirs: `log.dirs`.
            cluster_id: checked against the directories; None adopts theirs.
            node_id: checked against the directories.
            clock: wall time for retention.
            offload: where everything that may wait for a disk runs.
            default_config: of topics that `load` gets no other configuration for.
            random: for directory ids and the names of deleted partitions.
            settings: intervals.
            on_directory_offline: see there.
            make_lock: makes the lock of each log.
        """
        self.files = files
        self.settings = settings or LogManagerSettings()
        self._make_lock = make_lock
        self.default_config = default_config
        self.logs: dict[TopicPartition, PartitionLog] = {}
        self.directories: dict[str, LogDirectory] = {}
        self.offline_dirs: dict[str, str] = {}
        self.unusable: dict[TopicPartition, str] = {}
        #: Its log directory and its own.
        self._unusable_in: dict[TopicPartition, tuple[str, str]] = {}
        #: Those of them whose files are another topic's.
        self._refused: set[TopicPartition] = set()
        #: What the checkpoints say of unusable logs, by log directory and file: it holds again once they can be used.
        self._kept_offsets: dict[tuple[str, str], dict[TopicPartition, int]] = {}
        self.on_directory_offline = on_directory_offline or (lambda _path, _partitions: None)
        self.on_damage: Callable[[], None] = lambda: None
        self.is_clock_right: Callable[[], bool] = lambda: True
        self.on_hung: Callable[[], None] = lambda: None
        self.disk_watch = DiskWatch()
        self.cluster_id = cluster_id
        self.cleaner = Cleaner(
            offload,
            clock,
            memory_bytes=self.settings.cleaner_memory_bytes,
            load_factor=self.settings.cleaner_load_factor,
            bytes_per_second_max=self.settings.cleaner_bytes_per_second_max,
        )
        #: One for each directory: two writers of one file would rename each other's temporary file away.
        self._checkpointing: dict[str, asyncio.Lock] = {}
        self.shortages = Shortages(files, self.offload_of, clock.wall_ms)
        self.open_files = OpenFiles(files, self.settings.open_files_max)
        self.recovered_logs = 0
        self.recovered_bytes = 0
        self._paths = [path.rstrip("/") or "/" for path in log_dirs]
        self._node_id = node_id
        self.clock = clock
        self._offload = offload
        self._random = random
        #: One for each directory: a disk that hangs does not hold up the others.
        self._commits: dict[str, GroupCommit] = {}
        self._file_systems: dict[str, FileSystem | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renaming = threading.Lock()
        #: Logs of which a part cannot be read; `damages` forgets those where that is over.
        self.damaged: dict[TopicPartition, None] = {}
        #: Deleted logs whose directories could not be renamed yet.
        self._undeleted: dict[TopicPartition, PartitionLog] = {}
        self._removals = Removals(files, self.offload_of, clock.wall_ms)
        self._flush_due: dict[PartitionLog, None] = {}
        self._loaded = False
        self._found: list[tuple[LogDirectory, str, TopicPartition, Checkpoints]] = []
        #: Copies that an interrupted move to another directory has left.
        self._futures: list[tuple[LogDirectory, str, TopicPartition, Checkpoints]] = []
        #: Where logs are to be made that are not there yet.
        self._preferred: dict[TopicPartition, str] = {}
        self._any_flush_ms = default_config.flush_ms < LONG_MAX

    # -- start

    async def take_directories(self) -> None:
        """Lock the directories and read what they say about themselves, not yet their logs.

        Raises:
            StorageError: a directory must not be used (in use, other cluster, newer format), or none is usable.
        """
        self._loop = asyncio.get_running_loop()
        for path in self._paths:
            directory = LogDirectory(self.files, path)
            try:
                self._found += await self._offload.run(self._open_directory, directory)
            except StorageError:
                directory.close()
                raise
            except OSError as error:
                directory.close()
                self.offline_dirs[path] = str(error)
                logger.error("log directory %s cannot be used: %s", path, error)
        if not self.directories:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in self.offline_dirs.items())
            raise StorageError(f"no log directory can be used: {reasons}")

    @property
    def was_clean(self) -> bool:
        """Whether the last stop was a clean one, in all directories."""
        return all(directory.is_clean for directory in self.directories.values())

    async def load(self, config_of: Callable[[str], LogConfig] | None = None) -> None:
        """Open every log; takes the directories first if that has not been done.

        Args:
            config_of: the configuration of a topic; topics it does not know get the default.

        Raises:
            StorageError: as `take_directories`, or a partition lies in two of them.
        """
        if not self.directories:
            await self.take_directories()
        todo, self._found = self._found, []
        seen: dict[TopicPartition, str] = {}
        for directory, _, topic_partition, _ in todo:
            if topic_partition in seen:
                raise StorageError(f"{topic_partition} is in both {seen[topic_partition]} and {directory.path}")
            seen[topic_partition] = directory.path
        todo += await self._offload.run(self._take_in_futures, seen)
        for path, directory in self.directories.items():
            try:
                await self._offload.run(self._begin, directory)
            except OSError as error:
                self._take_offline(path, str(error))
        slices = deque(todo[start : start + SLICE] for start in range(0, len(todo), SLICE))

        async def lane() -> None:
            while slices:
                for path, reason in await self._offload.run(self._open_logs, slices.popleft(), config_of):
                    self._take_offline(path, reason)

        await asyncio.gather(*(lane() for _ in range(min(OPEN_LANES, len(slices)))))
        if not self.online_dirs:
            raise StorageError("; ".join(self.offline_dirs.values()))
        self._loaded = True

    def _take_in_futures(
        self, seen: Mapping[TopicPartition, str]
    ) -> list[tuple[LogDirectory, str, TopicPartition, Checkpoints]]:
        """Delete copies whose logs are there; return those that had to take the place of their logs, under their names."""
        found = []
        for directory, name, topic_partition, checkpoints in self._futures:
            path = f"{directory.path}/{name}"
            if topic_partition in seen:
                target = f"{directory.path}/{renamed(topic_partition, self._random.randbytes(16), DELETE_SUFFIX)}"
                self.files.rename(path, target)
                self._removals.add(directory.path, 0, target, is_directory=True)
                logger.warning("the move of %s to %s was interrupted: begin it again", topic_partition, directory.path)
            else:
                self.files.rename(path, f"{directory.path}/{topic_partition}")
                self.files.sync_dir(directory.path)
                found.append((directory, str(topic_partition), topic_partition, checkpoints))
                logger.info("%s has been moved to %s", topic_partition, directory.path)
        self._futures = []
        return found

    def _begin(self, directory: LogDirectory) -> None:
        directory.begin()
        # Now, before anything is appended: what it says of failed write-backs begins here.
        self._file_systems[directory.path] = self.files.file_system(directory.path)

    @property
    def online_dirs(self) -> list[str]:
        """The directories that can be used."""
        return [path for path in self.directories if path not in self.offline_dirs]

    def _open_directory(self, directory: LogDirectory) -> list[tuple[LogDirectory, str, TopicPartition, Checkpoints]]:
        properties = directory.open(
            cluster_id=self.cluster_id,
            node_id=self._node_id,
            random=self._random,
            foreign_confirmed=self.settings.foreign_confirmed,
        )
        if self.cluster_id is None:
            self.cluster_id = properties.cluster_id
        if directory.is_foreign:
            logger.warning(
                "%s was written by Apache Kafka, which keeps the topics' configuration elsewhere: no retention and no "
                "compaction here until ottla.foreign.confirm=true",
                directory.path,
            )
        checkpoints = directory.read_checkpoints()
        self.cleaner.add_directory(directory.path, directory.read_cleaner_offsets())
        self.directories[directory.path] = directory
        for name in directory.names:
            if name.endswith(DELETE_SUFFIX):
                self._removals.add(directory.path, 0, f"{directory.path}/{name}", is_directory=True)
            elif (moved := partition_of_future(name)) is not None:
                self._futures.append((directory, name, moved, checkpoints))
        return [
            (directory, name, topic_partition, checkpoints) for name, topic_partition in directory.partition_names()
        ]

    def _open_logs(
        self,
        todo: list[tuple[LogDirectory, str, TopicPartition, Checkpoints]],
        config_of: Callable[[str], LogConfig] | None,
    ) -> list[tuple[str, str]]:
        """Open logs; return (directory, reason) where that is impossible."""
        failed: list[tuple[str, str]] = []
        for directory, name, topic_partition, checkpoints in todo:
            if directory.path in self.offline_dirs:
                continue
            config = self.default_config if config_of is None else config_of(topic_partition.topic)
            if config.flush_ms < LONG_MAX:
                self._any_flush_ms = True
            known = checkpoints.recovery_points
            try:
                log = PartitionLog.open(
                    self.files,
                    f"{directory.path}/{name}",
                    topic_partition,
                    config,
                    now_ms=self.clock.wall_ms(),
                    recovery_point=None if known is None else known.get(topic_partition, 0),
                    log_start_offset=checkpoints.log_starts.get(topic_partition, 0),
                    high_watermark=checkpoints.high_watermarks.get(topic_partition),
                    # A log without a checkpoint was not closed by the process that wrote the marker.
                    clean=directory.is_clean and known is not None and topic_partition in known,
                    producer_id_expiration_ms=self.settings.producer_id_expiration_ms,
                    open_files=self.open_files,
                    hooks=self,
                    lock=self._make_lock(),
                )
            except OSError as error:
                if error.errno in NO_DESCRIPTOR:
                    raise StorageError(f"{topic_partition}: {error}: raise the limit of open files") from error
                if isinstance(error, NOT_OF_THE_DISK):
                    self._note_unusable(directory, name, topic_partition, checkpoints, error)
                else:
                    failed.append((directory.path, f"{topic_partition}: {error}"))
                continue
            except Exception as error:
                self._note_unusable(directory, name, topic_partition, checkpoints, error)
                continue
            if log.recovered_bytes:
                self.recovered_logs += 1
                self.recovered_bytes += log.recovered_bytes
            self.logs[topic_partition] = log
        return failed

    def _note_unusable(
        self,
        directory: LogDirectory,
        name: str,
        topic_partition: TopicPartition,
        checkpoints: Checkpoints,
        error: Exception,
    ) -> None:
        """Not the disk is wrong, but what is on it, of this one partition: the others are served."""
        path = f"{directory.path}/{name}"
        self.unusable[topic_partition] = f"{path} cannot be used: {error}"
        self._unusable_in[topic_partition] = directory.path, path
        known = checkpoints.recovery_points
        self._keep_offsets(
            directory.path,
            topic_partition,
            # After an unclean stop the log waits for its recovery: a clean stop of the others must not hide that.
            recovery_point=known.get(topic_partition) if directory.is_clean and known is not None else None,
            log_start_offset=checkpoints.log_starts.get(topic_partition),
            high_watermark=checkpoints.high_watermarks.get(topic_partition),
        )
        # A sentence of ours says it all; anything else is a surprise.
        trace = None if isinstance(error, StorageError) else error
        logger.error("%s: %s", topic_partition, self.unusable[topic_partition], exc_info=trace)

    # -- logs come and go

    def create(
        self, topic_partition: TopicPartition, topic_id: bytes, config: LogConfig, directory: str | None = None
    ) -> PartitionLog:
        """Make a partition's log, in `directory` or the one that has the fewest; may be called off the loop.

        Raises:
            StorageError: no directory is usable.
            KafkaStorageError: a deleted log of this name is still in the way.
            OSError: the disk failed or is full.
        """
        known = self.logs.get(topic_partition)
        if known is not None:
            known.set_topic_id(topic_id)
            return known
        if topic_partition in self.unusable:
            raise StorageError(self.unusable[topic_partition])
        self._rename_deleted(topic_partition)
        path = self.roomiest(1)[0] if directory is None else directory
        if path in self.offline_dirs:
            raise StorageError(f"log directory {path} is offline: {self.offline_dirs[path]}")
        if config.flush_ms < LONG_MAX:
            self._any_flush_ms = True
        try:
            log = PartitionLog.open(
                self.files,
                f"{path}/{topic_partition}",
                topic_partition,
                config,
                now_ms=self.clock.wall_ms(),
                topic_id=topic_id,
                producer_id_expiration_ms=self.settings.producer_id_expiration_ms,
                open_files=self.open_files,
                hooks=self,
                lock=self._make_lock(),
            )
        except OSError as error:
            if error.errno in PASSING:
                self._note_shortage(path, error)
            else:
                self._take_offline_soon(path, f"{topic_partition}: {error}")
            raise
        self.logs[topic_partition] = log
        return log

    def offload_of(self, directory: str) -> Offload:
        """Return the threads that wait for this directory's disk, and for no other."""
        return self._offload.share(directory)

    def watched(self, directory: str) -> Offload:
        """Return the threads of `offload_of`, for what is short unless the disk hangs."""
        return WatchedOffload(self.offload_of(directory), self.disk_watch, directory)

    def prefer(self, topic_partition: TopicPartition, directory: str) -> None:
        """Make a log that is not there yet in this directory, once."""
        self._preferred[topic_partition] = directory

    def places(self, topic_partitions: Sequence[TopicPartition]) -> list[str]:
        """Return the directories for new logs: the preferred ones, else those that have the fewest.

        Raises:
            StorageError: no directory is usable.
        """
        wanted = [self._preferred.pop(topic_partition, None) for topic_partition in topic_partitions]
        others = self.roomiest(len(topic_partitions))
        return [
            other if path is None or path in self.offline_dirs else path
            for path, other in zip(wanted, others, strict=True)
        ]

    # -- to another directory

    def relocation(self, topic_partition: TopicPartition, target: str) -> Relocation:
        """Return a move of a log that is held here to another usable directory; nothing is done yet."""
        return Relocation(self, self.logs[topic_partition], target, self._random.randbytes(16))

    def open_log(
        self,
        directory: str,
        like: PartitionLog,
        *,
        log_start_offset: int = 0,
        high_watermark: int | None = None,
        clean_at: int | None = None,
    ) -> PartitionLog:
        """See `relocation.Owner`."""
        return PartitionLog.open(
            self.files,
            directory,
            like.topic_partition,
            like.config,
            now_ms=self.clock.wall_ms(),
            recovery_point=clean_at or 0,
            log_start_offset=log_start_offset,
            high_watermark=high_watermark,
            clean=clean_at is not None,
            topic_id=like.topic_id,
            producer_id_expiration_ms=self.settings.producer_id_expiration_ms,
            open_files=self.open_files,
            hooks=self,
            lock=self._make_lock(),
        )

    def put_in_place(self, old: PartitionLog, new: PartitionLog, deleted: str) -> None:
        """See `relocation.Owner`."""
        self.logs[new.topic_partition] = new
        self.cleaner.forget(old.log_directory, old.topic_partition)
        due = self.clock.wall_ms() + old.config.file_delete_delay_ms
        self._removals.add(old.log_directory, due, deleted, is_directory=True)

    def discard(self, log: PartitionLog) -> None:
        """See `relocation.Owner`."""
        if self.files.is_dir(log.directory):
            name = renamed(log.topic_partition, self._random.randbytes(16), DELETE_SUFFIX)
            target = f"{log.log_directory}/{name}"
            self.files.rename(log.directory, target)
            self._removals.add(log.log_directory, self.clock.wall_ms(), target, is_directory=True)

    def roomiest(self, count: int) -> list[str]:
        """Return the directories for `count` new logs: those that have the fewest.

        Raises:
            StorageError: no directory is usable.
        """
        paths = self.online_dirs
        if not paths:
            raise StorageError("all log directories are offline")
        if len(paths) == 1:
            return paths * count
        counts = dict.fromkeys(paths, 0)
        for log in list(self.logs.values()):
            path = log.log_directory
            counts[path] = counts.get(path, 0) + 1
        chosen = []
        for _ in range(count):
            path = min(paths, key=counts.__getitem__)
            counts[path] += 1
            chosen.append(path)
        return chosen

    def delete(self, topic_partition: TopicPartition) -> None:
        """Take a log away: renamed now, unlinked after file.delete.delay.ms. Waits for the log's lock: off the loop.

        Raises:
            KafkaStorageError: no space or no descriptor is left; the log is gone, its directory is renamed later.
            OSError: the disk failed.
        """
        if topic_partition in self.unusable:
            self._delete_unusable(topic_partition)
            return
        log = self.logs.pop(topic_partition)
        log.retire(f"{topic_partition} was deleted")
        moved = self.logs.pop(topic_partition, None)
        if moved is not None:  # to another directory, while its lock was waited for
            log = moved
            log.retire(f"{topic_partition} was deleted")
        self.cleaner.forget(log.log_directory, topic_partition)
        self._undeleted[topic_partition] = log
        self._rename_deleted(topic_partition)

    def holds(self, topic_partition: TopicPartition) -> bool:
        """Whether there is a log of this partition here, be it one that cannot be used."""
        return topic_partition in self.logs or topic_partition in self.unusable

    def _delete_unusable(self, topic_partition: TopicPartition) -> None:
        parent, source = self._unusable_in[topic_partition]
        is_refused = topic_partition in self._refused
        suffix = STRAY_SUFFIX if is_refused else DELETE_SUFFIX
        target = f"{parent}/{renamed(topic_partition, self._random.randbytes(16), suffix)}"
        self.files.rename(source, target)
        if is_refused:
            logger.warning("%s was deleted; the files of another topic that lay there are kept in %s", source, target)
        else:
            self._removals.add(parent, self.clock.wall_ms(), target, is_directory=True)
        self.files.sync_dir(parent)
        self.cleaner.forget(parent, topic_partition)
        for file in (RECOVERY_POINT_FILE, LOG_START_FILE, HIGH_WATERMARK_FILE):
            self._kept_offsets.get((parent, file), {}).pop(topic_partition, None)
        self._refused.discard(topic_partition)
        del self.unusable[topic_partition], self._unusable_in[topic_partition]

    def _rename_deleted(self, topic_partition: TopicPartition) -> None:
        """Give a deleted log's directory the name under which it waits; what passes is tried again later."""
        with self._renaming:
            log = self._undeleted.pop(topic_partition, None)
            if log is None:
                return
            parent = log.log_directory
            target = f"{parent}/{renamed(topic_partition, self._random.randbytes(16), DELETE_SUFFIX)}"
            try:
                try:
                    self.files.rename(log.directory, target)
                except OSError as error:
                    if error.errno in PASSING:
                        self._undeleted[topic_partition] = log
                    raise
                due = self.clock.wall_ms() + log.config.file_delete_delay_ms
                self._removals.add(parent, due, target, is_directory=True)
                self.files.sync_dir(parent)
            except OSError as error:
                if error.errno in PASSING:
                    self._note_shortage(parent, error)
                    raise KafkaStorageError(f"{topic_partition} is deleted later: {error}") from error
                self._take_offline_soon(parent, f"{topic_partition}: {error}")
                raise

    def set_aside(self, topic_partition: TopicPartition) -> str:
        """Take a log away that belongs to no topic any more, and keep it; return where. May be called off the loop.

        Raises:
            OSError: the disk failed.
        """
        log = self.logs.pop(topic_partition)
        log.retire(f"{topic_partition} belongs to no topic")
        parent = log.log_directory
        target = f"{parent}/{renamed(topic_partition, self._random.randbytes(16), STRAY_SUFFIX)}"
        self.files.rename(log.directory, target)
        self.files.sync_dir(parent)
        return target

    def refuse(self, topic_partition: TopicPartition, reason: str) -> None:
        """Serve a log no more and keep its files where they are: they are not this topic's. Waits for the disk: off the loop.

        When the topic is deleted, they are set aside.
        """
        log = self.logs.pop(topic_partition)
        try:
            log.close()
        except (KafkaStorageError, StorageError) as error:
            logger.warning("%s could not be closed: %s", topic_partition, error)
            log.retire(f"{topic_partition} is not served")
        parent = log.log_directory
        self._keep_offsets(
            parent,
            topic_partition,
            recovery_point=log.recovery_point,
            log_start_offset=_checkpointed_log_start(log),
            high_watermark=log.high_watermark,
        )
        self._unusable_in[topic_partition] = parent, log.directory
        self._refused.add(topic_partition)
        self.unusable[topic_partition] = reason
        logger.error("%s: %s", topic_partition, reason)

    def _keep_offsets(
        self,
        directory: str,
        topic_partition: TopicPartition,
        *,
        recovery_point: int | None,
        log_start_offset: int | None,
        high_watermark: int | None,
    ) -> None:
        for file, offset in (
            (RECOVERY_POINT_FILE, recovery_point),
            (LOG_START_FILE, log_start_offset),
            (HIGH_WATERMARK_FILE, high_watermark),
        ):
            if offset is not None:
                self._kept_offsets.setdefault((directory, file), {})[topic_partition] = offset

    def directory_of(self, topic_partition: TopicPartition) -> str:
        """Return the log directory of a partition that is held here."""
        if topic_partition in self._unusable_in:
            return self._unusable_in[topic_partition][0]
        return self.logs[topic_partition].log_directory

    def change_settings(self, settings: LogManagerSettings) -> None:
        """Put other settings in force: limits of the cleaner and expiry at once, intervals from their next round on."""
        self.settings = settings
        self.cleaner.change_limits(
            memory_bytes=settings.cleaner_memory_bytes,
            load_factor=settings.cleaner_load_factor,
            bytes_per_second_max=settings.cleaner_bytes_per_second_max,
        )
        for log in list(self.logs.values()):
            log.producers.set_expiration(settings.producer_id_expiration_ms)

    def update_config(self, topic: str, config: LogConfig) -> None:
        """Give all logs of a topic a new configuration; it holds from the next append on."""
        if config.flush_ms < LONG_MAX:
            self._any_flush_ms = True
        for log in list(self.logs.values()):
            if log.topic_partition.topic == topic:
                log.config = config

    # -- hooks that logs call (LogHooks), on any thread

    def on_flush_due(self, log: PartitionLog) -> None:
        if log not in self._flush_due:
            self._flush_due[log] = None
            self._call_soon(self._flush_now, log)

    def on_files_removed(self, log: PartitionLog, paths: list[str]) -> None:
        due = self.clock.wall_ms() + log.config.file_delete_delay_ms
        for path in paths:
            self._removals.add(log.log_directory, due, path, is_directory=False)

    def on_refused(self, log: PartitionLog, error: OSError) -> None:
        self._note_shortage(log.log_directory, error)

    def _note_shortage(self, path: str, error: OSError) -> None:
        self._call_soon(self.shortages.note, path, error)

    def on_failed(self, log: PartitionLog, error: OSError) -> None:
        self._take_offline_soon(log.log_directory, f"{log.topic_partition}: {error}")

    def on_damaged(self, log: PartitionLog) -> None:
        self.damaged[log.topic_partition] = None
        self._call_soon(self.on_damage)

    def damages(self) -> dict[TopicPartition, list[tuple[Segment, Damage]]]:
        """Return what of which log cannot be read."""
        found = {}
        for topic_partition in list(self.damaged):
            log = self.logs.get(topic_partition)
            damages = [] if log is None else log.damages
            if damages:
                found[topic_partition] = damages
            else:  # deleted, with its segment or its topic
                self.damaged.pop(topic_partition, None)
        return found

    def _flush_now(self, log: PartitionLog) -> None:
        self._flush_due.pop(log, None)
        if log.failure is None:
            self.commit(log)

    def _call_soon(self, function: Callable[..., None], *args: object) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(function, *args)

    def _take_offline_soon(self, path: str, reason: str) -> None:
        self._call_soon(self._take_offline, path, reason)

    def _take_offline(self, path: str, reason: str) -> None:
        if path in self.offline_dirs:
            return
        self.offline_dirs[path] = reason
        self.shortages.forget(path)
        logger.error("log directory %s is offline: %s", path, reason)
        gone = [key for key, log in list(self.logs.items()) if log.log_directory == path]
        for topic_partition in gone:
            log = self.logs.pop(topic_partition, None)  # or just deleted, on another thread
            if log is not None:
                log.abandon(f"log directory {path} is offline: {reason}")
        self.on_directory_offline(path, gone)

    # -- flush

    def commits_of(self, log: PartitionLog) -> GroupCommit:
        """Return what brings this log and others of its directory to the disk together."""
        path = log.log_directory
        commits = self._commits.get(path)
        if commits is None:
            commits = self._commits[path] = GroupCommit(
                self.watched(path), self.clock.wall_ms, self._file_systems.get(path)
            )
        return commits

    def commit(self, log: PartitionLog) -> asyncio.Future[None]:
        """Return what resolves when everything appended to `log` so far is on the disk, or fails: see `GroupCommit`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # The caller may drop it: a failure reaches the owner through the log's hooks, too.
        future.add_done_callback(_look_at)
        self.commits_of(log).commit(log, partial(_settle, future))
        return future

    async def flush_by_time(self, directory: str | None = None) -> None:
        """Flush the logs whose oldest unflushed record is older than flush.ms."""
        if not self._any_flush_ms:
            return
        now_ms = self.clock.wall_ms()
        due = [
            self.commit(log)
            for log in self._logs_in(directory)
            if log.log_end_offset > log.recovery_point and now_ms - log.last_flush_ms >= log.config.flush_ms
        ]
        if due:
            await asyncio.wait(due)

    def _logs_in(self, directory: str | None) -> list[PartitionLog]:
        """The logs of one directory, or all."""
        logs = list(self.logs.values())
        if directory is None or len(self.directories) == 1:
            return logs
        return [log for log in logs if log.log_directory == directory]

    # -- checkpoints

    async def checkpoint(self, directory: str | None = None) -> set[str]:
        """Note recovery points, log starts and high watermarks, where they changed; return where that failed."""
        failed = await self.checkpoint_high_watermarks(directory)
        failed |= await self._checkpoint(directory, RECOVERY_POINT_FILE, lambda log: log.recovery_point)
        failed |= await self._checkpoint(directory, LOG_START_FILE, _checkpointed_log_start)
        return failed

    async def checkpoint_high_watermarks(self, directory: str | None = None) -> set[str]:
        """Note the high watermarks."""
        return await self._checkpoint(directory, HIGH_WATERMARK_FILE, lambda log: log.high_watermark)

    async def _checkpoint(
        self, directory: str | None, name: str, offset_of: Callable[[PartitionLog], int | None]
    ) -> set[str]:
        """Write one kind of checkpoint for one directory or, at the same time, for all."""
        paths = list(self.directories) if directory is None else [directory]
        results = await asyncio.gather(*(self._write_checkpoint(path, name, offset_of) for path in paths))
        return {path for path, is_written in zip(paths, results, strict=True) if not is_written}

    async def _write_checkpoint(self, path: str, name: str, offset_of: Callable[[PartitionLog], int | None]) -> bool:
        # One at a time: the timers of all checkpoints and of the high watermarks' fire together, and two writers of one
        # file would bring older offsets back.
        async with self._checkpointing.setdefault(path, asyncio.Lock()):
            if path in self.offline_dirs:
                return True
            offsets = dict(self._kept_offsets.get((path, name), {}))
            offsets.update(
                (log.topic_partition, offset) for log in self._logs_in(path) if (offset := offset_of(log)) is not None
            )
            try:
                # To its end: a stop cancels the timer that writes, and then writes the same file.
                await run_to_end(self.watched(path), self.directories[path].write_offsets, name, offsets)
            except OSError as error:
                if error.errno in PASSING:
                    self.shortages.note(path, error)
                    logger.info("%s could not be written to %s: %s", name, path, error)
                else:
                    self._take_offline(path, f"{name}: {error}")
                return False
            return True

    # -- background

    async def run(self) -> None:
        """Do the background work until cancelled; see `background`."""
        await run_in_background(self)

    async def apply_retention(self, directory: str | None = None) -> int:
        """Delete the segments that retention lets go; return how many. Foreign directories are left alone."""
        total = 0
        for path in list(self.directories) if directory is None else [directory]:
            if not self.directories[path].is_foreign:
                for logs in self._sliced(self._logs_in(path)):
                    total += await self.offload_of(path).run(self._retain, logs)
        return total

    def is_foreign(self, topic_partition: TopicPartition) -> bool:
        """Whether this log lies in a directory of Apache Kafka's that its owner has not confirmed: nothing in it expires."""
        log = self.logs.get(topic_partition)
        directory = None if log is None else self.directories.get(log.log_directory)
        return directory is not None and directory.is_foreign

    def deletable_logs(self) -> list[PartitionLog]:
        """Return the logs in which retention and compaction may delete."""
        foreign = {path for path, directory in self.directories.items() if directory.is_foreign}
        if not foreign:
            return list(self.logs.values())
        return [log for log in list(self.logs.values()) if log.log_directory not in foreign]

    def _retain(self, logs: list[PartitionLog]) -> int:
        total = 0
        for log in logs:
            try:
                total += log.delete_old_segments(self.clock.wall_ms(), by_time=self.is_clock_right())
            except StorageError:
                continue  # its directory is on its way offline, or the log was deleted meanwhile
            except OSError as error:
                log.on_io_error(error)
                logger.warning("retention of %s failed: %s", log.topic_partition, error)
            except Exception as error:
                logger.warning("retention of %s failed and is tried again: %s", log.topic_partition, error)
        return total

    async def clean_dirtiest(self) -> CleaningResult | None:
        """Compact the log that needs it most; None if none does. Foreign directories are left alone."""
        if not self.is_clock_right():
            return None  # tombstones and transactions' markers go by time
        return await self.cleaner.clean_dirtiest(self.deletable_logs(), self.directories)

    async def expire_producers(self, directory: str | None = None) -> int:
        """Forget silent producers; return how many."""
        total = 0
        if not self.is_clock_right():
            return total
        for path in list(self.directories) if directory is None else [directory]:
            for logs in self._sliced(self._logs_in(path)):
                total += await self.offload_of(path).run(_expire_all, logs, self.clock.wall_ms())
        return total

    async def remove_deleted_files(self, directory: str | None = None, *, all_of_them: bool = False) -> int:
        """Unlink what was deleted and whose delay is over; return how many files and directories."""
        total = 0
        for path in list(self.directories) if directory is None else [directory]:
            for topic_partition, log in list(self._undeleted.items()):
                if log.log_directory == path:
                    await self.offload_of(path).run(self._try_rename_deleted, topic_partition)
            total += await self._removals.run(path, all_of_them=all_of_them)
        return total

    def _try_rename_deleted(self, topic_partition: TopicPartition) -> None:
        try:
            self._rename_deleted(topic_partition)
        except (OSError, KafkaStorageError) as error:
            logger.warning("%s", error)

    def _sliced(self, logs: list[PartitionLog]) -> Iterable[list[PartitionLog]]:
        for start in range(0, len(logs), SLICE):
            yield logs[start : start + SLICE]

    # -- end

    async def close(self, *, broker_epoch: int = -1) -> None:
        """Flush and close all logs, write the checkpoints, and last the clean marker. `run` must have ended."""
        for commits in list(self._commits.values()):
            await commits.drain()
        unclean: dict[str, None] = {}
        slices = deque(self._sliced(list(self.logs.values())))

        async def lane() -> None:
            while slices:
                for path in await self._offload.run(_close_all, slices.popleft()):
                    unclean[path] = None

        await asyncio.gather(*(lane() for _ in range(min(CLOSE_LANES, len(slices)))))
        if self._loaded:
            unclean.update(dict.fromkeys(await self.checkpoint()))
        for path, directory in self.directories.items():
            if self._loaded and path not in unclean and path not in self.offline_dirs:
                try:
                    await self._offload.run(directory.write_clean_marker, broker_epoch)
                except OSError as error:
                    logger.error("%s: the clean marker cannot be written: %s", path, error)
            directory.close()
        for file_system in self._file_systems.values():
            if file_system is not None:
                file_system.close()
        self.open_files.close()


def _look_at(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    elif isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)


def _checkpointed_log_start(log: PartitionLog) -> int | None:
    """Only what the name of the first segment does not say."""
    return log.log_start_offset if log.log_start_offset > log.segments[0].base_offset else None


def _expire_all(logs: list[PartitionLog], now_ms: int) -> int:
    return sum(log.expire_producers(now_ms) for log in logs)


def _close_all(logs: list[PartitionLog]) -> list[str]:
    """Close logs; return the directories of those that could not be."""
    unclean = []
    for log in logs:
        try:
            log.close()
        except Exception as error:
            logger.error("%s could not be closed: %s", log.topic_partition, error)
            unclean.append(log.log_directory)
    return unclean
