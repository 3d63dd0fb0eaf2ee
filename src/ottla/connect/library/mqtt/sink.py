"""MqttSinkConnector: records as messages of an MQTT broker, at least once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import MQTTMessageInfo

from ottla.connect.config_def import ConfigDef, ConfigError, ConfigKey, ConfigType, Importance, check
from ottla.connect.connectors import SinkConnector, SinkTask
from ottla.connect.errors import DataError, RetriableError
from ottla.connect.library.mqtt.link import KEYS, Link
from ottla.connect.records import SinkRecord

#: Seconds for a connection, and for a batch; after that it comes again.
_WAIT_S = 30.0


class MqttSinkTask(SinkTask):
    """Sends the records of its partitions; they count as done when the broker has acknowledged them."""

    def start(self) -> None:
        self._link: Link | None = None
        self._topic: str = self.values["mqtt.topic"]

    def stop(self) -> None:
        if self._link is not None:
            self._link.close()

    def put(self, records: Sequence[SinkRecord]) -> None:
        messages = []
        for record in records:
            try:
                messages.append((self._topic_of(record), _payload(record)))
            except DataError as error:
                self.context.reject(record, error)
        link = self._connected()
        try:
            self._send(link, messages)
        except RetriableError:
            self._link = None  # with what it still holds: the batch comes again
            link.close()
            raise

    def _connected(self) -> Link:
        if self._link is None:
            # Each task is a client of its own, which the broker gives an id.
            given = self.values["mqtt.client.id"]
            self._link = Link(self.values, given, is_clean=True)
            self._link.start()
        if not self._link.until_connected(_WAIT_S):
            raise RetriableError(f"The MQTT broker {self._link.where} does not answer")
        return self._link

    def _send(self, link: Link, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send messages, and wait for their acknowledgements.

        Raises:
            RetriableError: some did not come.
        """
        qos, retain = self.values["mqtt.qos"], self.values["mqtt.retained.enabled"]
        deadline = time.monotonic() + _WAIT_S
        sent: list[MQTTMessageInfo] = [link.client.publish(topic, data, qos, retain) for topic, data in messages]
        try:
            for info in sent:
                info.wait_for_publish(max(0.0, deadline - time.monotonic()))
        except (RuntimeError, ValueError) as error:  # QoS 0 without a connection
            raise RetriableError(f"The MQTT broker {link.where}: {error}") from error
        if not all(info.is_published() for info in sent):
            raise RetriableError(f"The MQTT broker {link.where} has not acknowledged a batch within {_WAIT_S:g} s")

    def _topic_of(self, record: SinkRecord) -> str:
        topic = self._topic.replace("${topic}", record.topic)
        if "${key}" in topic:
            if not isinstance(record.key, str | int):
                raise DataError(
                    f"the key is a {type(record.key).__name__}: mqtt.topic has ${{key}}, which is text or a number"
                )
            topic = topic.replace("${key}", str(record.key))
        if not topic or any(sign in topic for sign in "+#\0") or len(topic.encode()) > 65535:
            raise DataError(f"{topic!r} is no name of a topic in MQTT")
        return topic


def _payload(record: SinkRecord) -> bytes:
    value = record.value
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise DataError(
        f"the value is a {type(value).__name__}: a message is bytes or text (value.converter=StringConverter or "
        "ByteArrayConverter)"
    )


def _check_qos(name: str, value: Any) -> None:
    if value not in (0, 1, 2):
        raise ConfigError.of(name, value, "0, 1 or 2 is needed")


class MqttSinkConnector(SinkConnector):
    """Records as messages."""

    CONFIG = ConfigDef(
        *KEYS,
        ConfigKey(
            name="mqtt.topic",
            default="${topic}",
            importance=Importance.HIGH,
            documentation="ottla's own key: the topic of messages; ${topic} and ${key} stand for those of the record.",
        ),
        ConfigKey(
            name="mqtt.qos",
            type=ConfigType.INT,
            default=1,
            validator=check(_check_qos, "[0, 1, 2]"),
            documentation="The quality of service: 1 or 2, at least once; 0: unknown.",
        ),
        ConfigKey(
            name="mqtt.retained.enabled",
            type=ConfigType.BOOLEAN,
            default=False,
            documentation="Whether the broker keeps the last message of each topic.",
        ),
    )
    Task = MqttSinkTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        # Clients of one id would end each other's connections.
        return super().task_configs(1 if self.values["mqtt.client.id"] else tasks_max)
