"""MqttSourceConnector and MqttSinkConnector: messages of an MQTT broker as records, and records as messages, by paho-mqtt."""

from ottla.connect.library.mqtt.sink import MqttSinkConnector
from ottla.connect.library.mqtt.source import MqttSourceConnector

__all__ = ["MqttSinkConnector", "MqttSourceConnector"]
