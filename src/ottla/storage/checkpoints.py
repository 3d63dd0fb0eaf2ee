"""Kafka's small text files: offset checkpoints, leader epochs, partition.metadata, meta.properties, the clean marker.

    *-offset-checkpoint, leader-epoch-checkpoint    "0", number of rows, rows separated by blanks
    partition.metadata                              "version: 0", "topic_id: <uuid>"
    meta.properties                                 Java properties
    .kafka_cleanshutdown                            JSON

Text in, values out and back: no files here. A file that is not as expected raises `CorruptCheckpointError`: its
directory goes offline rather than being guessed at. Sources: Kafka's CheckpointFile, OffsetCheckpointFile,
PartitionMetadataFile, MetaProperties, CleanShutdownFileHandler.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ottla.storage.config import LONG_MAX
from ottla.types import TopicPartition, uuid_from_text, uuid_to_text

RECOVERY_POINT_FILE = "recovery-point-offset-checkpoint"
LOG_START_FILE = "log-start-offset-checkpoint"
HIGH_WATERMARK_FILE = "replication-offset-checkpoint"
CLEANER_FILE = "cleaner-offset-checkpoint"
LEADER_EPOCH_FILE = "leader-epoch-checkpoint"
PARTITION_METADATA_FILE = "partition.metadata"
META_PROPERTIES_FILE = "meta.properties"
CLEAN_SHUTDOWN_FILE = ".kafka_cleanshutdown"
LOCK_FILE = ".lock"


class CorruptCheckpointError(ValueError):
    """A checkpoint file is not what Kafka or we would have written."""


def encode_rows(rows: Iterable[str]) -> bytes:
    """Return a version 0 checkpoint file with these rows."""
    lines = list(rows)
    return ("\n".join(["0", str(len(lines)), *lines]) + "\n").encode()


def decode_rows(data: bytes, columns: int, where: str) -> list[list[str]]:
    """Return the rows of a version 0 checkpoint file, split; none if the file ends before it says how many.

    Kafka leaves `cleaner-offset-checkpoint` empty until something was cleaned.

    Raises:
        CorruptCheckpointError: another version, a wrong count, a row of another shape.
    """
    lines = _text(data, where).splitlines()
    if not lines:
        return []
    if lines[0].strip() != "0":
        raise CorruptCheckpointError(f"{where}: version {lines[0]!r}, this release reads version 0")
    if len(lines) == 1:
        return []
    if not _is_number(lines[1].strip()) or int(lines[1]) != len(lines) - 2:
        raise CorruptCheckpointError(f"{where}: {len(lines) - 2} rows, the second line says otherwise")
    rows = [line.split() for line in lines[2:]]
    for number, row in enumerate(rows):
        if len(row) != columns or not all(_is_number(field) for field in row[columns - 2 :]):
            raise CorruptCheckpointError(f"{where}: line {number + 3} is not as expected: {lines[number + 2]!r}")
    return rows


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CorruptCheckpointError(f"{where}: the file holds bytes that are no text") from None


def _is_number(text: str) -> bool:
    """Whether these are the digits of a number of 64 bits."""
    digits = text.removeprefix("-")
    return len(digits) <= 20 and digits.isascii() and digits.isdigit() and int(digits) <= LONG_MAX


def encode_offsets(offsets: Mapping[TopicPartition, int]) -> bytes:
    """Return an offset checkpoint file."""
    return encode_rows(f"{topic} {partition} {offset}" for (topic, partition), offset in offsets.items())


def decode_offsets(data: bytes, where: str) -> dict[TopicPartition, int]:
    """Return the offsets of an offset checkpoint file.

    Raises:
        CorruptCheckpointError: it is none.
    """
    return {TopicPartition(row[0], int(row[1])): int(row[2]) for row in decode_rows(data, 3, where)}


def encode_partition_metadata(topic_id: bytes) -> bytes:
    """Return the content of partition.metadata."""
    return f"version: 0\ntopic_id: {uuid_to_text(topic_id)}".encode()


def decode_partition_metadata(data: bytes, where: str) -> bytes:
    """Return the topic id of a partition.metadata file.

    Raises:
        CorruptCheckpointError: it is none.
    """
    fields = dict(line.partition(": ")[::2] for line in data.decode(errors="replace").splitlines())
    if fields.get("version", "").strip() != "0":
        raise CorruptCheckpointError(f"{where}: version {fields.get('version')!r}, this release reads version 0")
    try:
        return uuid_from_text(fields.get("topic_id", "").strip())
    except ValueError as error:
        raise CorruptCheckpointError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaProperties:
    """Whose directory it is."""

    #: 0: written by a Kafka with ZooKeeper; 1: KRaft's, and ours.
    version: int
    cluster_id: str | None
    node_id: int | None
    directory_id: str | None

    def encode(self) -> bytes:
        """Return the content of meta.properties."""
        fields = {"cluster.id": self.cluster_id, "directory.id": self.directory_id}
        fields["node.id" if self.version else "broker.id"] = None if self.node_id is None else str(self.node_id)
        fields["version"] = str(self.version)
        lines = [f"{key}={value}" for key, value in sorted(fields.items()) if value is not None]
        return ("\n".join(["#", *lines]) + "\n").encode()


def decode_meta_properties(data: bytes, where: str) -> MetaProperties:
    """Read meta.properties.

    Raises:
        CorruptCheckpointError: a newer version, a broken one, or no text.
    """
    fields = {}
    for line in _text(data, where).splitlines():
        line = line.strip()
        if line and line[0] not in "#!":
            key, _, value = line.partition("=")
            fields[key.strip()] = value.strip().replace("\\:", ":").replace("\\=", "=")
    version = fields.get("version", "0")
    if version not in ("0", "1"):
        raise CorruptCheckpointError(f"{where}: version {version!r}; this release reads 0 and 1")
    node = fields.get("node.id" if version == "1" else "broker.id")
    if node is not None and not _is_number(node):
        raise CorruptCheckpointError(f"{where}: {node!r} is no node id")
    return MetaProperties(
        version=int(version),
        cluster_id=fields.get("cluster.id"),
        node_id=None if node is None else int(node),
        directory_id=fields.get("directory.id"),
    )


def encode_clean_shutdown(broker_epoch: int) -> bytes:
    """Return the content of the file that says that all logs were closed."""
    return json.dumps({"version": 0, "brokerEpoch": broker_epoch}, separators=(",", ":")).encode()
