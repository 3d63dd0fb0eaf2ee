"""The topic of configurations, read and, by the leader, written: a change is one transaction, and holds when it was read.

The transactional id belongs to the group: who becomes the leader shuts the one before it out, so a leader that does
not know yet that it is none cannot write.
"""

from __future__ import annotations

import base64
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ottla import Producer
from ottla.connect.distributed.config_records import Written, encode, session_key
from ottla.connect.distributed.topics import LogRecord, TopicLog
from ottla.connect.runtime.herder import HerderError
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
#: Seconds for one change; an unfinished one of a leader that died is aborted after as long.
_LIMIT_S: Final = 15.0


class ConfigStore:
    """See the module.

    Args:
        on_records: called with records in order.
    """

    def __init__(
        self, topic: str, worker: Mapping[str, str], group: str, on_records: Callable[[list[LogRecord]], None]
    ) -> None:
        self.log = TopicLog(topic, 1, worker, on_records)
        self._topic = topic
        self._worker = worker
        self._transactional_id = f"connect-cluster-{group}"
        self._lock = threading.Lock()
        self._producer: Producer[Any, Any] | None = None
        #: Since when this worker is the leader, and what it has written since.
        self._since: int | None = None
        self._own: set[int] = set()

    def is_foreign(self, offset: int) -> bool:
        """Return whether a record that only a leader writes is of another one, while this worker is the leader."""
        return self._since is not None and offset >= self._since and offset not in self._own

    def lead(self) -> None:
        """Shut other leaders out, and read what they have written.

        Raises:
            KafkaError, ConnectError: not now.
        """
        with self._lock:
            self._drop()
            config = client_config(self._worker, "") | {
                "transactional.id": self._transactional_id,
                "transaction.timeout.ms": str(int(_LIMIT_S * 1000)),
                "max.block.ms": str(int(_LIMIT_S * 1000)),
                "delivery.timeout.ms": str(int(_LIMIT_S * 1000)),
                "request.timeout.ms": str(int(_LIMIT_S * 500)),
            }
            producer: Producer[Any, Any] = Producer(
                self._worker.get("bootstrap.servers", "localhost:9092"), config=config
            )
            try:
                producer.init_transactions()
                self.log.read_to_end(_LIMIT_S)
            except BaseException:
                producer.close(0)
                raise
            self._producer, self._since, self._own = producer, self.log.position(), set()
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.write([session_key(key, time.time_ns() // 1_000_000)])

    def resign(self) -> None:
        """Be the leader no more."""
        with self._lock:
            self._drop()

    @property
    def leads(self) -> bool:
        """Whether this worker may write."""
        return self._producer is not None

    def _drop(self) -> None:
        producer, self._producer, self._since = self._producer, None, None
        if producer is not None:
            producer.close(0)

    def write(self, rows: Sequence[Written]) -> None:
        """Write records, all or none, and wait until they were read here.

        Raises:
            HerderError: this worker is no leader (any more), or they were not written.
        """
        with self._lock:
            producer = self._producer
            if producer is None:
                raise HerderError(409, "This worker has just stopped being the leader: ask again")
            try:
                with producer.transaction() as transaction:
                    deliveries = [
                        transaction.send(self._topic, value, key=key, partition=0) for key, value in map(encode, rows)
                    ]
                    offsets = [delivery.result(_LIMIT_S).offset for delivery in deliveries]
                    self._own.update(offsets)  # before anybody can read them
            except (KafkaError, TimeoutError) as error:
                # Another one may be the leader, or it is not known whether they count: the next leader reads what holds.
                self._drop()
                raise HerderError(500, f"Failed to write to the topic of configurations: {error}") from error
        if not self.log.wait_for(max(offsets), _LIMIT_S):
            raise HerderError(500, "What was written to the topic of configurations could not be read back in time")

    def stop(self) -> None:
        """Read and write no more."""
        self.resign()
        self.log.stop()
