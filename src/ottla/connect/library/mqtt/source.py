"""MqttSourceConnector: messages of an MQTT broker as records.

The broker keeps a message until it is acknowledged, and it is acknowledged when Kafka has its record: the client has a fixed
id and a session that outlives it, so that a message that was not acknowledged comes again, to whichever process has the task
then. QoS 2 would not do: there the broker lets go of a message before it may be given to anyone (MQTT 3.1.1, 4.3.3).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, topic_matches_sub
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from ottla.connect.config_def import NOT_EMPTY, ConfigDef, ConfigError, ConfigKey, ConfigType, Importance, check
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.library.mqtt.link import KEYS, TOPICS, Link
from ottla.connect.records import Header, SourceRecord
from ottla.connect.schema import BOOLEAN, BYTES, INT32, STRING

log = logging.getLogger(__name__)
_WAIT_S = 0.5
#: Messages that wait for `poll`. Those with QoS 1 are bounded by the broker, which sends so many without an acknowledgement.
_HELD = 10_000
_BATCH = 1000


class MqttSourceTask(SourceTask):
    """Reads the topics. One task: a client's id is there once."""

    def start(self) -> None:
        self._topics: list[str] = self.values["mqtt.topics"]
        self._topic: str = self.values["kafka.topic"]
        self._messages: deque[tuple[int, MQTTMessage]] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        #: Messages whose records are on their way, with the number of the connection that they came by.
        self._unacknowledged: dict[int, tuple[int, int]] = {}
        self._link = Link(
            self.values,
            self.values["mqtt.client.id"] or f"ottla-{self.config.get('name', '')}",
            is_clean=False,
            on_connected=self._subscribe,
            manual_ack=True,
        )
        self._link.client.on_message = self._take
        self._link.client.on_subscribe = self._subscribed
        self._has_subscribed = False
        self._link.start()

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._link.close()

    def poll(self) -> Sequence[SourceRecord] | None:
        with self._changed:
            if not self._messages:
                self._changed.wait(_WAIT_S)
            taken = [self._messages.popleft() for _ in range(min(_BATCH, len(self._messages)))]
            self._changed.notify_all()
        if not taken and self._link.error is not None:
            raise self._link.error
        return [self._record(connection, message) for connection, message in taken] or None

    def commit_record(self, record: SourceRecord) -> None:
        """Kafka has it: so may the broker forget it, if it is the broker's still.

        On another connection the number may be another message's, if the broker has lost the session; where it has not, the
        message comes again.
        """
        connection, mid = self._unacknowledged.pop(id(record), (0, 0))
        if mid and connection == self._link.connections:
            self._link.client.ack(mid, 1)

    def _record(self, connection: int, message: MQTTMessage) -> SourceRecord:
        record = SourceRecord(
            topic=self._topic,
            key_schema=STRING,
            key=message.topic,
            value_schema=BYTES,
            value=bytes(message.payload),
            headers=(
                Header("mqtt.message.id", INT32, message.mid),
                Header("mqtt.qos", INT32, message.qos),
                Header("mqtt.retained", BOOLEAN, message.retain),
                Header("mqtt.duplicate", BOOLEAN, message.dup),
            ),
        )
        self._unacknowledged[id(record)] = (connection, message.mid if message.qos else 0)
        return record

    # In the network's thread

    def _subscribe(self, is_known: bool) -> None:
        if is_known and self._has_subscribed:  # to subscribe again would bring retained messages again
            return
        self._link.client.subscribe([(topic, self.values["mqtt.qos"]) for topic in self._topics])

    def _subscribed(
        self, client: Client, _: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        self._has_subscribed = True
        refused = [topic for topic, reason in zip(self._topics, reasons, strict=False) if reason.is_failure]
        if refused:
            self._link.fail(f"The MQTT broker {self._link.where} refuses the subscription to {', '.join(refused)}")

    def _take(self, client: Client, _: Any, message: MQTTMessage) -> None:
        if not any(topic_matches_sub(topic, message.topic) for topic in self._topics):
            log.warning("a message of %s, from an earlier subscription of this client, is left out", message.topic)
            client.ack(message.mid, message.qos)
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages) < _HELD or self._is_stopping)
            self._messages.append((self._link.connections, message))
            self._changed.notify_all()


def _check_qos(name: str, value: Any) -> None:
    if value not in (0, 1):
        raise ConfigError.of(name, value, "0 or 1 is needed")


class MqttSourceConnector(SourceConnector):
    """Messages as records, at least once."""

    CONFIG = ConfigDef(
        *KEYS,
        TOPICS,
        ConfigKey(
            name="kafka.topic", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="Where the records go."
        ),
        ConfigKey(
            name="mqtt.qos",
            type=ConfigType.INT,
            default=1,
            validator=check(_check_qos, "[0, 1]"),
            documentation="The quality of service: 1, at least once; 0: what is on its way is lost when anything ends. 2 is "
            "not offered: there a message is lost when the task is killed.",
        ),
    )
    Task = MqttSourceTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        for topic in self.values["mqtt.topics"]:
            parts = topic.split("/")
            if "#" in "".join(parts[:-1]) or any(len(part) > 1 and ("+" in part or "#" in part) for part in parts):
                raise ConfigError.of(
                    "mqtt.topics", topic, "+ and # each stand alone between slashes, and # is the last"
                )
        return [self.config]
