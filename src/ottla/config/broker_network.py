"""Broker keys: listeners, connections and requests."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, INT_MAX, LONG_MAX, ConfigType, Update, at_least, one_of, row
from ottla.config.reasons import EVENT_LOOP, NO_PURGATORY, ONE_BROKER, SOCKET_BUFFERS

BOOLEAN = ConfigType.BOOLEAN
INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
STRING = ConfigType.STRING
PER_BROKER = Update.PER_BROKER
CLUSTER_WIDE = Update.CLUSTER_WIDE
HIGH = "HIGH"
MEDIUM = "MEDIUM"
LOW = "LOW"

# fmt: off
ROWS = (
    row("advertised.listeners", LIST, None, ANYTHING, HIGH,
        "The addresses clients are told. Not set (or `auto`): every connection is answered with the address "
        "it used itself (over loopback: `localhost`, if both 127.0.0.1 and ::1 are listened on), which "
        "is right for a single node behind any name; published container ports and NAT "
        "need explicit ones (`--advertise`)."),
    row("connection.failed.authentication.delay.ms", INT, "100", at_least(0), LOW,
        "How long the answer to a failed login is held back."),
    row("connections.max.idle.ms", LONG, "600000", ANYTHING, MEDIUM,
        "A connection without requests for this long is closed."),
    row("connections.max.reauth.ms", LONG, "0", ANYTHING, MEDIUM,
        "After this time a client of a SASL listener must log in again, 0 is never; also for one listener and mechanism. A "
        "change needs a restart."),
    row("early.start.listeners", LIST, None, ANYTHING, HIGH,
        "Listeners that open before the broker is ready.",
        inert="There is no authorizer to wait for: all listeners open together, when the broker is ready."),
    row("inter.broker.listener.name", STRING, None, ANYTHING, MEDIUM,
        "The listener brokers use among themselves. It must be one of `listeners`."),
    row("listener.security.protocol.map", STRING,
        "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT", ANYTHING, LOW,
        "Which security protocol each listener name stands for.", update=PER_BROKER),
    row("listeners", LIST, "PLAINTEXT://localhost:9092", ANYTHING, HIGH,
        "Where to listen: `NAME://host:port`, comma-separated; an empty host is every interface, `localhost` is 127.0.0.1 "
        "and ::1. Unlike Kafka's, the default lets only this machine in (`--host` changes that). Entries "
        "named in `controller.listener.names` are not opened, there is no KRaft controller. A change needs a "
        "restart, unlike in Kafka.", update=PER_BROKER),
    row("max.connection.creation.rate", INT, str(INT_MAX), at_least(0), MEDIUM,
        "Connections accepted per second; more wait in the backlog.", update=CLUSTER_WIDE),
    row("max.connections", INT, str(INT_MAX), at_least(0), MEDIUM,
        "Connections open at once on the broker; more wait in the backlog until one ends. A listener may have a limit of its "
        "own (`listener.name.<name>.max.connections`).", update=CLUSTER_WIDE),
    row("max.connections.per.ip", INT, str(INT_MAX), at_least(0), MEDIUM,
        "Connections open at once from one address.", update=CLUSTER_WIDE),
    row("max.connections.per.ip.overrides", STRING, "", ANYTHING, MEDIUM,
        "Other limits for single addresses: `host:count`, comma-separated.", update=CLUSTER_WIDE),
    row("num.io.threads", INT, "8", at_least(1), HIGH,
        "Threads that work on requests.", update=CLUSTER_WIDE, inert=EVENT_LOOP),
    row("num.network.threads", INT, "3", at_least(1), HIGH,
        "Threads that read and write sockets.", update=CLUSTER_WIDE, inert=EVENT_LOOP),
    row("background.threads", INT, "10", at_least(1), HIGH,
        "Threads for background work.", update=CLUSTER_WIDE, inert=EVENT_LOOP),
    row("queued.max.request.bytes", LONG, "-1", ANYTHING, MEDIUM,
        "Bytes of requests being worked on; when exceeded, connections are not read until answers have gone "
        "out. -1 is no limit."),
    row("queued.max.requests", INT, "500", at_least(1), HIGH,
        "Requests waiting for a thread.",
        inert="There is no queue between sockets and threads to fill up: a connection is not read while it is owed answers, "
        "and `queued.max.request.bytes` bounds all of them together."),
    row("request.timeout.ms", INT, "30000", ANYTHING, HIGH,
        "How long a broker waits for another one's answer.", inert=ONE_BROKER),
    row("security.inter.broker.protocol", STRING,
        "PLAINTEXT", one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"), MEDIUM,
        "The protocol brokers use among themselves if no listener is named: the listener of that name."),
    row("socket.connection.setup.timeout.max.ms", LONG, "30000", ANYTHING, MEDIUM,
        "Longest wait for a connection to another broker.", inert=ONE_BROKER),
    row("socket.connection.setup.timeout.ms", LONG, "10000", ANYTHING, MEDIUM,
        "First wait for a connection to another broker.", inert=ONE_BROKER),
    row("socket.listen.backlog.size", INT, "50", at_least(1), MEDIUM,
        "Connections the operating system keeps waiting."),
    row("socket.receive.buffer.bytes", INT, "102400", ANYTHING, HIGH,
        "SO_RCVBUF of client connections.", inert=SOCKET_BUFFERS),
    row("socket.request.max.bytes", INT, "104857600", at_least(1), HIGH,
        "Largest request; a larger one closes the connection."),
    row("socket.send.buffer.bytes", INT, "102400", ANYTHING, HIGH,
        "SO_SNDBUF of client connections.", inert=SOCKET_BUFFERS),
    row("telemetry.max.bytes", INT, "1048576", at_least(1), LOW,
        "Largest metrics push of a client (KIP-714), compressed and unpacked."),
    row("unstable.api.versions.enable", BOOLEAN, "false", ANYTHING, HIGH,
        "Offers API versions that are still under development.", inert="Only finished versions are offered.",
        internal=True),
    row("fetch.max.bytes", INT, "57671680", at_least(1024), MEDIUM,
        "Most bytes one fetch answer carries, whatever the client asks for."),
    row("fetch.purgatory.purge.interval.requests", INT, "1000", ANYTHING, MEDIUM,
        "How often finished waiting fetches are thrown out of Kafka's purgatory.", inert=NO_PURGATORY),
    row("producer.purgatory.purge.interval.requests", INT, "1000", ANYTHING, MEDIUM,
        "How often finished waiting produce requests are thrown out of Kafka's purgatory.", inert=NO_PURGATORY),
    row("delete.records.purgatory.purge.interval.requests", INT, "1", ANYTHING, MEDIUM,
        "How often finished waiting DeleteRecords requests are thrown out of Kafka's purgatory.", inert=NO_PURGATORY),
    row("share.fetch.purgatory.purge.interval.requests", INT, "1000", ANYTHING, MEDIUM,
        "How often finished waiting share fetches are thrown out of Kafka's purgatory.", inert=NO_PURGATORY),
    row("max.incremental.fetch.session.cache.slots", INT, "1000", at_least(0), MEDIUM,
        "Incremental fetch sessions kept (KIP-227). Clients without one send full requests."),
    row("max.request.partition.size.limit", INT, "2000", at_least(1), MEDIUM,
        "Most partitions one DescribeTopicPartitions answer carries."),
    row("server.max.startup.time.ms", LONG, str(LONG_MAX), at_least(0), MEDIUM,
        "A broker not ready after this time stops.",
        inert="The broker is ready in well under a second or fails with an error; there is nothing to give up on.",
        internal=True),
)
