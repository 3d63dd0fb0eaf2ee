"""MqttSourceConnector and MqttSinkConnector on a real broker, Mosquitto, without Kafka."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from tests.connect.library.conftest import record, sink_task
from tests.connect.test_standalone import until
from tests.support.mosquitto import Mosquitto, program

from ottla import TopicPartition
from ottla.connect import ConfigError, ConnectError, RetriableError, SourceContext, SourceRecord
from ottla.connect.library.mqtt import MqttSinkConnector, MqttSourceConnector

pytestmark = pytest.mark.servers
P0 = TopicPartition("orders", 0)


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    if program() is None:
        pytest.skip("Mosquitto is not installed (Debian: mosquitto)")
    with Mosquitto() as server:
        yield server


def source(broker: Mosquitto, **more: str) -> Any:
    config = {"name": "things", "mqtt.server.uri": broker.url, "mqtt.topics": "rooms/#", "kafka.topic": "rooms"}
    config |= {name.replace("_", "."): value for name, value in more.items()}
    made = MqttSourceConnector(config, MqttSourceConnector.CONFIG.parse(config))
    (own,) = made.task_configs(3)
    task = MqttSourceConnector.Task(own, MqttSourceConnector.CONFIG.parse(own))
    task.context = SourceContext(lambda partition: None, threading.Event())
    task.start()
    return task


def read(task: Any, count: int) -> list[SourceRecord]:
    found: list[SourceRecord] = []

    def more() -> bool:
        found.extend(task.poll() or ())
        return len(found) >= count

    until(more, f"{count} messages")
    return found


def known(broker: Mosquitto, task: Any) -> None:
    """Wait until the broker keeps messages for the task."""
    until(lambda: task._has_subscribed, "the subscription")


def cut(task: Any) -> None:
    """End a task as a kill does: nothing more is said to the broker."""
    task._link.client.socket().close()
    task._link.client.disconnect()
    task._link.client.loop_stop()


def test_mqtt_kill_before_kafka_ack(broker: Mosquitto) -> None:
    """1. Three messages are read, and Kafka has the first.  2. The task is killed.  3. The others come again."""
    task = source(broker)
    known(broker, task)
    broker.publish(("rooms/a", b"1"), ("rooms/b", b"2"), ("rooms/a", b"3"))
    records = read(task, 3)
    assert [(found.key, found.value) for found in records] == [("rooms/a", b"1"), ("rooms/b", b"2"), ("rooms/a", b"3")]
    task.commit_record(records[0])
    until(lambda: not task._link.client.want_write(), "the acknowledgement is sent")
    cut(task)
    again = source(broker)
    records = read(again, 2)
    assert [found.value for found in records] == [b"2", b"3"]
    assert [{header.name: header.value for header in found.headers}["mqtt.duplicate"] for found in records] == [
        True,
        True,
    ]
    for found in records:
        again.commit_record(found)
    again.stop()
    last = source(broker)
    known(broker, last)
    broker.publish(("rooms/a", b"4"))
    assert [found.value for found in read(last, 1)] == [b"4"]
    last.stop()


def test_messages_of_the_time_without_a_task_come_and_the_broker_may_start_again(broker: Mosquitto) -> None:
    first = source(broker)
    known(broker, first)
    first.stop()
    broker.publish(*(("rooms/a", str(number).encode()) for number in range(500)))
    broker.kill()
    broker.start()
    second = source(broker)
    found: list[bytes] = []

    def more() -> bool:
        for message in second.poll() or ():
            found.append(message.value)
            second.commit_record(message)
        return len(found) >= 500

    until(more, "500 messages")
    assert found == [str(number).encode() for number in range(500)]
    second.stop()


def test_a_number_of_another_connection_is_not_acknowledged(broker: Mosquitto) -> None:
    """The broker may have forgotten the session, and given the number to another message."""
    task = source(broker)
    known(broker, task)
    broker.publish(("rooms/a", b"1"))
    (found,) = read(task, 1)
    task._link.client.socket().close()
    until(lambda: task._link.connections == 2 and task._link.is_connected, "another connection")
    task.commit_record(found)
    (again,) = read(task, 1)
    assert again.value == b"1"
    task.commit_record(again)
    task.stop()


@pytest.mark.parametrize("topic", ["a/#/b", "a+/b", "#a"])
def test_a_pattern_that_is_none_is_refused(topic: str) -> None:
    config = {"name": "things", "mqtt.server.uri": "tcp://h", "mqtt.topics": topic, "kafka.topic": "rooms"}
    with pytest.raises(ConfigError, match="stand alone between slashes"):
        MqttSourceConnector(config, MqttSourceConnector.CONFIG.parse(config)).task_configs(1)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("mqtt.qos", "2", "0 or 1 is needed"),
        ("mqtt.server.uri", "localhost:1883", "tcp://host:1883 or ssl://host:8883"),
        ("mqtt.server.uri", "tcp://me:secret@h", r"Invalid value h for"),
    ],
)
def test_settings_that_cannot_work_are_refused(key: str, value: str, reason: str) -> None:
    config = {"mqtt.server.uri": "tcp://h", "mqtt.topics": "a", "kafka.topic": "b"} | {key: value}
    with pytest.raises(ConfigError, match=reason) as found:
        MqttSourceConnector.CONFIG.parse(config)
    assert "secret" not in str(found.value)


class Listener:
    """Hears all messages of a broker."""

    def __init__(self, broker: Mosquitto) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.is_ready = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._client.on_subscribe = self._ready
        self._client.connect("127.0.0.1", broker.port)
        self._client.subscribe("shop/#", 1)
        self._client.loop_start()
        until(lambda: self.is_ready, "the subscription")

    def _ready(self, *_: Any) -> None:
        self.is_ready = True

    def _hear(self, client: Client, _: Any, message: MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def sink_config(broker: Mosquitto) -> dict[str, str]:
    return {"name": "out", "mqtt.server.uri": broker.url, "mqtt.topic": "shop/${topic}/${key}"}


def test_records_become_messages_and_others_are_rejected(broker: Mosquitto) -> None:
    listener = Listener(broker)
    task, given = sink_task(MqttSinkConnector, sink_config(broker), P0)
    task.put(
        [
            record(0, "a", key="1"),
            record(1, b"\x00", key=2),
            record(2, {"no": "text"}, key="3"),
            record(3, "b", key="#"),
            record(4, "c", key=None),
            record(5, None, key="6"),
        ]
    )
    wanted = [("shop/orders/1", b"a"), ("shop/orders/2", b"\x00"), ("shop/orders/6", b"")]
    until(lambda: listener.heard == wanted, "three messages")
    assert [offset for offset, _ in given.rejected] == [2, 3, 4]
    assert "is no name of a topic" in given.rejected[1][1]
    task.stop()
    listener.close()


def test_a_batch_comes_again_while_the_broker_is_away(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ottla.connect.library.mqtt.sink._WAIT_S", 2.0)
    task, _ = sink_task(MqttSinkConnector, sink_config(broker), P0)
    task.put([record(0, "a", key="1")])
    broker.kill()
    with pytest.raises(RetriableError):
        task.put([record(1, "b", key="1")])
    broker.start()
    listener = Listener(broker)

    def works() -> bool:
        try:
            task.put([record(1, "b", key="1")])
        except RetriableError:
            return False
        return True

    until(works, "a batch that is acknowledged")
    until(lambda: ("shop/orders/1", b"b") in listener.heard, "the message")
    task.stop()
    listener.close()


def test_a_wrong_password_fails_the_task() -> None:
    if program() is None:
        pytest.skip("Mosquitto is not installed (Debian: mosquitto)")
    with Mosquitto({"me": "right"}) as server:
        task = source(server, mqtt_username="me", mqtt_password="wrong")
        with pytest.raises(ConnectError, match=r"refuses the connection: (Not authorized|Bad user name or password)$"):
            read(task, 1)
        task.stop()
