"""Records of a sink that were passed over, on their way to the topic of dead letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ottla import Admin, Delivery, NewTopic, Producer
from ottla.connect.errors import ConnectError
from ottla.connect.runtime.pipeline import Failure
from ottla.connect.settings import client_config
from ottla.errors import InvalidReplicationFactorError, TopicAlreadyExistsError

_PREFIX = "__connect.errors."


class DeadLetterTopic:
    """Sends copies of records, with headers that say what was wrong if that is wanted."""

    def __init__(
        self,
        connector: str,
        task: int,
        worker: Mapping[str, str],
        config: Mapping[str, str],
        values: Mapping[str, Any],
        redact: Callable[[str], str] = str,
    ) -> None:
        self._topic: str = values["errors.deadletterqueue.topic.name"]
        self._with_headers: bool = values["errors.deadletterqueue.context.headers.enable"]
        self._replicas: int = values["errors.deadletterqueue.topic.replication.factor"]
        self._connector, self._task = connector, task
        self._redact = redact
        self._servers = worker.get("bootstrap.servers", "localhost:9092")
        self._admin_config = client_config(worker, "admin", config)
        self._producer: Producer | None = None
        if self._topic:
            self._producer = Producer(self._servers, config=client_config(worker, "producer", config))
        self._waiting: list[Delivery] = []

    def start(self) -> None:
        """Make the topic if it is not there."""
        if not self._topic:
            return
        with Admin(self._servers, config=self._admin_config) as admin:
            if self._topic in {topic.name for topic in admin.list_topics()}:
                return
            try:
                admin.create_topics([NewTopic(name=self._topic, partitions=1, replication_factor=self._replicas)])
            except TopicAlreadyExistsError:
                pass
            except InvalidReplicationFactorError as error:
                raise ConnectError(
                    f"The topic of dead letters {self._topic} cannot be made with {self._replicas} replicas "
                    f"(errors.deadletterqueue.topic.replication.factor, 1 for a single broker): {error}"
                ) from error

    def bury(self, record: Any, failure: Failure) -> bool:
        """Send a copy of a consumer's record; return whether dead letters are wanted."""
        if self._producer is None:
            return False
        headers = list(record.headers.multi_items())
        if self._with_headers:
            told = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "connector.name": self._connector,
                "task.id": self._task,
                "stage": failure.stage,
                "class.name": failure.class_name,
                "exception.class.name": type(failure.error).__name__,
                "exception.message": self._redact(str(failure.error)),
                "exception.stacktrace": self._redact(failure.trace()),
            }
            headers += [(_PREFIX + name, str(text).encode()) for name, text in told.items()]
        self._waiting.append(
            self._producer.send(self._topic, record.value_bytes, key=record.key_bytes, headers=headers)
        )
        return True

    def flush(self) -> None:
        """Wait until all are acknowledged: no offset after them may be committed before that.

        Raises:
            DeliveryError: one was not.
        """
        waiting, self._waiting = self._waiting, []
        if waiting and self._producer is not None:
            self._producer.flush()
        for delivery in waiting:
            delivery.result(0)

    def close(self) -> None:
        """Close the producer."""
        if self._producer is not None:
            self._producer.close()
