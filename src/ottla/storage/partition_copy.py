"""A copy of a partition's directory, under a name that brokers neither open as a partition nor remove.

While it is being made it has the name of a deleted partition: if the copying is interrupted, the next broker removes
what is there of it. Complete, it has the name of a stray one (`<topic>-<partition>.<unique>-stray`), which ottla leaves
alone; Apache Kafka loads such a directory and keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.errors import StorageError
from ottla.storage.log_directory import DELETE_SUFFIX, STRAY_SUFFIX, renamed

if TYPE_CHECKING:
    from ottla.storage.files import Files
    from ottla.types import TopicPartition

_SLICE_BYTES = 1 << 20


def directory_bytes(files: Files, directory: str) -> int:
    """Return the size of all files in a directory."""
    total = 0
    for name in files.listdir(directory):
        path = f"{directory}/{name}"
        total += directory_bytes(files, path) if files.is_dir(path) else files.size(path)
    return total


def copy_name(topic_partition: TopicPartition, unique: bytes) -> str:
    """Return the name of a complete copy."""
    return renamed(topic_partition, unique, STRAY_SUFFIX)


def copy_aside(
    files: Files,
    directory: str,
    parent: str,
    topic_partition: TopicPartition,
    unique: bytes,
    on_copied: Callable[[int], None],
) -> str:
    """Copy a partition's directory into `parent`, durably; return the copy's path.

    Args:
        files: the file system.
        directory: what is copied.
        parent: where the copy goes, on any disk.
        topic_partition: names the copy.
        unique: makes the name unique.
        on_copied: called with the bytes copied since the last call.

    Raises:
        StorageError: the copy is not what was copied.
        OSError: a disk failed or is full; what there is of the copy is removed.
    """
    unfinished = f"{parent}/{renamed(topic_partition, unique, DELETE_SUFFIX)}"
    target = f"{parent}/{copy_name(topic_partition, unique)}"
    try:
        _copy(files, directory, unfinished, on_copied)
        if directory_bytes(files, directory) != directory_bytes(files, unfinished):
            raise StorageError(f"the copy {unfinished} is not as large as {directory}: does something write there?")
        files.rename(unfinished, target)
        files.sync_dir(parent)
    except (OSError, StorageError, KeyboardInterrupt):
        _remove(files, unfinished)
        raise
    return target


def _copy(files: Files, source: str, target: str, on_copied: Callable[[int], None]) -> None:
    files.mkdir(target)
    for name in files.listdir(source):
        path, copy = f"{source}/{name}", f"{target}/{name}"
        if files.is_dir(path):
            _copy(files, path, copy, on_copied)
            continue
        reader = files.open(path, write=False)
        writer = files.open(copy, create=True, truncate=True)
        try:
            position = 0
            while data := reader.pread(_SLICE_BYTES, position):
                writer.append(data)
                position += len(data)
                on_copied(len(data))
            writer.sync()
        finally:
            reader.close()
            writer.close()
        files.set_mtime_ms(copy, files.mtime_ms(path))
    files.sync_dir(target)


def _remove(files: Files, path: str) -> None:
    try:
        files.remove_tree(path)
    except OSError:
        pass  # the next broker does it
