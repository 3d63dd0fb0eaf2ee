"""The connection to an MQTT broker: settings, a client of paho's, and what its broker says.

paho runs the network in a thread of its own, and connects again by itself. What it is told there is kept here under a lock,
for the task's thread to look at.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from ottla.connect.config_def import (
    NOT_EMPTY_LIST,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    Password,
    at_least,
    check,
)
from ottla.connect.errors import ConnectError

log = logging.getLogger(__name__)
_PORTS = {"tcp": 1883, "mqtt": 1883, "ssl": 8883, "tls": 8883, "mqtts": 8883}
_TLS = ("ssl", "tls", "mqtts")
#: Seconds between tries to connect: the first, and the longest.
_RETRY_S = (1, 30)
#: Messages that may be sent and not acknowledged.
_IN_FLIGHT = 200
#: What a broker says that will not be otherwise next time, in MQTT 3.1.1's answers to CONNECT.
_FINAL = ("Unsupported protocol version", "Client identifier not valid", "Bad user name or password", "Not authorized")


def address_of(text: str) -> tuple[str, int, bool]:
    """Return host, port and whether TLS is spoken, of tcp://host:1883 or ssl://host:8883.

    Raises:
        ConfigError: it is no such address.
    """
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or "@" in parts.netloc:
        raise ConfigError.of("mqtt.server.uri", text.rpartition("@")[2], "tcp://host:1883 or ssl://host:8883 is needed")
    return parts.hostname, port or _PORTS[parts.scheme], parts.scheme in _TLS


def _check_address(name: str, value: Any) -> None:
    if value is not None:
        address_of(value)


KEYS = (
    ConfigKey(
        name="mqtt.server.uri",
        validator=check(_check_address, "tcp://host:port or ssl://host:port"),
        importance=Importance.HIGH,
        documentation="The MQTT broker: tcp://host:1883, or ssl://host:8883.",
    ),
    ConfigKey(
        name="mqtt.client.id",
        default="",
        documentation="ottla's own key: the client's id, which no other client has; ottla- and the connector's name if it "
        "is empty.",
    ),
    ConfigKey(name="mqtt.username", default=None, documentation="The user."),
    ConfigKey(name="mqtt.password", type=ConfigType.PASSWORD, default=None, documentation="The user's password."),
    ConfigKey(
        name="mqtt.keepalive.interval.seconds",
        type=ConfigType.INT,
        default=60,
        validator=at_least(1),
        documentation="How often the broker hears of a client that has nothing to say.",
    ),
    ConfigKey(name="mqtt.ssl.ca.location", default=None, documentation="A file of authorities' certificates, in PEM."),
    ConfigKey(
        name="mqtt.ssl.certificate.location", default=None, documentation="A file with the client's certificate."
    ),
    ConfigKey(name="mqtt.ssl.key.location", default=None, documentation="A file with its key."),
)
TOPICS = ConfigKey(
    name="mqtt.topics",
    type=ConfigType.LIST,
    validator=NOT_EMPTY_LIST,
    importance=Importance.HIGH,
    documentation="Topics, with + for one level and # for all below.",
)


class Link:
    """A client that connects, and goes on connecting, until `close`.

    Args:
        is_clean: the broker forgets the client when it goes.
        on_connected: called in the network's thread, with whether the broker knew the client.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        client_id: str,
        *,
        is_clean: bool,
        on_connected: Callable[[bool], None] = lambda is_known: None,
        manual_ack: bool = False,
    ) -> None:
        self.changed = threading.Condition()
        self.error: ConnectError | None = None
        #: How often it was connected.
        self.connections = 0
        self._is_connected = False
        self._on_connected = on_connected
        self.where: str = values["mqtt.server.uri"]
        host, port, is_tls = address_of(self.where)
        self.client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=is_clean,
            protocol=MQTTProtocolVersion.MQTTv311,
            manual_ack=manual_ack,
        )
        password: Password | None = values["mqtt.password"]
        if values["mqtt.username"] is not None:
            client.username_pw_set(values["mqtt.username"], None if password is None else password.value)
        if is_tls:
            client.tls_set_context(_tls(values))
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.reconnect_delay_set(*_RETRY_S)
        client.on_connect = self._connected
        client.on_connect_fail = self._failed
        client.on_disconnect = self._disconnected
        client.connect_async(host, port, keepalive=values["mqtt.keepalive.interval.seconds"])

    def start(self) -> None:
        """Begin to connect."""
        self.client.loop_start()

    @property
    def is_connected(self) -> bool:
        with self.changed:
            return self._is_connected

    def until_connected(self, wait_s: float) -> bool:
        """Wait until it is connected; return whether it is.

        Raises:
            ConnectError: the broker refuses this client.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._is_connected or self.error is not None, wait_s)
            if self.error is not None:
                raise self.error
            return self._is_connected

    def fail(self, message: str) -> None:
        """Keep why it cannot go on: whoever waits is told so."""
        with self.changed:
            self.error = ConnectError(message)
            self.changed.notify_all()

    def close(self) -> None:
        """Say good-bye after what was said so far, and end the thread."""
        self.client.disconnect()
        self.client.loop_stop()

    def _connected(
        self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            text = str(reason)
            log.warning("MQTT broker %s: %s", self.where, text)
            if text in _FINAL:
                self.fail(f"The MQTT broker {self.where} refuses the connection: {text}")
            return
        with self.changed:
            self.connections += 1
            self._is_connected = True
        self._on_connected(flags.session_present)
        with self.changed:
            self.changed.notify_all()

    def _failed(self, client: Client, _: Any) -> None:
        log.warning("MQTT broker %s: it cannot be reached; it is tried again", self.where)

    def _disconnected(
        self, client: Client, _: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self.changed:
            self._is_connected = False
            self.changed.notify_all()
        if reason.is_failure:
            log.warning("MQTT broker %s: the connection was lost (%s); it is made again", self.where, reason)


def _tls(values: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=values["mqtt.ssl.ca.location"])
        if values["mqtt.ssl.certificate.location"] is not None:
            context.load_cert_chain(values["mqtt.ssl.certificate.location"], values["mqtt.ssl.key.location"])
    except OSError as error:
        raise ConnectError(f"A file of mqtt.ssl.* cannot be used: {error}") from error
    return context
