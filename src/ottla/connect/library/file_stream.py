"""FileStreamSource and FileStreamSink: lines of a file into a topic, and records of topics as lines of a file.

Java's connectors of these names, with the same keys. The source counts bytes (Java counts characters), and knows the file
again by device, inode and a digest of its first bytes: a file that was cut off, or replaced by another one, is read from
its beginning, and what was left of a file that was renamed meanwhile is read first. A line counts when its newline is
there.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ottla.connect.config_def import NOT_EMPTY, ConfigDef, ConfigKey, ConfigType, Importance
from ottla.connect.connectors import SinkConnector, SinkTask, SourceConnector, SourceTask
from ottla.connect.errors import ConnectError
from ottla.connect.java_text import java_text
from ottla.connect.records import SinkRecord, SourceBatch, SourceRecord
from ottla.connect.schema import STRING

_HEAD = 256
_CHUNK = 1 << 16
#: Seconds between two looks for new lines.
_LOOK_S = 0.2


def _head_digest(file: IO[bytes], size: int) -> str:
    file.seek(0)
    return hashlib.sha256(file.read(size)).hexdigest()[:16]


class FileSourceTask(SourceTask):
    """Reads one file."""

    _file: IO[bytes] | None = None

    def start(self) -> None:
        if not self.values["file"]:
            raise ConnectError("FileStreamSource needs a file: its process has no standard input to read")
        self._path = Path(self.values["file"])
        self._position = 0
        self._rest = self._head = b""
        self._partition = {"filename": self.values["file"]}
        self._kept = self.context.offset(self._partition)

    def preview(self, rows: int) -> Sequence[SourceRecord] | None:
        # What is read from standard input is gone.
        return self.first_rows(rows) if self.values["file"] else None

    def poll(self) -> Sequence[SourceBatch] | None:
        if self._file is None and not self._open():
            self.context.wait(_LOOK_S)
            return None
        records = self._lines() or self._turn()
        if records is None:
            self.context.wait(_LOOK_S)
        return records

    def _open(self) -> bool:
        """Open the file, where reading goes on; first a renamed one that was not read to its end."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            for path in (self._path, *self._renamed(kept)):
                if self._resume(path, kept):
                    return True
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            return False
        self._position, self._rest, self._head = 0, b"", b""
        return True

    def _renamed(self, kept: Mapping[str, Any]) -> list[Path]:
        """Return files beside this one that have the inode of the one that was read."""
        if "inode" not in kept or not self._path.parent.is_dir():
            return []
        with os.scandir(self._path.parent) as entries:
            others = [entry for entry in entries if entry.name != self._path.name and entry.is_file()]
        return [Path(entry.path) for entry in others if entry.inode() == kept["inode"]]

    def _resume(self, path: Path, kept: Mapping[str, Any]) -> bool:
        """Open a file where it was left, if it is the one; Java's offsets have a position only."""
        position = kept.get("position")
        if not isinstance(position, int) or isinstance(position, bool) or position < 0:
            raise ConnectError(f"The offset {dict(kept)} of {self._path} has no position")
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        status = os.fstat(file.fileno())
        same = status.st_size >= position and (
            "inode" not in kept
            or (
                (status.st_dev, status.st_ino) == (kept.get("device"), kept["inode"])
                and _head_digest(file, int(kept.get("head.size", 0))) == kept.get("head")
            )
        )
        if not same:
            file.close()
            return False
        file.seek(position)
        self._file, self._position, self._rest, self._head = file, position, b"", b""
        return True

    def _lines(self) -> list[SourceBatch]:
        """Return the lines that are there, each with its newline."""
        assert self._file is not None
        file = self._file
        if len(self._head) < _HEAD:
            file.seek(0)
            self._head = file.read(_HEAD)
        file.seek(self._position + len(self._rest))
        found: list[bytes] = []
        limit: int = self.values["batch.size"]
        while len(found) < limit:
            *lines, self._rest = self._rest.split(b"\n", limit - len(found))
            found += lines
            if not lines or b"\n" not in self._rest:
                more = file.read(_CHUNK)
                if not more:
                    break
                self._rest += more
        self._position += sum(map(len, found)) + len(found)
        return [self._batch(found, os.fstat(file.fileno()))] if found else []

    def _batch(self, lines: Sequence[bytes], status: os.stat_result) -> SourceBatch:
        size = min(self._position, _HEAD, len(self._head))
        digest = hashlib.sha256(self._head[:size]).hexdigest()[:16]
        place = {
            "position": self._position,
            "device": status.st_dev,
            "inode": status.st_ino,
            "head.size": size,
            "head": digest,
        }
        return SourceBatch(
            topic=self.values["topic"],
            value_schema=STRING,
            values=[line.removesuffix(b"\r").decode("utf-8", "replace") for line in lines],
            timestamp=time.time_ns() // 1_000_000,
            source_partition=self._partition,
            source_offset=place,
        )

    def _turn(self) -> list[SourceBatch] | None:
        """Begin with another file, if this one was read to its end and another one has its name, or if it was cut off.

        What is left without a newline gets none any more: it is the last line.
        """
        assert self._file is not None
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return None
        here = os.fstat(self._file.fileno())
        read = self._position + len(self._rest)
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            if here.st_size >= read:
                return None
        elif here.st_size > read:
            return None
        self._file.close()
        self._file = None
        self._position = read
        return [self._batch([self._rest], here)] if self._rest else []

    def stop(self) -> None:
        if self._file is not None:
            self._file.close()


class FileStreamSourceConnector(SourceConnector):
    """Lines of a file, each a record."""

    CONFIG = ConfigDef(
        ConfigKey(name="file", default=None, importance=Importance.HIGH, documentation="The file; a task needs one."),
        ConfigKey(name="topic", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="The topic."),
        ConfigKey(
            name="batch.size",
            type=ConfigType.INT,
            default=2000,
            importance=Importance.LOW,
            documentation="The most lines that are read at once.",
        ),
    )
    Task = FileSourceTask

    def exactly_once_support(self) -> bool:
        return True

    def alter_offsets(self, offsets: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> bool:
        """Java's words, which tools read."""
        if not self.values.get("file"):
            raise ConnectError(
                "Offsets cannot be modified since the 'file' configuration is unspecified. This is because stdin is used for "
                "input and offsets are not tracked."
            )
        for partition, offset in offsets:
            if "filename" not in partition:
                raise ConnectError("Partition objects should contain the key 'filename'")
            if offset is None:
                continue
            if "position" not in offset:
                raise ConnectError("Offset objects should either be null or contain the key 'position'")
            position = offset["position"]
            if not isinstance(position, int) or isinstance(position, bool):
                raise ConnectError("The value for the 'position' key in the offset is expected to be a Long value")
            if position < 0:
                raise ConnectError("The value for the 'position' key in the offset should be a non-negative value")
        return True


class FileSinkTask(SinkTask):
    """Writes one file."""

    _file: IO[str] | None = None

    def start(self) -> None:
        name = self.values["file"]
        if not name:
            return
        try:
            self._file = open(name, "a", encoding="utf-8", newline="")  # noqa: SIM115 - stop() closes it
        except OSError as error:
            raise ConnectError(f"The file {name} cannot be opened for writing: {error.strerror}") from error

    def put(self, records: Sequence[SinkRecord]) -> None:
        out = self._file or sys.stdout
        out.writelines(f"{java_text(record.value_schema, record.value)}\n" for record in records)

    def flush(self) -> None:
        out = self._file or sys.stdout
        out.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())

    def stop(self) -> None:
        if self._file is not None:
            self._file.close()


class FileStreamSinkConnector(SinkConnector):
    """Records as lines at the end of a file; standard output without one."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="file",
            default=None,
            importance=Importance.HIGH,
            documentation="The file; standard output without it.",
        )
    )
    Task = FileSinkTask

    def plan(self, records: Sequence[SinkRecord]) -> Sequence[str]:
        name = self.values["file"]
        lines = f"{len(records)} line{'' if len(records) == 1 else 's'}"
        if not name:
            return [f"{lines} on standard output"]
        try:
            size = os.stat(name).st_size
        except FileNotFoundError:
            return [f"makes the file {name}, with {lines}"]
        return [f"{lines} at the end of {name}, which has {size} bytes"]

    def alter_offsets(self, offsets: Sequence[tuple[str, int, int | None]]) -> bool:
        return True
