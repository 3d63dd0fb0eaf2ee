"""The topic of offsets of sources, in Java's format: the keys and values are those of `runtime/offsets.py`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
        #: Deliveries, and who is told when they are written, in the order of the sending; an event is set when its turn
        #: comes, None ends the thread.
        self._sent: SimpleQueue[tuple[list[Any], Sequence[Callable[[], object]]] | threading.Event | None] = (
            SimpleQueue()
        )
        #: What could not be sent, and who waits for that to be written.
        self._owed: dict[bytes, bytes | None] = {}
        self._told_later: list[Callable[[], object]] = []
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
        try:
            with self._lock:
                self._send_owed()
        except KafkaError as error:
            log.error("%d offsets were not written, and records come again: %s", len(self._owed), error)
        try:
            self._producer.close(timeout_s)
        finally:
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
            KafkaError: the cluster does not answer: they are written with the next ones, or by the next `flush`.
        """
        with self._lock:
            self._owed |= entries
            self._told_later.append(on_written)
            self._send_owed()

    def _send_owed(self) -> None:
        """Send what has not been sent, with the lock held. What is sent before an error is watched like the rest.

        Raises:
            KafkaError: the cluster does not answer.
        """
        deliveries: list[Any] = []
        told: list[Callable[[], object]] = []
        try:
            for key, value in list(self._owed.items()):
                deliveries.append(self._producer.send(self._topic, value, key=key))
                del self._owed[key]
            told, self._told_later = self._told_later, []
        finally:
            if deliveries or told:
                self._sent.put((deliveries, told))

    def _tell(self) -> None:
        while (found := self._sent.get()) is not None:
            if isinstance(found, threading.Event):
                found.set()
                continue
            deliveries, told = found
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
                for on_written in told:
                    try:
                        on_written()
                    except Exception:  # of one task; the others are told
                        log.exception("a task could not be told that its offsets are written")

    def settle(self) -> None:
        """Wait until everything was written and read that this worker, or another one, has written.

        Raises:
            ConnectError, KafkaError, TimeoutError: the cluster does not answer.
        """
        self.flush(_LIMIT_S)
        self.log.read_to_end(_LIMIT_S)

    def flush(self, timeout_s: float) -> None:
        """Wait until all offsets are written, those included that could not be sent before.

        Raises:
            KafkaError: they are not.
            TimeoutError: it is not known.
        """
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise TimeoutError(f"offsets could not be sent within {timeout_s:g} s")
        try:
            self._send_owed()
        finally:
            self._lock.release()
        self._producer.flush(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            is_seen = threading.Event()
            self._sent.put(is_seen)
            if not is_seen.wait(max(1.0, deadline - time.monotonic())):
                raise TimeoutError(f"it is not known after {timeout_s:g} s whether offsets were written")
        if self._is_broken:
            raise KafkaError("offsets that were sent before have not been written")
