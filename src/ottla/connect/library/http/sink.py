"""HttpSinkConnector: records as requests, at least once; once where the server heeds Idempotency-Key.

The key names the record: topic, partition, offset. That of a batch names its first and its last offset: after a restart a
batch may end elsewhere, and a server that knew it by its first record alone would leave out the ones that are new in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ottla.connect.config_def import ConfigDef, ConfigError, ConfigKey, ConfigType, at_least, one_of
from ottla.connect.connectors import SinkConnector, SinkTask
from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.errors import ConnectError, DataError, RetriableError
from ottla.connect.library.http.link import HEADER_VALUE, KEYS, Link, NotNow, check_login, pause_s, shown, url_key
from ottla.connect.records import SinkRecord

if TYPE_CHECKING:
    from ottla import TopicPartition

log = logging.getLogger(__name__)
_JSON = JsonConverter({"schemas.enable": "false", "decimal.format": "NUMERIC"})
#: Answers that say something about us, and nothing about a record.
_NOT_LET_IN = (401, 407)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One record on its way to an address.

    Attributes:
        body: None: what is there is to be deleted.
    """

    record: SinkRecord
    url: str
    body: bytes | None


class HttpSinkTask(SinkTask):
    """Sends the records of its partitions, in their order, one request at a time."""

    def start(self) -> None:
        self._link = Link(self.values)
        self._failures = 0
        self._not_before = 0.0
        #: The offset behind the last record that the server has, or that was rejected, of the batch that is put again.
        self._done: dict[tuple[str, int], int] = {}
        #: Of these, the ones that were rejected: they are to be rejected again with the batch.
        self._refused: dict[tuple[str, int, int], DataError] = {}

    def stop(self) -> None:
        self._link.close()

    def open(self, partitions: Sequence[TopicPartition]) -> None:
        self.close(partitions)

    def close(self, partitions: Sequence[TopicPartition]) -> None:
        for where in partitions:
            self._done.pop((where.topic, where.partition), None)

    def put(self, records: Sequence[SinkRecord]) -> None:
        left = self._not_before - time.monotonic()
        if left > 0:  # put is called every second: the task can be stopped meanwhile
            raise RetriableError(f"{self._link.where} is left alone for another {left:.0f} s")
        new = []
        for record in records:
            if (error := self._refused.get((*_place(record), record.offset))) is not None:
                self.context.reject(record, error)
            elif record.offset >= self._done.get(_place(record), 0):
                new.append(record)
        try:
            for parts in batches_of(self._parts(new), self._size):
                self._send(parts)
        except NotNow as error:
            self._again(error)
            raise
        self._failures = 0
        self._done.clear()
        self._refused.clear()

    @property
    def _size(self) -> int:
        """How many records a request has at most; 0: it is one, and no list."""
        size: int = self.values["batch.max.size"]
        return size if self.values["batching.enabled"] else 0

    def _parts(self, records: Sequence[SinkRecord]) -> list[Part]:
        found = []
        for record in records:
            try:
                part = part_of(record, self.values)
            except DataError as error:
                self._reject(record, error)
            else:
                found += [] if part is None else [part]
        return found

    def _reject(self, record: SinkRecord, error: DataError) -> None:
        self._refused[*_place(record), record.offset] = error
        self.context.reject(record, error)

    def _send(self, parts: Sequence[Part]) -> None:
        """Send one request; in halves, if the server does not take it, until it is known which records it does not take.

        Raises:
            NotNow: the server cannot be asked now.
            ConnectError: it does not let us in.
        """
        first, last = parts[0], parts[-1].record
        method = self.values["http.method"] if first.body is not None else "DELETE"
        headers = {"Idempotency-Key": key_of(parts, is_batch=self._size > 0)}
        if first.body is not None:
            headers["Content-Type"] = self.values["http.content.type"]
        answer = self._link.ask(method, first.url, body_of(parts, is_batch=self._size > 0), headers)
        if 200 <= answer.status < 300 or (first.body is None and answer.status in (404, 410)):
            self._done[_place(last)] = last.offset + 1
            return
        told = f"{self._link.where} answers {method} with {self._link.told(answer)}"
        if answer.status in _NOT_LET_IN:
            raise ConnectError(f"{told}: http.authorization, or http.user and http.password, are not accepted")
        if len(parts) == 1:
            self._reject(last, DataError(told))
            self._done[_place(last)] = last.offset + 1
            return
        half = len(parts) // 2
        self._send(parts[:half])
        self._send(parts[half:])

    def _again(self, error: NotNow) -> None:
        """Note when the batch is to be tried again.

        Raises:
            ConnectError: it has been tried too often.
        """
        self._failures += 1
        try:
            pause = pause_s(self.values, self._failures, error.after_s)
        except ConnectError as end:
            raise ConnectError(f"{error}; {end}") from error
        self._not_before = time.monotonic() + pause
        log.warning("%s; it is tried again in %g s", error, pause)


def part_of(record: SinkRecord, values: Mapping[str, Any]) -> Part | None:
    """Return where a record goes, and as which bytes; None: it is left out.

    Raises:
        DataError: it cannot be sent.
    """
    if record.value is None and values["http.null.values"] != "delete":
        if values["http.null.values"] == "ignore":
            return None
        raise DataError("there is no value: http.null.values says what is done about these")
    try:
        return Part(
            record=record,
            url=url_of(record, values["http.url"]),
            body=None if record.value is None else _body(record, is_batch=values["batching.enabled"]),
        )
    except UnicodeEncodeError as error:
        raise DataError(f"it has half a letter, which has no bytes: {error}") from error


def url_of(record: SinkRecord, template: str) -> str:
    """Return the address for a record.

    Raises:
        DataError: its key cannot be part of one.
    """
    url = template.replace("${topic}", quote(record.topic, safe=""))
    if "${key}" not in template:
        return url
    if not isinstance(record.key, str | int) or isinstance(record.key, bool):
        raise DataError(f"the key is a {type(record.key).__name__}: http.url has ${{key}}, which is text or a number")
    key = str(record.key)
    if key in ("", ".", ".."):
        raise DataError(f"the key is {key!r}, which is no part of an address")
    return url.replace("${key}", quote(key, safe="", errors="strict"))


def _body(record: SinkRecord, *, is_batch: bool) -> bytes:
    if not is_batch and isinstance(record.value, str):
        return record.value.encode()
    if not is_batch and isinstance(record.value, bytes | bytearray | memoryview):
        return bytes(record.value)
    return _JSON.from_connect(record.topic, record.value_schema, record.value) or b"null"


def batches_of(parts: Sequence[Part], size: int) -> list[list[Part]]:
    """Return what goes out together: records of one partition to one address, so many at most; 0: each goes alone."""
    found: list[list[Part]] = []
    by_place: dict[tuple[str, int], list[Part]] = {}
    for part in parts:
        by_place.setdefault(_place(part.record), []).append(part)
    for own in by_place.values():
        for part in own:
            begun = found[-1] if found else []
            if (
                begun
                and len(begun) < size
                and begun[0].url == part.url
                and _place(begun[0].record) == _place(part.record)
            ):
                begun.append(part)
            else:
                found.append([part])
    return found


def key_of(parts: Sequence[Part], *, is_batch: bool) -> str:
    """Return what the request is known by, should it come twice."""
    first, last = parts[0].record, parts[-1].record
    key = f"{first.topic}-{first.partition}-{first.offset}"
    return f"{key}-{last.offset}" if is_batch else key


def body_of(parts: Sequence[Part], *, is_batch: bool) -> bytes | None:
    """Return the bytes of a request."""
    if not is_batch:
        return parts[0].body
    return b"[" + b",".join(part.body or b"null" for part in parts) + b"]"


def _place(record: SinkRecord) -> tuple[str, int]:
    return record.topic, record.partition or 0


class HttpSinkConnector(SinkConnector):
    """Records as requests."""

    CONFIG = ConfigDef(
        url_key("Where requests go; ${topic} and ${key} stand for those of the record.", parts=("topic", "key")),
        ConfigKey(
            name="http.method",
            default="POST",
            validator=one_of("POST", "PUT", "PATCH"),
            documentation="The method of requests.",
        ),
        ConfigKey(
            name="http.content.type",
            default="application/json",
            validator=HEADER_VALUE,
            documentation="The header Content-Type of requests.",
        ),
        ConfigKey(
            name="http.null.values",
            default="reject",
            validator=one_of("reject", "ignore", "delete"),
            documentation="What is done about records without a value: they are rejected, left out, or become DELETE.",
        ),
        ConfigKey(
            name="batching.enabled",
            type=ConfigType.BOOLEAN,
            default=False,
            documentation="Whether a request has several records, as a list in JSON.",
        ),
        ConfigKey(
            name="batch.max.size",
            type=ConfigType.INT,
            default=500,
            validator=at_least(1),
            documentation="The most records of such a list.",
        ),
        *KEYS,
    )
    Task = HttpSinkTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        check_login(self.values)
        if self.values["batching.enabled"] and self.values["http.null.values"] == "delete":
            raise ConfigError("http.null.values=delete needs batching.enabled=false: a list cannot be half deleted")
        return super().task_configs(tasks_max)

    def plan(self, records: Sequence[SinkRecord]) -> Sequence[str]:
        size = self.values["batch.max.size"] if self.values["batching.enabled"] else 0
        parts, told = [], []
        for record in records:
            try:
                part = part_of(record, self.values)
            except DataError as error:
                told.append(f"rejects offset {record.offset}: {error}")
            else:
                parts += [] if part is None else [part]
        for batch in batches_of(parts, size):
            method = self.values["http.method"] if batch[0].body is not None else "DELETE"
            told.append(
                f"{method} {shown(batch[0].url)} with {len(body_of(batch, is_batch=size > 0) or b'')} bytes, "
                f"{len(batch)} record{'' if len(batch) == 1 else 's'}"
            )
        return told

    def alter_offsets(self, offsets: Sequence[tuple[str, int, int | None]]) -> bool:
        return True
