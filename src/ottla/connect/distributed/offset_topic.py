"""The topic of offsets of sources, in Java's format: the keys and values are those of `runtime/offsets.py`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from ottla import Producer
from ottla.connect.distributed.topics import LogRecord, TopicLog
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)

_LIMIT_S = 30.0


class OffsetTopic:
    """Reads and writes offsets; any thread may use it."""

    def __init__(self, topic: str, partitions: int, worker: Mapping[str, str]) -> None:
        self.log = TopicLog(topic, partitions, worker, self._take)
        self._topic = topic
        self._lock = threading.Lock()
        self._sent: SimpleQueue[tuple[list[Any], Callable[[], object]] | None] = SimpleQueue()
        #: What could not be sent.
        self._owed: dict[bytes, bytes | None] = {}
        self._is_broken = False
        self._thread = threading.Thread(target=self._tell, name="offsets", daemon=True)
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
        """Write what is left, and end."""
        self._producer.close(timeout_s)
        self._sent.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self.log.stop()

    def _take(self, rows: list[LogRecord]) -> None:
        found = dict(self.entries)
        for row in rows:
            if row.key is not None:
                found[row.key] = row.value
        self.entries = {key: value for key, value in found.items() if value is not None}

    def update(self, entries: Mapping[bytes, bytes | None], on_written: Callable[[], object] = lambda: None) -> None:
        """Write offsets: they are sent until they are written; then, and when all before are, `on_written` is called.

        Raises:
            KafkaError: the cluster does not answer: they are written with the next ones.
        """
        with self._lock:
            self._owed |= entries
            deliveries = []
            for key, value in list(self._owed.items()):
                deliveries.append(self._producer.send(self._topic, value, key=key))
                del self._owed[key]
            self._sent.put((deliveries, on_written))

    def _tell(self) -> None:
        while (found := self._sent.get()) is not None:
            deliveries, on_written = found
            if self._is_broken:
                continue  # a later offset does not stand for those that are missing
            try:
                for delivery in deliveries:
                    delivery.result()
            except KafkaError as error:
                self._is_broken = True
                log.error(
                    "offsets were not written, and records come again when a task starts anew; tasks do not hear any "
                    "more what is written, until this worker is started again: %s",
                    error,
                )
            else:
                on_written()

    def settle(self) -> None:
        """Wait until everything was written and read that this worker, or another one, has written.

        Raises:
            ConnectError, KafkaError, TimeoutError: the cluster does not answer.
        """
        self.flush(_LIMIT_S)
        self.log.read_to_end(_LIMIT_S)

    def flush(self, timeout_s: float) -> None:
        """Wait until offsets are written.

        Raises:
            KafkaError: they are not.
        """
        self._producer.flush(timeout_s)
