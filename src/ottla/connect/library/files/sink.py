"""FilesSinkConnector: records of topics as Parquet, JSON lines or CSV, exactly once.

A store is a folder, HDFS, or S3, Google Cloud Storage, Azure: `store.url` says which.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from ottla import TopicPartition
from ottla.connect.config_def import (
    NOT_EMPTY,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    one_of,
)
from ottla.connect.connectors import SinkConnector, SinkTask
from ottla.connect.errors import ConnectError, DataError, RetriableError
from ottla.connect.java_dates import DateFormat
from ottla.connect.java_text import java_text
from ottla.connect.library.files.plan import Intent, Partitioner, PartitionPlan, Range, file_name, read_intent
from ottla.connect.library.files.rows import check, to_bytes
from ottla.connect.library.files.stores import Store, no_exactly_once, open_store
from ottla.connect.records import SinkRecord
from ottla.connect.schema import Struct

log = logging.getLogger(__name__)
#: Intents that are kept of each partition: they stop a task that has been out of its group for no more ranges than that.
_KEPT_INTENTS = 64
_FORMATS = ("parquet", "jsonl", "csv")
_PARTITIONERS = ("DefaultPartitioner", "FieldPartitioner", "TimeBasedPartitioner")


class FilesSinkTask(SinkTask):
    """Writes the records of its partitions."""

    def start(self) -> None:
        self._store: Store = open_store(self.config, self.values)
        self._folder: str = self.values["topics.dir"].strip("/")
        self._form: Any = self.values["format"]
        self._partitioner = partitioner_of(self.values)
        self._plans: dict[TopicPartition, PartitionPlan] = {}
        self._ids: dict[str, str] = {}
        self._lock = threading.RLock()
        try:
            self._probe()
        except RetriableError as error:
            raise ConnectError(str(error)) from error

    def _probe(self) -> None:
        """Say so if the store does not refuse to make a file that is there."""
        path = f"{self._folder}/_intents/probe"
        self._store.put(path, b"")
        try:
            self._store.create(path, b"")
        except FileExistsError:
            return
        raise ConnectError(no_exactly_once(str(self.values["store.url"]).partition("?")[0]))

    def stop(self) -> None:
        if hasattr(self, "_store"):
            self._store.close()

    def open(self, partitions: Sequence[TopicPartition]) -> None:
        with self._lock:
            for where in partitions:
                self._ids[where.topic] = self.context.topic_id(where.topic)
                plan = PartitionPlan(self.values["flush.size"], self.values["rotate.interval.ms"])
                self._plans[where] = plan
                last = self._last_intent(where.topic, where.partition)
                offset = plan.resume(last)
                if offset is not None:
                    self.context.seek(where, offset)

    def close(self, partitions: Sequence[TopicPartition]) -> None:
        with self._lock:
            for where in partitions:
                self._plans.pop(where, None)

    def put(self, records: Sequence[SinkRecord]) -> None:
        with self._lock:
            now = _now_ms()
            for record in records:
                plan = self._plans.get(TopicPartition(record.topic, record.partition or 0))
                if plan is None:
                    continue
                try:
                    self._check(record)
                except DataError as error:  # also when the batch comes again: what a failed call rejects does not count
                    self.context.reject(record, error)
                    continue
                if record.offset < plan.next:
                    continue
                while (closed := plan.take(record, now)) is not None:
                    self._publish(record.topic, record.partition or 0, plan, closed)
                self._publish_due(record.topic, record.partition or 0, plan)
            for (topic, partition), plan in self._plans.items():
                self._publish_due(topic, partition, plan)

    def _check(self, record: SinkRecord) -> None:
        if record.value is None:
            raise DataError("the value is null, for which there is no row")
        check(record, self._form)
        self._partitioner(record)

    def pre_commit(self, offsets: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        with self._lock:
            try:
                for (topic, partition), plan in self._plans.items():
                    self._publish_due(topic, partition, plan)
            except RetriableError as error:
                log.warning("connector %s: %s; it is tried again", self.config.get("name"), error)
            kept = {where: plan.committed for where, plan in self._plans.items() if plan.committed is not None}
            return {where: min(end, kept[where]) for where, end in offsets.items() if where in kept}

    def _publish_due(self, topic: str, partition: int, plan: PartitionPlan) -> None:
        while (closed := plan.due(_now_ms())) is not None:
            self._publish(topic, partition, plan, closed)

    # The store

    def _publish(self, topic: str, partition: int, plan: PartitionPlan, closed: Range) -> None:
        """Write an intent and its files, or adopt the intent that stands there.

        Raises:
            RetriableError: the store may work later: the same range comes again.
            ConnectError: it will not.
        """
        path = self._intent_path(topic, partition, closed.intent.start)
        if not closed.known:
            self.context.deliver_rejected()  # what is before the end of an intent does not come again
            there = self._claim(path, closed.intent)
            plan.adopt(there)
            if there.end != closed.intent.end:
                log.warning("%s: another task has begun this range; it ends at %d", path, there.end)
                return
        for name, data in self._files(topic, partition, closed):
            if closed.known and self._store.has(name):
                continue
            try:
                self._store.create(name, data)
            except FileExistsError:
                pass  # the same records: whoever began the range has written it
        self._store.put(path, Intent(closed.intent.start, closed.intent.end, True).to_bytes())
        plan.published(closed.intent)
        self._forget_old(topic, partition)

    def _claim(self, path: str, intent: Intent) -> Intent:
        """Write an intent; return the one that stands there, ours or another one's."""
        try:
            self._store.create(path, intent.to_bytes())
        except FileExistsError:
            there = read_intent(self._store.get(path), path)
            return Intent(there.start, there.end)
        return intent

    def _files(self, topic: str, partition: int, closed: Range) -> list[tuple[str, bytes]]:
        folders: dict[str, list[SinkRecord]] = {}
        for record in closed.records:
            folders.setdefault(self._partitioner(record), []).append(record)
        name = file_name(topic, self._ids[topic], partition, closed.intent, self._form)
        return [
            ("/".join(part for part in (self._folder, topic, folder, name) if part), to_bytes(records, self._form))
            for folder, records in folders.items()
        ]

    def _intent_path(self, topic: str, partition: int, start: int) -> str:
        return f"{self._intent_folder(topic, partition)}/{start:020d}"

    def _intent_folder(self, topic: str, partition: int) -> str:
        return (
            f"{self._folder}/_intents/{self.config.get('name', '')}/{topic}/{self._ids[topic] or 'no-id'}/{partition}"
        )

    def _intents(self, topic: str, partition: int) -> list[str]:
        return self._store.list(self._intent_folder(topic, partition))

    def _last_intent(self, topic: str, partition: int) -> Intent | None:
        try:
            paths = self._intents(topic, partition)
            return read_intent(self._store.get(paths[-1]), paths[-1]) if paths else None
        except RetriableError as error:
            raise ConnectError(str(error)) from error

    def _forget_old(self, topic: str, partition: int) -> None:
        if self._intents(topic, partition)[: -2 * _KEPT_INTENTS]:  # many at once: a listing for each range is enough
            self._store.delete(self._intents(topic, partition)[:-_KEPT_INTENTS])


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def partitioner_of(values: Mapping[str, Any]) -> Partitioner:
    """Return what says in which folder a record's file lies.

    Raises:
        ConfigError: parts of the configuration are missing or wrong.
    """
    match values["partitioner.class"].rpartition(".")[2]:
        case "FieldPartitioner":
            names = values["partition.field.name"]
            if not names:
                raise ConfigError("partitioner.class=FieldPartitioner needs partition.field.name")
            return lambda record: "/".join(f"{name}={_quoted(_field(record, name))}" for name in names)
        case "TimeBasedPartitioner":
            # Joda's year of an era is `Y`; a year of weeks, which it is in Java's own patterns, is never meant.
            form = DateFormat(values["path.format"].replace("Y", "y"), 2026)
            name = values["timestamp.field"]
            return lambda record: form.format(_ms(record, name))
    return lambda record: ""


def _field(record: SinkRecord, name: str) -> Any:
    value = record.value
    for part in name.split("."):
        there = (
            value.schema.field(part) is not None
            if isinstance(value, Struct)
            else isinstance(value, dict) and part in value
        )
        if not there:
            raise DataError(f"the value has no field {name}, which names its folder")
        value = value[part]
    return value


def _quoted(value: Any) -> str:
    """Return a value as Hive writes it in the name of a folder.

    Letters beyond ASCII stand as they are: Hive and Spark read `%C3%BC` as two letters, not as the bytes of one.
    """
    if value is None:
        return "__HIVE_DEFAULT_PARTITION__"
    text = (
        value
        if isinstance(value, str)
        else java_text(None, value)
        if not hasattr(value, "isoformat")
        else value.isoformat()
    )
    quoted = (urllib.parse.quote(part, safe=" !$&()+,-.;@_~") if part.isascii() else part for part in text)
    return "".join(quoted) or "__HIVE_DEFAULT_PARTITION__"


def _ms(record: SinkRecord, name: str) -> int:
    if not name:
        if record.timestamp is None:
            raise DataError("the record has no timestamp, which names its folder")
        return record.timestamp
    value = _field(record, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if hasattr(value, "timestamp"):
        return int(value.timestamp() * 1000)
    raise DataError(f"the field {name} is a {type(value).__name__}: no moment, and no ms since 1970")


class FilesSinkConnector(SinkConnector):
    """Files in a folder or an object store, exactly once."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="store.url",
            validator=NOT_EMPTY,
            importance=Importance.HIGH,
            documentation="file:///lake, file:lake, webhdfs://namenode:9870/lake, s3://bucket/lake, gs://bucket/lake, "
            "az://container/lake. Options stand below store.option., keys of the cloud in its environment variables.",
        ),
        ConfigKey(name="topics.dir", default="topics", validator=NOT_EMPTY, documentation="The folder in the store."),
        ConfigKey(
            name="format",
            default="parquet",
            validator=one_of(*_FORMATS),
            importance=Importance.HIGH,
            documentation="parquet, in columns; jsonl, lines of JSON; csv.",
        ),
        ConfigKey(
            name="flush.size",
            type=ConfigType.INT,
            default=10000,
            validator=at_least(1),
            importance=Importance.HIGH,
            documentation="How many records of a partition make a file; they are held in memory.",
        ),
        ConfigKey(
            name="rotate.interval.ms",
            type=ConfigType.LONG,
            default=60000,
            validator=at_least(1),
            importance=Importance.HIGH,
            documentation="How old the first record may get before its file is written. Asked when records come, and every "
            "offset.flush.interval.ms.",
        ),
        ConfigKey(
            name="partitioner.class",
            default="DefaultPartitioner",
            validator=one_of(
                *_PARTITIONERS, *(f"io.confluent.connect.storage.partitioner.{name}" for name in _PARTITIONERS)
            ),
            documentation="DefaultPartitioner: no folders; FieldPartitioner: a folder for each value of fields, as in Hive; "
            "TimeBasedPartitioner: folders of times.",
        ),
        ConfigKey(
            name="partition.field.name", type=ConfigType.LIST, default="", documentation="The fields that make folders."
        ),
        ConfigKey(
            name="path.format",
            default="'year'=yyyy/'month'=MM/'day'=dd",
            documentation="The folders of a time, in UTC, in Java's letters.",
        ),
        ConfigKey(
            name="timestamp.field",
            default="",
            documentation="The field that has the time: a timestamp, or ms since 1970; without it the record's timestamp.",
        ),
    )
    Task = FilesSinkTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        open_store(self.config, self.values).close()
        partitioner_of(self.values)
        return super().task_configs(tasks_max)
