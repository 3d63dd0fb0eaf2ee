"""Transforms of topics and headers, the filter, and the predicates."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from ottla.connect.config_def import (
    NOT_EMPTY,
    NOT_EMPTY_LIST,
    NOT_NONE,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    check,
)
from ottla.connect.errors import DataError
from ottla.connect.java_dates import DateFormat
from ottla.connect.java_regex import VALID_REGEX, compile_pattern, replace_first
from ottla.connect.literals import parse_text
from ottla.connect.records import Header, Record
from ottla.connect.transforms.base import Predicate, Side, Transform


class RegexRouter(Transform):
    """Sends records whose topic matches to another topic."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="regex",
            validator=VALID_REGEX,
            importance=Importance.HIGH,
            documentation="The expression that the whole topic has to match, as java.util.regex.Pattern has it.",
        ),
        ConfigKey(name="replacement", importance=Importance.HIGH, documentation="The topic; $1 is the first group."),
    )

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self._pattern = compile_pattern(self.config["regex"])

    def apply(self, record: Record) -> Record | None:
        if self._pattern.fullmatch(record.topic) is None:
            return record
        found = self._pattern.search(record.topic)
        assert found is not None
        return record.replace(topic=replace_first(found, self.config["replacement"]))


class TimestampRouter(Transform):
    """Makes the topic of the topic and the record's time."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="topic.format",
            default="${topic}-${timestamp}",
            importance=Importance.HIGH,
            documentation="The topic, with ${topic} and ${timestamp} in it.",
        ),
        ConfigKey(
            name="timestamp.format",
            default="yyyyMMdd",
            importance=Importance.HIGH,
            documentation="How the time is written, as java.text.SimpleDateFormat has it, in UTC.",
        ),
    )

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        try:
            self._format = DateFormat(self.config["timestamp.format"], datetime.datetime.now(datetime.UTC).year)
        except ValueError as error:
            raise ConfigError.of("timestamp.format", self.config["timestamp.format"], str(error)) from None

    def apply(self, record: Record) -> Record | None:
        if record.timestamp is None:
            raise DataError(f"a record of topic {record.topic} has no timestamp")
        topic = self.config["topic.format"].replace("${topic}", record.topic)
        return record.replace(topic=topic.replace("${timestamp}", self._format.format(record.timestamp)))


class InsertHeader(Transform):
    """Adds a header to each record."""

    CONFIG = ConfigDef(
        ConfigKey(name="header", validator=NOT_NONE, importance=Importance.HIGH, documentation="The header's name."),
        ConfigKey(
            name="value.literal",
            validator=NOT_NONE,
            importance=Importance.HIGH,
            documentation="Its value; the text tells the type, as in SimpleHeaderConverter.",
        ),
    )

    def apply(self, record: Record) -> Record | None:
        schema, value = parse_text(self.config["value.literal"])
        return record.replace(headers=(*record.headers, Header(self.config["header"], schema, value)))


class DropHeaders(Transform):
    """Removes headers."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="headers",
            type=ConfigType.LIST,
            validator=NOT_EMPTY_LIST,
            importance=Importance.HIGH,
            documentation="Names of the headers to remove.",
        ),
    )

    def apply(self, record: Record) -> Record | None:
        names = self.config["headers"]
        return record.replace(headers=tuple(header for header in record.headers if header.name not in names))


class Filter(Transform):
    """Drops every record, so that a predicate says which are dropped."""

    def apply(self, record: Record) -> Record | None:
        return None


def _valid_pattern(name: str, value: str) -> None:
    NOT_EMPTY(name, value)
    VALID_REGEX(name, value)


class TopicNameMatches(Predicate):
    """True for records whose topic matches."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="pattern",
            validator=check(_valid_pattern, "non-empty string,valid regex"),
            documentation="The expression that the whole topic has to match, as java.util.regex.Pattern has it.",
        ),
    )

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self._pattern = compile_pattern(self.config["pattern"])

    def test(self, record: Record) -> bool:
        return self._pattern.fullmatch(record.topic) is not None


class HasHeaderKey(Predicate):
    """True for records with such a header."""

    CONFIG = ConfigDef(ConfigKey(name="name", validator=NOT_EMPTY, documentation="The header's name."))

    def test(self, record: Record) -> bool:
        return any(header.name == self.config["name"] for header in record.headers)


class RecordIsTombstone(Predicate):
    """True for records without a value."""

    def test(self, record: Record) -> bool:
        return record.value is None
