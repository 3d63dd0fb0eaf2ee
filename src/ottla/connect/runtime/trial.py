"""What a connector would do, before it does it: a few records of a source, and what a sink would make of them.

Nothing is sent, written or committed, and no group is joined: a source shows what it reads, by its task's `preview`; a sink
describes its plan, by `SinkConnector.plan`. A connector that has no such method says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ottla import Headers
from ottla.connect.config_def import ConfigError
from ottla.connect.connectors import Connector, SinkConnector, SourceConnector, SourceContext, SourceTask
from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.errors import ConnectError
from ottla.connect.records import Record, SinkRecord, SourceRecord
from ottla.connect.runtime.environments import enter_environment
from ottla.connect.runtime.finding import connector_class, listed
from ottla.connect.runtime.pipeline import Failure, Passed, Pipeline, Tolerance
from ottla.connect.runtime.resolving import resolved
from ottla.connect.schema import Schema, Type
from ottla.connect.settings import settings_of

_JSON = JsonConverter({"schemas.enable": "false", "decimal.format": "NUMERIC"})
_LOGICAL = "org.apache.kafka.connect.data."
_DATABASES = ("postgresql", "postgres", "mysql", "mariadb", "sqlite")


@dataclass(frozen=True, slots=True)
class Tried:
    """One record: as the source has it, and as transforms leave it.

    Attributes:
        after: None: they drop it, or `problem` says what is wrong.
    """

    before: SourceRecord
    after: SourceRecord | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A record as a consumer has it."""

    topic: str
    offset: int
    key_bytes: bytes | None
    value_bytes: bytes | None
    headers: Headers
    timestamp_ms: int
    partition: int = 0


class Trial:
    """A source that is tried.

    Args:
        config: the connector's configuration.
        worker: the worker's: converters, providers of secrets, `plugin.modules`.

    Raises:
        ConfigError: the configuration is wrong.
    """

    def __init__(self, config: Mapping[str, str], worker: Mapping[str, str]) -> None:
        self._worker = worker
        self._kind, self._config, self._common, connector = _made(config, worker)
        if not isinstance(connector, SourceConnector):
            raise ConfigError(f"{self.class_name} is a sink: it stands behind --to")
        self._connector = connector

    @property
    def class_name(self) -> str:
        """What the connector calls its class."""
        return self._config["connector.class"]

    def rows(self, count: int) -> list[Tried]:
        """Return some records of the first task.

        Raises:
            ConnectError: there is no preview, or the source cannot be read.
        """
        tasks = self._connector.task_configs(self._common["tasks.max"])
        if not tasks:
            raise ConnectError(f"{self.class_name} has no task: there is nothing to read")
        task = self._kind.Task(tasks[0], self._kind.CONFIG.parse(tasks[0]))
        assert isinstance(task, SourceTask)
        task.context = SourceContext(lambda partition: None, threading.Event())
        records = task.preview(count)
        if records is None:
            raise ConnectError(f"{self.class_name} has no preview: to read from its source would leave a trace there")
        pipeline = Pipeline(self._worker, self._config, Tolerance(self._common, lambda seconds: True))
        try:
            return [_transformed(pipeline, record) for record in records[:count]]
        finally:
            pipeline.close()

    def plan(self, rows: Sequence[Tried], config: Mapping[str, str]) -> list[str]:
        """Return what a sink would do with these records.

        Raises:
            ConfigError: its configuration is wrong.
            ConnectError: a record does not convert.
        """
        kept = [row.after for row in rows if row.after is not None]
        topics = list(dict.fromkeys(record.topic for record in kept))
        given = config if config.get("topics") or config.get("topics.regex") else {**config, "topics": ",".join(topics)}
        _, texts, common, connector = _made(given, self._worker)
        if not isinstance(connector, SinkConnector):
            raise ConfigError(f"{texts['connector.class']} is no sink")
        found = [
            f"it does not read the topic {topic}"
            for topic in topics
            if common["topics"] and topic not in common["topics"]
        ]
        kept = [record for record in kept if not common["topics"] or record.topic in common["topics"]]
        out = Pipeline(self._worker, self._config, Tolerance(self._common, lambda seconds: True))
        into = Pipeline(self._worker, texts, Tolerance(common, lambda seconds: True))
        try:
            taken = [_carried(out, into, record, offset) for offset, record in enumerate(kept)]
        finally:
            out.close()
            into.close()
        plan = connector.plan([record for record in taken if record is not None])
        if plan is None:
            return [
                *found,
                f"{texts['connector.class']} has no preview: what it would do with these records is not known",
            ]
        return [*found, *plan]


def _made(
    config: Mapping[str, str], worker: Mapping[str, str]
) -> tuple[type[Connector], dict[str, str], dict[str, Any], Connector]:
    texts = {name: text for name, text in resolved(worker, {"name": "try", **config}).items() if text is not None}
    if not texts.get("connector.class"):
        raise ConfigError('Missing required configuration "connector.class" which has no default value.')
    enter_environment(worker, texts)
    kind = connector_class(texts["connector.class"].strip(), listed(worker))
    common, values = settings_of(kind, texts)
    return kind, texts, common, kind(texts, values)


def _transformed(pipeline: Pipeline, record: SourceRecord) -> Tried:
    try:
        return Tried(record, pipeline.transform(record, _forget, f"a record to topic {record.topic}"))
    except Passed as passed:
        return Tried(record, None, str(passed.__cause__))
    except ConnectError as error:
        return Tried(record, None, str(error.__cause__ or error))


def _carried(out: Pipeline, into: Pipeline, record: SourceRecord, offset: int) -> SinkRecord | None:
    """Return what a sink gets of a source's record: both converters are on its way."""
    try:
        key, value, headers = out.write(record, _forget)
        sent = _Sent(
            topic=record.topic, offset=offset, key_bytes=key, value_bytes=value, headers=Headers(tuple(headers)),
            timestamp_ms=record.timestamp or 0,
        )  # fmt: skip
        return into.transform(into.read(sent, _forget), _forget, "a record")
    except Passed:
        return None


def _forget(failure: Failure) -> None:
    """There are no dead letters here."""


def source_at(address: str) -> dict[str, str]:
    """Return the configuration of a source at an address: a table of a database, or a file of lines.

    Raises:
        ConfigError: there is none for it.
    """
    parts = urlsplit(address)
    if parts.scheme.partition("+")[0] in _DATABASES:
        database, _, table = parts.path.rpartition(".")
        if not database.strip("/") or not table:
            raise ConfigError(f"{address} names no table: it looks like postgresql://user@host/database.table")
        url = address.replace(parts.path, database, 1)
        made = {"connector.class": "JdbcSourceConnector", "connection.url": url, "mode": "bulk", "topic.prefix": ""}
        return made | {"table.whitelist": table}
    if parts.scheme == "file":
        path = Path(parts.path)
        return {"connector.class": "FileStreamSource", "file": str(path), "topic": path.stem}
    raise ConfigError(f"There is no source for {address}: give a connector's file (.properties or .json)")


def sink_at(address: str) -> dict[str, str]:
    """Return the configuration of a sink at an address: a file of lines.

    Raises:
        ConfigError: there is none for it.
    """
    parts = urlsplit(address)
    if parts.scheme == "file" and Path(parts.path).suffix not in (".parquet", ".csv", ".jsonl"):
        return {"connector.class": "FileStreamSink", "file": parts.path}
    raise ConfigError(f"There is no sink for {address}: give a connector's file (.properties or .json)")


def shown(schema: Schema | None, value: Any) -> str:
    """Return a value as text."""
    try:
        data = _JSON.from_connect("", schema, value)
    except (ConnectError, TypeError, ValueError):
        return repr(value)
    return "null" if data is None else data.decode()


def shape(schema: Schema | None) -> str:
    """Return a schema as text."""
    if schema is None:
        return "without a schema"
    match schema.type:
        case Type.STRUCT:
            what = "{" + ", ".join(f"{field.name}: {shape(field.schema)}" for field in schema.fields) + "}"
        case Type.ARRAY:
            what = f"[{shape(schema.values)}]"
        case Type.MAP:
            what = f"{{{shape(schema.keys)}: {shape(schema.values)}}}"
        case _:
            what = schema.type.value
    if schema.name and schema.name.startswith(_LOGICAL):
        what = schema.name.removeprefix(_LOGICAL).lower()
    name = f" ({schema.name})" if schema.name and schema.type is Type.STRUCT else ""
    return f"{what}{'?' if schema.optional else ''}{name}"


def _plain(schema: Schema | None, value: Any) -> Any:
    text = shown(schema, value)
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_json(record: Record) -> dict[str, Any]:
    """Return a record for programs."""
    return {
        "topic": record.topic,
        "key": _plain(record.key_schema, record.key),
        "value": _plain(record.value_schema, record.value),
        "schema": shape(record.value_schema),
    }
