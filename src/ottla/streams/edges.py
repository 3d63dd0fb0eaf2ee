"""The edges of a task: records of bytes become objects, and objects become outputs.

Here handlers of deserialization and production are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ottla.streams.context import SKIPPED, Headers, InputRecord, Output, Process
from ottla.streams.runs import Run, run_taker
from ottla.streams.serdes import RowSerde
from ottla.streams.topology import SinkNode, SourceNode

if TYPE_CHECKING:
    from ottla.streams.task import Task


class ReadRecord:
    """What a timestamp extractor is given: the record with its key and value as objects."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(self, record: InputRecord, key: Any, value: Any) -> None:
        self.topic: str = record.topic
        self.partition: int = record.partition
        self.offset: int = record.offset
        self.timestamp: int = record.timestamp
        self.headers: Headers = record.headers
        self.key: Any = key
        self.value: Any = value


def readable(node: SourceNode, record: InputRecord) -> ReadRecord:
    """Return a record with its objects.

    Raises:
        Exception: whatever the deserializers raise.
    """
    read_key, read_value = _readers(node)
    topic = record.topic
    key = None if record.key is None else read_key(topic, record.key)
    return ReadRecord(record, key, read_value(topic, record.value))


def _plain(topic: str, data: bytes) -> bytes:
    return data


def _readers(node: SourceNode) -> tuple[Callable[[str, bytes], Any], Callable[[str, bytes | None], Any]]:
    read_key = _plain if node.key_serde is None else node.key_serde.deserialize
    value_serde = node.value_serde
    if value_serde is None:
        return read_key, lambda topic, data: data
    if getattr(value_serde, "takes_none", False):
        return read_key, value_serde.deserialize
    deserialize = value_serde.deserialize
    return read_key, lambda topic, data: None if data is None else deserialize(topic, data)


def source(task: Task, node: SourceNode, topic: str, forward: Process) -> Callable[[InputRecord], None]:
    """Return what takes the records of one topic of a source."""
    read_key, read_value = _readers(node)
    extract = node.timestamp

    def read(record: InputRecord) -> tuple[Any, Any, int]:
        key = None if record.key is None else read_key(topic, record.key)
        value = read_value(topic, record.value)
        timestamp = record.timestamp if extract is None else extract(ReadRecord(record, key, value), task.stream_time)
        return key, value, timestamp

    def take(record: InputRecord) -> None:
        try:
            key, value, timestamp = read(record)
            if timestamp < 0:
                raise ValueError(f"its timestamp is {timestamp}; `timestamp=` of the source can choose another one")
        except Exception as error:
            headers = record.headers
            found = task.failed(
                "deserialization",
                node,
                error,
                record.key,
                record.value,
                record.timestamp,
                headers,
                lambda: read(record),
            )
            if found is SKIPPED:
                return
            key, value, timestamp = found
        task.record_time = timestamp
        if timestamp > task.stream_time:
            task.stream_time = timestamp
        forward(key, value, timestamp, record.headers)

    if isinstance(node.value_serde, RowSerde) and extract is None:
        forward_run = run_taker(task, forward)
        deserialize = node.value_serde.deserialize

        def take_run(records: Sequence[InputRecord]) -> None:
            """Take consecutive records of a partition; where one is not a plain row, one by one."""
            try:
                rows = [deserialize(topic, record.value) for record in records]
                keys = [None if record.key is None else read_key(topic, record.key) for record in records]
            except Exception:
                rows = []
            times = [record.timestamp for record in records]
            if not rows or min(times) < 0:
                for record in records:
                    task.record = record
                    take(record)
                return
            task.stream_time = max(task.stream_time, *times)
            forward_run(Run(records, keys, times, rows))

        take.take_run = take_run  # type: ignore[attr-defined]
    return take


def sink(task: Task, node: SinkNode) -> Process:
    """Return what takes the records of a sink."""
    emit = task.emit
    write_key = None if node.key_serde is None else node.key_serde.serialize
    write_value = None if node.value_serde is None else node.value_serde.serialize
    takes_none = getattr(node.value_serde, "takes_none", False)
    place = getattr(node.key_serde, "partition_bytes", None)
    chosen, partitioner, partition_count = node.topic, node.partitioner, task.partition_count

    def make(key: Any, value: Any, timestamp: int, headers: Headers) -> Output:
        topic = chosen if isinstance(chosen, str) else chosen(key, value, task.record)
        written_key = key if write_key is None or key is None else write_key(topic, key)
        written = value if write_value is None or (value is None and not takes_none) else write_value(topic, value)
        partition = None
        if partitioner is not None:
            partition = partitioner(topic, key, value, partition_count(topic))
        elif place is not None and key is not None:
            partition = place(topic, key, partition_count(topic))
        return Output(topic, partition, written_key, written, timestamp, headers)

    def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        try:
            made = make(key, value, timestamp, headers)
            if timestamp < 0:
                raise ValueError(f"the timestamp of a record is not negative: {timestamp}")
        except Exception as error:
            topic = chosen if isinstance(chosen, str) else None
            made = task.failed(
                "production",
                node,
                error,
                key,
                value,
                timestamp,
                headers,
                lambda: make(key, value, timestamp, headers),
                topic,
            )
            if made is SKIPPED:
                return
        emit(made)

    return process
