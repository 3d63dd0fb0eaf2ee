"""The way of one record: converters and transforms of a connector, and what becomes of a record that fails.

No I/O but for the pauses between attempts, which come through `pause`, and dead letters through `bury`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ottla.connect.config_def import ConfigError
from ottla.connect.converters.base import Converter, SchemaAndValue
from ottla.connect.errors import ConnectError, RetriableError
from ottla.connect.plugins import converter_class, make_predicate, make_transform
from ottla.connect.records import Header, Record, SinkRecord
from ottla.connect.runtime.metrics import Counts
from ottla.connect.schema import Schema
from ottla.connect.settings import STANDALONE, below
from ottla.connect.transforms.base import Predicate, Transform

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R", bound=Record)
_FIRST_DELAY_S = 0.3
#: Key, value and headers of a record, as bytes.
Written = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


class Stage:
    """Names of steps, in dead letters and logs."""

    TRANSFORMATION = "TRANSFORMATION"
    KEY_CONVERTER = "KEY_CONVERTER"
    VALUE_CONVERTER = "VALUE_CONVERTER"
    HEADER_CONVERTER = "HEADER_CONVERTER"
    TASK_PUT = "TASK_PUT"


class Passed(Exception):
    """A record was passed over: what was wrong is logged, and buried where dead letters go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A record that failed, and where."""

    stage: str
    class_name: str
    error: BaseException

    def trace(self) -> str:
        """Return the traceback as text."""
        return "".join(traceback.format_exception(self.error))


class Tolerance:
    """What becomes of failures of one task.

    Args:
        pause: waits so many seconds; returns whether the task is to stop.
        counts: what the task counts.
    """

    def __init__(self, values: Mapping[str, Any], pause: Callable[[float], bool], counts: Counts | None = None) -> None:
        self._counts = counts or Counts()
        self._all = values["errors.tolerance"] == "all"
        self._log = values["errors.log.enable"]
        self._log_place = values["errors.log.include.messages"]
        self._retry_ms: int = values["errors.retry.timeout"]
        self._delay_max_s: float = values["errors.retry.delay.max.ms"] / 1000
        self._pause = pause

    def attempt(
        self, stage: str, class_name: str, operation: Callable[[], T], bury: Callable[[Failure], None], place: str
    ) -> T:
        """Return what an operation gives; one that may work later is tried again.

        Raises:
            Passed: it failed, and failures are tolerated.
            ConnectError: it failed, and they are not.
        """
        try:
            return self._retried(operation)
        except Exception as error:
            self.fail(Failure(stage=stage, class_name=class_name, error=error), bury, place)
            raise Passed from error

    def fail(self, failure: Failure, bury: Callable[[Failure], None], place: str) -> None:
        """Log and bury a failure.

        Raises:
            ConnectError: failures are not tolerated.
        """
        self._counts.add("total-record-failures")
        if self._log:
            self._counts.add("total-errors-logged")
            where = f" for {place}" if self._log_place else ""
            log.error("Error encountered in %s%s (%s): %s", failure.stage, where, failure.class_name, failure.error)
        if not self._all:
            raise ConnectError(f"Tolerance exceeded in error handler: {failure.stage}, {place}") from failure.error
        bury(failure)
        self._counts.add("total-records-skipped")

    def _retried(self, operation: Callable[[], T]) -> T:
        began, delay_s = time.monotonic(), _FIRST_DELAY_S
        while True:
            try:
                return operation()
            except RetriableError:
                left_s = self._retry_ms / 1000 - (time.monotonic() - began)
                if self._retry_ms >= 0 and left_s <= 0:
                    raise
                wait_s = min(delay_s, self._delay_max_s)
                self._counts.add("total-retries")
                if self._pause(wait_s if self._retry_ms < 0 else min(wait_s, max(left_s, 0.001))):
                    raise
                delay_s *= 2


class Pipeline:
    """Converters and transforms of one task.

    Raises:
        ConfigError: one of them does not exist, or is configured wrongly.
    """

    def __init__(self, worker: Mapping[str, str], config: Mapping[str, str], tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.key, self.value, self.header = (_converter(part, worker, config) for part in ("key", "value", "header"))
        predicates = {name: _predicate(name, config) for name in _names(config, "predicates")}
        self._steps = [_step(name, config, predicates) for name in _names(config, "transforms")]

    @property
    def has_steps(self) -> bool:
        """Whether there are transforms."""
        return bool(self._steps)

    def transform(self, record: R, bury: Callable[[Failure], None], place: str) -> R | None:
        """Return what the transforms make of a record; None: it is dropped.

        Raises:
            Passed: one failed, which is tolerated.
        """
        if not self._steps:
            return record
        current: Record | None = record
        for transform, predicate, negate in self._steps:
            assert current is not None
            step = partial(_apply, transform, predicate, negate, current)
            current = self._tolerance.attempt(Stage.TRANSFORMATION, type(transform).__name__, step, bury, place)
            if current is None:
                return None
        return current  # type: ignore[return-value]

    def write(self, record: Record, bury: Callable[[Failure], None]) -> Written:
        """Return key, value and headers of a record as bytes.

        Raises:
            Passed: one cannot be written, which is tolerated.
        """
        topic = record.topic
        try:  # the usual case, in which nothing is counted, repeated or passed over
            headers = [
                (header.name, self.header.from_connect_header(topic, header.name, header.schema, header.value))
                for header in record.headers
            ]
            key = self.key.from_connect(topic, record.key_schema, record.key)
            return key, self.value.from_connect(topic, record.value_schema, record.value), headers
        except Exception:
            return self._write_with_care(record, bury)

    def _write_with_care(self, record: Record, bury: Callable[[Failure], None]) -> Written:
        topic, place = record.topic, f"a record to topic {record.topic}"

        def attempt(stage: str, converter: Converter, *given: Any) -> bytes | None:
            write = converter.from_connect_header if stage == Stage.HEADER_CONVERTER else converter.from_connect
            return self._tolerance.attempt(stage, type(converter).__name__, partial(write, topic, *given), bury, place)

        headers = [
            (header.name, attempt(Stage.HEADER_CONVERTER, self.header, header.name, header.schema, header.value))
            for header in record.headers
        ]
        key = attempt(Stage.KEY_CONVERTER, self.key, record.key_schema, record.key)
        return key, attempt(Stage.VALUE_CONVERTER, self.value, record.value_schema, record.value), headers

    def write_values(
        self, topic: str, schema: Schema | None, values: Sequence[Any]
    ) -> tuple[bytes | None, list[bytes | None]] | None:
        """Return the key of records without one, and values, as bytes; None: one cannot be written, `write` says which."""
        write = self.value.from_connect
        try:
            return self.key.from_connect(topic, None, None), [write(topic, schema, value) for value in values]
        except Exception:
            return None

    def read(self, record: Any, bury: Callable[[Failure], None]) -> SinkRecord:
        """Return a consumer's record as data.

        Raises:
            Passed: it cannot be read, which is tolerated.
        """
        topic = record.topic
        try:  # the usual case
            key = self.key.to_connect(topic, record.key_bytes)
            value = self.value.to_connect(topic, record.value_bytes)
            headers = [
                Header(name, *self.header.to_connect_header(topic, name, data))
                for name, data in record.headers.multi_items()
            ]
        except Exception:
            key, value, headers = self._read_with_care(record, bury)
        return SinkRecord(
            topic=topic,
            partition=record.partition,
            offset=record.offset,
            key_schema=key.schema,
            key=key.value,
            value_schema=value.schema,
            value=value.value,
            timestamp=record.timestamp_ms,
            headers=tuple(headers),
        )

    def _read_with_care(
        self, record: Any, bury: Callable[[Failure], None]
    ) -> tuple[SchemaAndValue, SchemaAndValue, list[Header]]:
        topic, place = record.topic, place_of(record)

        def attempt(stage: str, converter: Converter, *given: Any) -> SchemaAndValue:
            read = converter.to_connect_header if stage == Stage.HEADER_CONVERTER else converter.to_connect
            return self._tolerance.attempt(stage, type(converter).__name__, partial(read, topic, *given), bury, place)

        key = attempt(Stage.KEY_CONVERTER, self.key, record.key_bytes)
        value = attempt(Stage.VALUE_CONVERTER, self.value, record.value_bytes)
        headers = [
            Header(name, *attempt(Stage.HEADER_CONVERTER, self.header, name, data))
            for name, data in record.headers.multi_items()
        ]
        return key, value, headers

    def close(self) -> None:
        """Close transforms and predicates."""
        for transform, predicate, _ in self._steps:
            transform.close()
            if predicate is not None:
                predicate.close()


def _apply(transform: Transform, predicate: Predicate | None, negate: bool, record: Record) -> Record | None:
    if predicate is not None and predicate.test(record) == negate:
        return record
    return transform.apply(record)


def place_of(record: Any) -> str:
    """Return where a record of a topic is, for people."""
    return f"topic {record.topic}, partition {record.partition}, offset {record.offset}"


def _names(config: Mapping[str, str], key: str) -> list[str]:
    return [name.strip() for name in config.get(key, "").split(",") if name.strip()]


def _converter(part: str, worker: Mapping[str, str], config: Mapping[str, str]) -> Converter:
    """A connector's own converter has the connector's settings, the worker's those of the worker."""
    own = config.get(f"{part}.converter")
    settings = below(config if own else worker, f"{part}.converter.")
    made = converter_class(own or worker.get(f"{part}.converter") or STANDALONE.keys[f"{part}.converter"].default)
    if "converter.type" in made.CONFIG.keys:
        settings["converter.type"] = part
    return made(settings)


def _step(
    name: str, config: Mapping[str, str], predicates: Mapping[str, Predicate]
) -> tuple[Transform, Predicate | None, bool]:
    given = below(config, f"transforms.{name}.")
    kind, predicate = given.pop("type", None), given.pop("predicate", None)
    negate = given.pop("negate", "false").lower() == "true"
    if kind is None:
        raise ConfigError(f'Missing required configuration "transforms.{name}.type" which has no default value.')
    if predicate is not None and predicate not in predicates:
        raise ConfigError.of(
            f"transforms.{name}.predicate", predicate, "there is no predicate of that name in predicates"
        )
    return make_transform(kind, given), None if predicate is None else predicates[predicate], negate


def _predicate(name: str, config: Mapping[str, str]) -> Predicate:
    given = below(config, f"predicates.{name}.")
    kind = given.pop("type", None)
    if kind is None:
        raise ConfigError(f'Missing required configuration "predicates.{name}.type" which has no default value.')
    return make_predicate(kind, given)
