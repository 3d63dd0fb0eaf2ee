"""One log directory (an entry of `log.dirs`): whose it is, how it was left, its checkpoints.

Refuses what must not be touched: a directory in use, of another cluster or node, or of a newer format. Recognises
directories that Apache Kafka wrote: KRaft keeps the topics' configuration elsewhere, so retention and compaction with
defaults could destroy data; such a directory is `foreign` until the user confirms it, then it gets our marker.

The files are Kafka's (see `checkpoints`), and one of ours: `.ottla`, the marker with the format's version.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.errors import StorageError
from ottla.storage.checkpoints import (
    CLEAN_SHUTDOWN_FILE,
    CLEANER_FILE,
    HIGH_WATERMARK_FILE,
    LOCK_FILE,
    LOG_START_FILE,
    META_PROPERTIES_FILE,
    RECOVERY_POINT_FILE,
    CorruptCheckpointError,
    MetaProperties,
    decode_meta_properties,
    decode_offsets,
    encode_clean_shutdown,
    encode_offsets,
)
from ottla.types import TopicPartition, uuid_to_text

if TYPE_CHECKING:
    import random

    from ottla.storage.files import FileLock, Files

logger = logging.getLogger(__name__)

MARKER_FILE = ".ottla"
#: Lies here while `ottla cluster import` is under way: part of the topics may not be in the cluster's tree yet.
IMPORT_FILE = "cluster-import.json"
FORMAT_VERSION = 1
#: What only Apache Kafka in KRaft mode writes.
KRAFT_NAMES = ("bootstrap.checkpoint", "__cluster_metadata-0")
CLUSTER_METADATA_TOPIC = "__cluster_metadata"
DELETE_SUFFIX = "-delete"
FUTURE_SUFFIX = "-future"
STRAY_SUFFIX = "-stray"
_NAME_MAX = 255


def parse_partition_name(name: str) -> TopicPartition | None:
    """Return the partition whose directory has this name, or None if it is none's."""
    topic, dash, partition = name.rpartition("-")
    if not dash or not topic or not partition.isdigit() or not partition.isascii() or topic == CLUSTER_METADATA_TOPIC:
        return None
    return TopicPartition(topic, int(partition))


def renamed(topic_partition: TopicPartition, unique: bytes, suffix: str) -> str:
    """Return the name under which a partition's directory waits for deletion: at most 255 characters."""
    tail = f".{unique.hex()}{suffix}"
    return f"{topic_partition}"[: _NAME_MAX - len(tail)] + tail


def read_meta_properties(files: Files, path: str) -> MetaProperties | None:
    """Return whose directory it is, None if it is new.

    Raises:
        StorageError: the file is broken or of a newer version.
    """
    name = f"{path}/{META_PROPERTIES_FILE}"
    if not files.exists(name):
        return None
    try:
        return decode_meta_properties(files.read_bytes(name), name)
    except CorruptCheckpointError as error:
        raise StorageError(str(error)) from error
    except IsADirectoryError:
        raise StorageError(f"{name} is a directory and should be a file: put the file back") from None


@dataclass(slots=True)
class Checkpoints:
    """Offsets by partition, as they were at the last stop or checkpoint; empty where a file cannot be read.

    `recovery_points` is None then: nothing says how much of a log was on the disk.
    """

    recovery_points: dict[TopicPartition, int] | None = field(default_factory=dict)
    log_starts: dict[TopicPartition, int] = field(default_factory=dict)
    high_watermarks: dict[TopicPartition, int] = field(default_factory=dict)


class LogDirectory:
    """A directory that this process holds.

    Attributes:
        path: without a slash at the end.
        is_clean: whether the last process to hold it stopped cleanly; known after `open`.
        is_foreign: whether Apache Kafka wrote it and its owner has not confirmed that ottla may delete in it.
        names: what was in it when it was opened.
    """

    def __init__(self, files: Files, path: str) -> None:
        self.files = files
        self.path = path
        self.is_clean = False
        self.is_foreign = False
        self.names: list[str] = []
        self.directory_id: str | None = None
        self._lock: FileLock | None = None
        self._written: dict[str, bytes] = {}

    def open(
        self, *, cluster_id: str | None, node_id: int, random: random.Random, foreign_confirmed: bool
    ) -> MetaProperties:
        """Make or take the directory, and learn how it was left; nothing in it is used before `begin`.

        Raises:
            StorageError: it must not be used; one sentence says why.
            OSError: the disk failed.
        """
        if not self.files.is_dir(self.path):
            self.files.mkdir(self.path)
            self.files.sync_dir(self.path.rpartition("/")[0] or ".")
        try:
            self._lock = self.files.lock(f"{self.path}/{LOCK_FILE}")
        except BlockingIOError:
            raise StorageError(f"{self.path} is in use by another process (its {LOCK_FILE} is locked)") from None
        self.names = self.files.listdir(self.path)
        self._check_format()
        properties = self._check_owner(cluster_id, node_id, random)
        if MARKER_FILE not in self.names:
            self.is_foreign = any(name in self.names for name in KRAFT_NAMES) and not foreign_confirmed
            if not self.is_foreign:
                marker = json.dumps({"format": FORMAT_VERSION}, separators=(",", ":"))
                self.files.write_atomic(f"{self.path}/{MARKER_FILE}", marker.encode())
        self.is_clean = CLEAN_SHUTDOWN_FILE in self.names
        return properties

    def begin(self) -> None:
        """Take the clean marker away: from now on logs are opened, and only a clean stop writes it again."""
        if self.is_clean:
            self.files.remove(f"{self.path}/{CLEAN_SHUTDOWN_FILE}")
            self.files.sync_dir(self.path)

    def _check_format(self) -> None:
        if IMPORT_FILE in self.names:
            raise StorageError(
                f"the import of {self.path} into a cluster was interrupted ({IMPORT_FILE} is there): run ottla cluster "
                "import again, with the same options"
            )
        if MARKER_FILE in self.names:
            path = f"{self.path}/{MARKER_FILE}"
            try:
                version = json.loads(self.files.read_bytes(path))["format"]
            except (ValueError, KeyError, TypeError):
                raise StorageError(f"{path} cannot be read: is it a file of ottla?") from None
            if version != FORMAT_VERSION:
                raise StorageError(
                    f"{self.path} has the format {version} of a newer ottla; this one reads format {FORMAT_VERSION}"
                )

    def _check_owner(self, cluster_id: str | None, node_id: int, random: random.Random) -> MetaProperties:
        known = read_meta_properties(self.files, self.path)
        if known is None:
            known = MetaProperties(
                version=1,
                cluster_id=cluster_id,
                node_id=node_id,
                directory_id=uuid_to_text(random.randbytes(16)),
            )
            self.files.write_atomic(f"{self.path}/{META_PROPERTIES_FILE}", known.encode())
        elif cluster_id is not None and known.cluster_id not in (None, cluster_id):
            raise StorageError(f"{self.path} belongs to the cluster {known.cluster_id}, this one is {cluster_id}")
        elif known.node_id not in (None, node_id):
            raise StorageError(f"{self.path} belongs to the broker {known.node_id}, this one is {node_id}")
        self.directory_id = known.directory_id
        return known

    def read_checkpoints(self) -> Checkpoints:
        """Return the offsets of the last checkpoint; a missing file is an empty one, a damaged one is reported."""
        return Checkpoints(
            self._read_offsets(RECOVERY_POINT_FILE, "every log of this directory is read again"),
            self._read_offsets(LOG_START_FILE, "logs begin with their first segment: deleted records may come back")
            or {},
            self._read_offsets(HIGH_WATERMARK_FILE, "high watermarks begin at the log starts") or {},
        )

    def read_cleaner_offsets(self) -> dict[TopicPartition, int]:
        """Return the first dirty offsets of compacted partitions."""
        return self._read_offsets(CLEANER_FILE, "compacted logs are cleaned from their start on") or {}

    def _read_offsets(self, name: str, consequence: str) -> dict[TopicPartition, int] | None:
        if name not in self.names:
            return {}
        path = f"{self.path}/{name}"
        try:
            return decode_offsets(self.files.read_bytes(path), path)
        except CorruptCheckpointError as error:
            logger.error("%s is damaged: %s; %s", path, error, consequence)
            return None

    def write_offsets(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Write an offset checkpoint, unless the same was written before."""
        data = encode_offsets(offsets)
        if self._written.get(name) != data:
            self.files.write_atomic(f"{self.path}/{name}", data)
            self._written[name] = data

    def partition_names(self) -> Iterable[tuple[str, TopicPartition]]:
        """Yield (name, partition) of the partitions that were here when the directory was opened."""
        for name in self.names:
            topic_partition = parse_partition_name(name)
            if topic_partition is not None and self.files.is_dir(f"{self.path}/{name}"):
                yield name, topic_partition

    def write_clean_marker(self, broker_epoch: int) -> None:
        """Say that all logs were closed: the last thing before the end."""
        self.files.write_atomic(f"{self.path}/{CLEAN_SHUTDOWN_FILE}", encode_clean_shutdown(broker_epoch))

    def close(self) -> None:
        """Let others use it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
