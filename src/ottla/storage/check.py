"""`ottla log check`: everything that is wrong in a log directory, or in one partition's directory, and where.

Finds out what the directory is, keeps brokers out of it meanwhile, and has `partition_check` look at each partition.
Changes nothing on the disk.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ottla.errors import StorageError
from ottla.storage.checkpoints import (
    CLEAN_SHUTDOWN_FILE,
    CLEANER_FILE,
    HIGH_WATERMARK_FILE,
    LOCK_FILE,
    LOG_START_FILE,
    META_PROPERTIES_FILE,
    PARTITION_METADATA_FILE,
    RECOVERY_POINT_FILE,
    CorruptCheckpointError,
    decode_meta_properties,
    decode_partition_metadata,
)
from ottla.storage.directory_state import OFFSET_FILES, DirectoryState, lock_directory, parent_of, read_directory
from ottla.storage.findings import Finding, Kind
from ottla.storage.log_directory import (
    CLUSTER_METADATA_TOPIC,
    DELETE_SUFFIX,
    FORMAT_VERSION,
    FUTURE_SUFFIX,
    KRAFT_NAMES,
    MARKER_FILE,
    STRAY_SUFFIX,
    parse_partition_name,
)
from ottla.storage.open_files import OpenFiles
from ottla.storage.partition_check import PartitionCheck, segment_bases
from ottla.types import TopicPartition, uuid_to_text

if TYPE_CHECKING:
    from ottla.storage.files import FileLock, Files

TREE_FILE = "ottla.sqlite"
#: What a supervisor of several brokers keeps beside the first one's data.
SUPERVISOR_FILES = ("tree.sock", "supervisor.lock", "broker.pid", "brokers")
_SQLITE_MAGIC = b"SQLite format 3\0"
_FILES = {
    *OFFSET_FILES,
    CLEAN_SHUTDOWN_FILE,
    LOCK_FILE,
    META_PROPERTIES_FILE,
    MARKER_FILE,
    TREE_FILE,
    *SUPERVISOR_FILES,
}
_KNOWN_NAMES = {*_FILES, *KRAFT_NAMES}
#: What a broker keeps beside its logs: the coordination tree (`broker.broker`), an index of Apache Kafka's.
_KNOWN_BEGINNINGS = (TREE_FILE, "remote-log-index-cache")
_UNREADABLE_CHECKPOINTS = {
    RECOVERY_POINT_FILE: "the next start reads every log of this directory again",
    LOG_START_FILE: "logs begin with their first segment: deleted records may come back",
    HIGH_WATERMARK_FILE: "high watermarks begin at the log starts",
    CLEANER_FILE: "compacted logs are compacted from their start on",
}
_SET_ASIDE = {
    DELETE_SUFFIX: "a partition that was deleted and waits for its removal",
    FUTURE_SUFFIX: "a partition on its way from another log directory",
    STRAY_SUFFIX: "a partition that was set aside, or the copy that a repair made",
}


class NoLogError(StorageError):
    """A directory that is neither a log directory nor a partition's."""


class LogCheck:
    """One look at `path`; use it as a context manager, which keeps brokers out.

    Attributes:
        partitions: how many are there.
        total_bytes: how much has to be read.
    """

    def __init__(
        self, files: Files, path: str, *, deep: bool = False, on_read: Callable[[int], None] = lambda _count: None
    ) -> None:
        self._files = files
        self._path = path.rstrip("/") or "/"
        self._deep = deep
        self._on_read = on_read
        self._lock: FileLock | None = None
        self._open_files = OpenFiles(files, 64)
        self._state: DirectoryState | None = None
        self._is_one_partition = False
        self._checks: list[PartitionCheck] = []
        self.total_bytes = 0

    def __enter__(self) -> Self:
        """Take the directory.

        Raises:
            InUseError: a broker runs.
            NoLogError: it is no directory of logs.
            OSError: the disk failed, or there is no such directory.
        """
        names = self._files.listdir(self._path)
        self._is_one_partition = bool(segment_bases(names)) or (
            parse_partition_name(self._path.rpartition("/")[2]) is not None and "partition.metadata" in names
        )
        home = parent_of(self._path) if self._is_one_partition else self._path
        self._lock = lock_directory(self._files, home, create=False)
        try:
            self._prepare(home)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let brokers in again."""
        self._open_files.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    @property
    def partitions(self) -> int:
        return len(self._checks)

    def _prepare(self, home: str) -> None:
        self._state = state = read_directory(self._files, home)
        if self._is_one_partition:
            directories = [self._path]
        elif state.is_log_directory:
            directories = [
                f"{home}/{name}"
                for name in state.names
                if parse_partition_name(name) is not None and self._files.is_dir(f"{home}/{name}")
            ]
        else:
            raise NoLogError(f"{self._path} is neither a log directory nor the directory of a partition")
        for directory in directories:
            topic_partition = parse_partition_name(directory.rpartition("/")[2])
            check = PartitionCheck(
                self._open_files,
                directory,
                topic_partition,
                state.known(topic_partition),
                deep=self._deep,
                on_read=self._on_read,
            )
            self._checks.append(check)
            self.total_bytes += check.total_bytes()

    def run(self) -> Iterator[Finding]:
        """Yield what is found, while reading.

        Raises:
            OSError: a directory cannot be read.
        """
        if not self._is_one_partition:
            yield from self._check_directory()
        yield from self._tell_unclean()
        for check in self._checks:
            yield from check.run()
            check.segments.clear()
        yield from self._check_topic_ids()

    def _check_directory(self) -> Iterator[Finding]:
        state = self._state
        assert state is not None
        for name, problem in state.problems.items():
            yield self._finding(
                Kind.CHECKPOINT,
                name,
                f"the checkpoint cannot be read: {problem}",
                _UNREADABLE_CHECKPOINTS[name],
                "nothing: the broker writes it anew when it stops",
            )
        if META_PROPERTIES_FILE in state.names:
            try:
                data = self._files.read_bytes(f"{state.path}/{META_PROPERTIES_FILE}")
                decode_meta_properties(data, META_PROPERTIES_FILE)
            except (OSError, ValueError, CorruptCheckpointError) as error:
                yield self._finding(
                    Kind.IDENTITY,
                    META_PROPERTIES_FILE,
                    f"it cannot be read: {str(error).removeprefix(f'{META_PROPERTIES_FILE}: ')}",
                    "the broker does not start with this directory",
                    "nothing: write it anew by hand (cluster.id, node.id, version=1), or take it from a copy",
                )
        if MARKER_FILE in state.names:
            try:
                version = json.loads(self._files.read_bytes(f"{state.path}/{MARKER_FILE}"))["format"]
                problem = "" if version == FORMAT_VERSION else f"it has the format {version} of a newer ottla"
            except (OSError, ValueError, KeyError, TypeError):
                problem = "it cannot be read"
            if problem:
                does = "the broker does not start with this directory"
                yield self._finding(Kind.IDENTITY, MARKER_FILE, problem, does, "leaves it alone")
        yield from self._check_tree(state)
        yield from self._check_names(state)
        here = {check.topic_partition for check in self._checks}
        for name, rows in state.offsets.items():
            for topic_partition in rows or {}:
                if topic_partition not in here and topic_partition.topic != CLUSTER_METADATA_TOPIC:
                    yield self._stale_row(name, topic_partition)

    def _check_tree(self, state: DirectoryState) -> Iterator[Finding]:
        """Look at how the coordination tree's file begins: what is in it, the broker knows."""
        if TREE_FILE not in state.names:
            return
        problem = ""
        try:
            file = self._files.open(f"{state.path}/{TREE_FILE}", write=False)
            try:
                head = file.pread(len(_SQLITE_MAGIC), 0)
            finally:
                file.close()
            if head and head != _SQLITE_MAGIC:
                problem = "it is no SQLite database"
        except OSError as error:
            problem = f"it cannot be read: {error.strerror or error}"
        if problem:
            yield self._finding(
                Kind.TREE, TREE_FILE, problem, "a broker does not start with it", "nothing: take it from a backup"
            )

    def _check_topic_ids(self) -> Iterator[Finding]:
        """Compare the topics' ids of partitions that are neighbours; which one is right, the coordination tree knows."""
        state = self._state
        assert state is not None
        ids: dict[str, dict[str, bytes]] = {}
        for name in state.names:
            topic_partition = parse_partition_name(name)
            if topic_partition is None or not state.is_log_directory:
                continue
            try:
                data = self._files.read_bytes(f"{state.path}/{name}/{PARTITION_METADATA_FILE}")
                ids.setdefault(topic_partition.topic, {})[name] = decode_partition_metadata(data, name)
            except (OSError, CorruptCheckpointError):
                continue  # missing, or told already
        for check in self._checks:
            of_topic = ids.get(check.topic_partition.topic, {})
            own = of_topic.get(check.name)
            counts = Counter(of_topic.values())
            if own is None or all(count < counts[own] for topic_id, count in counts.items() if topic_id != own):
                continue
            other = next(name for name, topic_id in of_topic.items() if topic_id != own)
            yield Finding(
                kind=Kind.PARTITION_METADATA,
                partition=check.name,
                file=PARTITION_METADATA_FILE,
                problem=f"the topic's id is {uuid_to_text(own)}, but {other} has {uuid_to_text(of_topic[other])}",
                consequence="the broker serves only partitions with the id that it knows, and keeps the files of others",
                remedy="leaves it: put the id that kafka-topics --describe shows into the file with the wrong one",
            )

    def _tell_unclean(self) -> Iterator[Finding]:
        """One note for all partitions that were not closed: after a crash these are nearly all, and most are empty."""
        assert self._state is not None
        unclean = [check for check in self._checks if not check.known.is_clean and check.total_bytes()]
        if not unclean:
            return
        which = unclean[0].name if len(unclean) == 1 else f"each of {len(unclean)} partitions with batches"
        was_stopped = self._state.is_clean
        yield self._finding(
            Kind.UNCLEAN,
            RECOVERY_POINT_FILE if was_stopped else CLEAN_SHUTDOWN_FILE,
            f"{'a row' if was_stopped else 'it'} is missing, because the last stop was not a clean one: the next start "
            f"reads the end of {which} again and builds its indexes anew (they are not checked here)",
            "nothing that is wrong",
            "nothing",
        )

    def _check_names(self, state: DirectoryState) -> Iterator[Finding]:
        for name in state.names:
            is_directory = self._files.is_dir(f"{state.path}/{name}")
            if is_directory and name.removesuffix(".tmp") in _FILES:
                yield self._finding(
                    Kind.ODD_NAME,
                    name,
                    "a directory, where a broker reads or writes a file",
                    "the broker does not start or stop with it",
                    "nothing: move it away",
                )
                continue
            if name in _KNOWN_NAMES or name.startswith(_KNOWN_BEGINNINGS):
                continue
            if is_directory and parse_partition_name(name) is not None:
                continue
            suffix = next((suffix for suffix in _SET_ASIDE if name.endswith(suffix)), None)
            if is_directory and suffix is not None:
                does = "the broker removes it" if suffix == DELETE_SUFFIX else "nothing: brokers leave it alone"
                yield self._finding(Kind.LEFTOVER, name, f"{_SET_ASIDE[suffix]}; not checked", does, "leaves it alone")
            elif name.endswith(".tmp") and not is_directory:
                yield self._finding(
                    Kind.LEFTOVER,
                    name,
                    "a file that was being written when the broker died",
                    "nothing: the broker writes it anew",
                    "leaves it alone",
                )
            else:
                does = "ottla leaves it alone" + ("; Apache Kafka does not start with it" if is_directory else "")
                yield self._finding(Kind.UNKNOWN_FILE, name, "no file of a log directory", does, "leaves it alone")

    def _stale_row(self, name: str, topic_partition: TopicPartition) -> Finding:
        return self._finding(
            Kind.STALE_ROW,
            name,
            f"it has a row for {topic_partition}, whose directory is not here (a deleted topic, or a lost directory)",
            "nothing",
            "leaves it alone",
        )

    def _finding(self, kind: Kind, file: str, problem: str, consequence: str, remedy: str) -> Finding:
        return Finding(kind=kind, partition="", file=file, problem=problem, consequence=consequence, remedy=remedy)
