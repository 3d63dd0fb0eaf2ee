"""HttpSourceConnector: what an HTTP server tells in JSON as records.

The server is asked for what comes after the last offset, again and again until nothing does, and then after a pause. Pages by
number are not offered: a record that is added or deleted while they are turned moves others to pages that were read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ottla.connect.config_def import (
    NOT_EMPTY,
    NOT_EMPTY_LIST,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    check,
)
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.errors import ConnectError, DataError
from ottla.connect.library.http.link import KEYS, Answer, Link, NotNow, check_login, pause_s, shown, url_key
from ottla.connect.library.http.pages import (
    Offset,
    at,
    check_pointer,
    comes_after,
    filled,
    offset_of,
    rank,
    records_in,
)
from ottla.connect.library.http.pages import shown as shown_offset
from ottla.connect.records import SourceRecord

log = logging.getLogger(__name__)
_JSON = JsonConverter({"schemas.enable": "false"})
#: The longest wait within one poll.
_WAIT_S = 1.0
#: Values that an offset may have, and ${offset.1} to ${offset.4} in the address.
_FIELDS_MAX = 4


class HttpSourceTask(SourceTask):
    """Asks the server. One task: there is one offset."""

    def start(self) -> None:
        given = self.values
        self._link = Link(given)
        self._url: str = given["http.url"]
        self._fields: list[str] = given["http.offset.fields"]
        self._is_asked_for = "${offset" in self._url
        #: Whether answers may have what was read before.
        self._has_old = not self._is_asked_for or given["http.offset.inclusive"]
        self._partition = {"url": shown(self._url)}
        self._is_tolerant = self.config.get("errors.tolerance", "none").strip() == "all"
        #: The offset of the last record, and the one to ask for.
        self._last: Offset | None = self._kept()
        self._asked: Offset = self._last if self._last is not None else initial_of(given)
        #: The address that was asked last, and the ETag of its answer.
        self._tag: tuple[str, str] | None = None
        self._at_s = 0.0
        self._failures = 0

    def _kept(self) -> Offset | None:
        kept = self.context.offset(self._partition)
        if kept is None:
            return None
        missing = [field for field in self._fields if field not in kept]
        if missing:
            raise ConnectError(
                f"The offset {kept} of {self._partition['url']} has no {', '.join(missing)}: http.offset.fields was "
                "changed; reset the connector's offsets"
            )
        return tuple(kept[field] for field in self._fields)

    def stop(self) -> None:
        if hasattr(self, "_link"):
            self._link.close()

    def preview(self, rows: int) -> Sequence[SourceRecord]:
        return self.first_rows(rows)

    def poll(self) -> Sequence[SourceRecord] | None:
        left = self._at_s - time.monotonic()
        if left > 0:
            self.context.wait(min(left, _WAIT_S))
            return None
        url = filled(self._url, self._fields, self._asked)
        try:
            answer = self._link.ask("GET", url, None, self._headers(url), self.values["http.response.max.bytes"])
        except NotNow as error:
            self._wait_for(error)
            return None
        self._failures = 0
        self.context.waits_for(None)
        found = self._records(answer, url)
        if not found or not self._is_asked_for:
            self._at_s = time.monotonic() + self.values["poll.interval.ms"] / 1000
        return found or None

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self._tag is not None and self._tag[0] == url:
            headers["If-None-Match"] = self._tag[1]
        return headers

    def _wait_for(self, error: NotNow) -> None:
        self._failures += 1
        try:
            pause = pause_s(self.values, self._failures, error.after_s)
        except ConnectError as end:
            raise ConnectError(f"{error}; {end}") from error
        log.warning("%s; it is asked again in %g s", error, pause)
        self.context.waits_for(str(error))
        self._at_s = time.monotonic() + pause

    def _records(self, answer: Answer, url: str) -> list[SourceRecord]:
        """Return what is new in an answer.

        Raises:
            ConnectError: it is none that we understand, or its offsets do not grow.
        """
        where = shown(url)
        if answer.status == 304:
            return []
        if not 200 <= answer.status < 300:
            raise ConnectError(f"{where} answers GET with {self._link.told(answer)}")
        if not answer.is_whole:
            raise ConnectError(
                f"{where} has answered more than {self.values['http.response.max.bytes']} bytes (http.response.max.bytes); "
                "a limit in http.url makes its pages smaller"
            )
        if answer.status == 204:
            return []
        try:
            data = _JSON.to_connect("", answer.body).value
        except DataError as error:
            raise ConnectError(f"{where}: {error}; it answers {self._link.told(answer)}") from error
        try:
            given = records_in(data, self.values["http.records.path"])
        except ConnectError as error:
            raise ConnectError(f"{where}: {error}") from error
        found = self._new(given, where)
        tag = answer.header("etag")
        self._tag = None if tag is None else (url, tag)
        return found

    def _new(self, given: Sequence[Any], where: str) -> list[SourceRecord]:
        """Return those behind the last offset.

        Raises:
            ConnectError: one has an offset that is not greater than the one before it.
        """
        found = []
        before, previous = self._last, None
        for value in given:
            made = self._record(value, where)
            if made is None:
                continue
            offset, record = made
            if previous is not None and not _has_grown(offset, previous, where):
                raise _not_greater(offset, previous, where)
            previous = offset
            if before is None or _has_grown(offset, before, where):
                found.append(record)
                self._last = self._asked = offset
            elif not self._has_old:
                raise _not_greater(offset, before, where)
        return found

    def _record(self, value: Any, where: str) -> tuple[Offset, SourceRecord] | None:
        """Return a record and its offset; None: it is passed over.

        Raises:
            ConnectError: it cannot be taken, and errors.tolerance is none.
        """
        try:
            offset = offset_of(value, self._fields)
            rank(offset)
            key = at(value, self.values["key.field"]) if self.values["key.field"] else None
        except DataError as error:
            told = f"{where}: a record cannot be taken: {error}"
            if not self._is_tolerant:
                raise ConnectError(f"{told} (errors.tolerance=all passes over such records)") from error
            log.warning("%s; it is passed over", told)
            return None
        return offset, SourceRecord(
            topic=self.values["topic"],
            key=key,
            value=value,
            source_partition=self._partition,
            source_offset=dict(zip(self._fields, offset, strict=True)),
        )


def _has_grown(offset: Offset, before: Offset, where: str) -> bool:
    try:
        return comes_after(offset, before)
    except DataError as error:
        raise ConnectError(f"{where}: offsets of different kinds (http.offset.fields): {error}") from error


def _not_greater(offset: Offset, before: Offset, where: str) -> ConnectError:
    return ConnectError(
        f"{where}: the offset {shown_offset(offset)} comes after {shown_offset(before)}, and is not greater: records have to "
        "come in the order of http.offset.fields, which no two of them have in common"
    )


def initial_of(values: Mapping[str, Any]) -> Offset:
    """Return the offset that is asked for at first.

    Raises:
        ConfigError: it has not as many values as there are fields.
    """
    fields, given = values["http.offset.fields"], values["http.offset.initial"]
    if "${offset" not in values["http.url"]:
        return tuple("" for _ in fields)
    if given is None:
        raise ConfigError("http.offset.initial is needed: what ${offset} in http.url is before there is a record")
    found = tuple(text.strip() for text in given.split(","))
    if len(found) != len(fields):
        raise ConfigError(f"http.offset.initial has {len(found)} values, and http.offset.fields {len(fields)}")
    return found


class HttpSourceConnector(SourceConnector):
    """Records of an HTTP server."""

    CONFIG = ConfigDef(
        url_key(
            "What is asked; ${offset} stands for the offset of the last record, ${offset.1}, ${offset.2} for each of "
            "its values.",
            parts=("offset", *(f"offset.{number}" for number in range(1, _FIELDS_MAX + 1))),
        ),
        ConfigKey(name="topic", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="Where records go."),
        ConfigKey(
            name="http.records.path",
            default="",
            validator=check(check_pointer, "/path/to/a/list"),
            importance=Importance.HIGH,
            documentation="Where the list of records stands in an answer: /data/orders. Without it the answer is the list.",
        ),
        ConfigKey(
            name="http.offset.fields",
            type=ConfigType.LIST,
            validator=NOT_EMPTY_LIST,
            importance=Importance.HIGH,
            documentation="The fields that grow from record to record: id, or updated_at,id; /a/b for one within another.",
        ),
        ConfigKey(
            name="http.offset.initial",
            default=None,
            importance=Importance.HIGH,
            documentation="What ${offset} is before there is a record, a value for each field.",
        ),
        ConfigKey(
            name="http.offset.inclusive",
            type=ConfigType.BOOLEAN,
            default=False,
            documentation="Whether the server tells the record of the offset again, and those before it: they are left out.",
        ),
        ConfigKey(name="key.field", default="", documentation="The field that is the key of records; none without it."),
        ConfigKey(
            name="poll.interval.ms",
            type=ConfigType.INT,
            default=10000,
            validator=at_least(1),
            documentation="The pause after an answer that has nothing new.",
        ),
        ConfigKey(
            name="http.response.max.bytes",
            type=ConfigType.INT,
            default=16 << 20,
            validator=at_least(1),
            importance=Importance.LOW,
            documentation="The longest answer.",
        ),
        *KEYS,
    )
    Task = HttpSourceTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        check_login(self.values)
        initial_of(self.values)
        fields = self.values["http.offset.fields"]
        if len(fields) > _FIELDS_MAX or len(set(fields)) < len(fields):
            raise ConfigError(
                f"http.offset.fields has {len(fields)} fields: up to {_FIELDS_MAX}, each once, are possible"
            )
        url = self.values["http.url"]
        missing = [number for number in range(len(fields) + 1, _FIELDS_MAX + 1) if f"${{offset.{number}}}" in url]
        if missing:
            raise ConfigError(f"http.url has ${{offset.{missing[0]}}}, and http.offset.fields has {len(fields)} fields")
        return [self.config]

    def exactly_once_support(self) -> bool:
        return True

    def alter_offsets(self, offsets: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> bool:
        fields = self.values["http.offset.fields"]
        for partition, offset in offsets:
            if partition != {"url": shown(self.values["http.url"])}:
                raise ConnectError(f"The partition of this connector is {{'url': '{shown(self.values['http.url'])}'}}")
            if offset is None:
                continue
            if set(offset) != set(fields):
                raise ConnectError(f"An offset of this connector has {', '.join(fields)} (http.offset.fields)")
            try:
                rank([offset[field] for field in fields])
            except DataError as error:
                raise ConnectError(str(error)) from error
        return True
