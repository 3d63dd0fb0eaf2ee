"""The three topics of distributed workers: made, checked, read from their beginning and followed.

All three are compact and nothing else: with another policy configurations would be deleted by their age. That of
configurations has one partition, since its records have an order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ottla import Admin, Consumer, TopicPartition
from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
_POLL_S = 0.1
_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A record of such a topic."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def prepare(worker: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, int]:
    """Make the topics that are not there, and look at those that are; return how many partitions each has.

    Raises:
        ConfigError: one is not what it has to be: it is left as it is.
        ConnectError: one cannot be made.
        KafkaError: the cluster does not answer.
    """
    counts = {}
    servers = worker.get("bootstrap.servers", "localhost:9092")
    with Admin(servers, config=client_config(worker, "admin")) as admin:
        for part in ("config", "offset", "status"):
            key = f"{part}.storage.topic"
            name, partitions = settings[key], 1 if part == "config" else settings[f"{part}.storage.partitions"]
            factor = settings[f"{part}.storage.replication.factor"]
            try:
                admin.create_topic(
                    name,
                    partitions=None if partitions == -1 else partitions,
                    replication_factor=None if factor == -1 else factor,
                    configs={"cleanup.policy": "compact"},
                    exists_ok=True,
                    timeout=_LIMIT_S,
                )
            except KafkaError as error:
                raise ConnectError(
                    f"The topic {name} ({key}) is not there and cannot be made with {factor} replicas "
                    f"({part}.storage.replication.factor; a single broker needs 1): {error}"
                ) from error
            counts[part] = _check(admin, key, name)
    return counts


def _check(admin: Admin, key: str, name: str) -> int:
    policy = str(admin.describe_configs("topic", name, timeout=_LIMIT_S)["cleanup.policy"].value)
    if policy != "compact":
        raise ConfigError(
            f"The topic {name} ({key}) has cleanup.policy={policy}, and must have compact alone: its records would be "
            f"deleted by their age, and with them connectors. Set it with `ottla topic alter` or kafka-configs."
        )
    count = len(admin.describe_topic(name, timeout=_LIMIT_S).partitions)
    if key == "config.storage.topic" and count != 1:
        raise ConfigError(
            f"The topic {name} ({key}) has {count} partitions, and must have one: the order of its records counts."
        )
    return count


class TopicLog:
    """Reads a topic in a thread of its own.

    Args:
        on_records: called with records in order, of one partition each time; in that thread.
    """

    def __init__(
        self, topic: str, partitions: int, worker: Mapping[str, str], on_records: Callable[[list[LogRecord]], None]
    ) -> None:
        self._topic = topic
        self._on_records = on_records
        self._consumer = Consumer(
            worker.get("bootstrap.servers", "localhost:9092"),
            config=client_config(worker, "") | {"isolation.level": "read_committed", "auto.offset.reset": "earliest"},
        )
        self._consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._end: int | None = None
        self._positions: dict[int, int] = {}
        self._error: Exception | None = None
        self._is_stopping = False
        #: Why it is read no more.
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"log-{topic}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def read_to_end(self, timeout_s: float = _LIMIT_S) -> None:
        """Wait until everything was read that was in the topic when this was called.

        Raises:
            ConnectError: it cannot be read in time.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            done = self._changed.wait_for(lambda: self._answered >= mine or self._is_stopping, timeout_s)
            error = self._error
        if not done or self._answered < mine:
            raise ConnectError(f"The topic {self._topic} cannot be read to its end: {error or 'it takes too long'}")

    def position(self) -> int:
        """Return how far the first partition was read."""
        with self._changed:
            return self._positions.get(0, 0)

    def wait_for(self, offset: int, timeout_s: float = _LIMIT_S) -> bool:
        """Wait until the record at an offset of a topic of one partition was read; return whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._positions.get(0, 0) > offset or self._is_stopping, timeout_s)

    def _run(self) -> None:
        with self._consumer as consumer:
            while not self._is_stopping:
                try:
                    self._step(consumer)
                    self._error = None
                except KafkaError as error:
                    if self._error is None:
                        log.warning("the topic %s cannot be read now: %s", self._topic, error)
                    self._error = error
                    time.sleep(_POLL_S)
                except Exception as error:  # what was read could not be taken: nobody may go on as if it had been
                    log.exception("the topic %s is read no more", self._topic)
                    self.failure = self._error = error
                    return

    def _step(self, consumer: Consumer[Any, Any]) -> None:
        with self._changed:
            asked = self._asked
        ends = consumer.end_offsets(consumer.assignment) if asked > self._answered else None
        while True:
            records = consumer.poll(timeout=_POLL_S)
            by_partition: dict[int, list[LogRecord]] = {}
            for record in records:
                row = LogRecord(
                    offset=record.offset, timestamp_ms=record.timestamp_ms, key=record.key, value=record.value
                )
                by_partition.setdefault(record.partition, []).append(row)
            for rows in by_partition.values():
                self._on_records(rows)
            positions = {where: consumer.position(where) for where in consumer.assignment}
            with self._changed:
                self._positions = {where.partition: offset for where, offset in positions.items()}
                if ends is not None and all(positions[where] >= end for where, end in ends.items()):
                    self._answered = max(self._answered, asked)
                    ends = None
                self._changed.notify_all()
                if ends is None or self._is_stopping:
                    return
