"""The topic of offsets of sources, in Java's format: the keys and values are those of `runtime/offsets.py`.

One thread writes: offsets are given to it and sent until the cluster has them, a newer one in the place of an older one of
the same key. So nobody who brings an offset waits for the cluster. An offset that the cluster refuses for good is given up,
and costs its connector alone: the connector's tasks do not hear that anything is written before a later offset of the same
key is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ottla import Producer
from ottla.connect.distributed.topics import LogRecord, TopicLog
from ottla.connect.runtime.offsets import connector_of
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)

_LIMIT_S: Final = 30.0
_RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who is told when offsets of these connectors are written."""

    connectors: frozenset[str | None]
    on_written: Callable[[], object]


class OffsetTopic:
    """Reads and writes offsets; any thread may use it."""

    def __init__(self, topic: str, partitions: int, worker: Mapping[str, str]) -> None:
        self.log = TopicLog(topic, partitions, worker, self._take)
        self._topic = topic
        self._changed = threading.Condition()
        #: What is not known to be written, by its key, and who waits for that.
        self._owed: dict[bytes, bytes | None] = {}
        self._waiting: list[_Waiting] = []
        #: How often offsets were given, and how many of these times all of them were written, or refused.
        self._given = 0
        self._settled = 0
        #: Why offsets were refused, by their keys; until a later one of that key is written.
        self._refused: dict[bytes, KafkaError] = {}
        #: Why what is owed was not written the last time.
        self._delay: KafkaError | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="offsets", daemon=True)
        self.entries: Mapping[bytes, bytes | None] = {}
        self._producer: Producer[Any, Any] = Producer(
            worker.get("bootstrap.servers", "localhost:9092"),
            config=client_config(worker, "") | {"delivery.timeout.ms": "2147483647", "max.block.ms": "10000"},
        )

    def start(self) -> None:
        """Begin."""
        self._producer.start()
        self._thread.start()
        self.log.start()

    def stop(self, timeout_s: float) -> None:
        """Write what is left, and end; what cannot be written in time is not."""
        try:
            self.flush(timeout_s)
        except TimeoutError as error:
            log.error("%d offsets were not written, and records come again: %s", len(self._owed), error)
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        try:
            self._producer.close(timeout_s)
        finally:
            if self._thread.is_alive():
                self._thread.join(timeout_s)
            self.log.stop()

    def _take(self, rows: list[LogRecord]) -> None:
        found = dict(self.entries)
        for row in rows:
            if row.key is not None:
                found[row.key] = row.value
        self.entries = {key: value for key, value in found.items() if value is not None}

    def update(self, entries: Mapping[bytes, bytes | None], on_written: Callable[[], object] = lambda: None) -> None:
        """Have offsets written; when they are, and all before, `on_written` is called, in another thread."""
        with self._changed:
            self._given += 1
            self._owed |= entries
            self._waiting.append(_Waiting(frozenset(map(connector_of, entries)), on_written))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._settled < self._given or self._is_stopping)
                if self._is_stopping:
                    return
            try:
                is_settled = self._write()
            except Exception:  # without this thread no offset would be written any more
                log.exception("offsets could not be written")
                is_settled = False
            if not is_settled:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopping, _RETRY_S)

    def _write(self) -> bool:
        """Write what is owed now, and tell those who wait for it; return whether that was possible."""
        with self._changed:
            given = self._given
            batch, self._owed = self._owed, {}
            waiting, self._waiting = self._waiting, []
        refused, delayed = self._send(batch)
        with self._changed:
            if bool(self._delay) != bool(delayed) and delayed:
                log.warning("offsets cannot be written now, and are tried again: %s", next(iter(delayed.values())))
            self._delay = next(iter(delayed.values()), None)
            self._owed = {key: batch[key] for key in delayed} | self._owed
            for key in batch.keys() - delayed.keys():
                self._refused.pop(key, None)
            self._refused |= refused
            if delayed:
                self._waiting = waiting + self._waiting
            left_out = {connector_of(key) for key in self._refused}
        for key, error in refused.items():
            log.error(
                "an offset of connector %s was refused, and records come again when a task starts anew: %s",
                connector_of(key),
                error,
            )
        if delayed:
            return False
        for each in waiting:
            if left_out.isdisjoint(each.connectors):
                try:
                    each.on_written()
                except Exception:  # of one task; the others are told
                    log.exception("a task could not be told that its offsets are written")
        with self._changed:
            self._settled = given
            self._changed.notify_all()
        return True

    def _send(self, batch: Mapping[bytes, bytes | None]) -> tuple[dict[bytes, KafkaError], dict[bytes, KafkaError]]:
        """Send offsets and wait for the answers; return which were refused, and which are to be sent again, and why."""
        refused: dict[bytes, KafkaError] = {}
        delayed: dict[bytes, KafkaError] = {}
        deliveries: dict[bytes, Any] = {}

        def sort(key: bytes, error: KafkaError) -> None:
            (delayed if error.retriable else refused)[key] = error

        for key, value in batch.items():
            if delayed:  # the cluster is away: each would wait as long as the first
                delayed[key] = next(iter(delayed.values()))
                continue
            try:
                deliveries[key] = self._producer.send(self._topic, value, key=key)
            except KafkaError as error:
                sort(key, error)
        for key, delivery in deliveries.items():
            try:
                delivery.result()
            except KafkaError as error:
                sort(key, error)
        return refused, delayed

    def settle(self, connector: str | None = None) -> None:
        """Wait until everything was written and read that this worker, or another one, has written.

        Raises:
            ConnectError, KafkaError, TimeoutError: the cluster does not answer, or refuses an offset of `connector`.
        """
        self.flush(_LIMIT_S, connector)
        self.log.read_to_end(_LIMIT_S)

    def flush(self, timeout_s: float, connector: str | None = None) -> None:
        """Wait until all offsets that were given before are written, or refused.

        Raises:
            KafkaError: one of `connector` was refused.
            TimeoutError: they are not yet.
        """
        with self._changed:
            mine = self._given
            if not self._changed.wait_for(lambda: self._settled >= mine, timeout_s):
                raise TimeoutError(
                    f"offsets are not written after {timeout_s:g} s: {self._delay or 'the cluster does not answer'}"
                )
            for key, error in self._refused.items():
                if connector is not None and connector_of(key) == connector:
                    raise error
