"""Keys that are in no table of Kafka 4: removed ones that old files still carry, the authorizer's own, and ottla's.

Kafka 4 ignores what it does not know. Here an unknown key is an error, so what people really have in their files has a
row.
"""

from __future__ import annotations

from collections.abc import Sequence

from ottla.config.keys import ANYTHING, ConfigKey, ConfigType, between, row

STRING = ConfigType.STRING

REMOVED = "Removed in Kafka 4."

EXTENSIONS = (
    row(
        "ottla.tree.socket",
        ConfigType.STRING,
        None,
        ANYTHING,
        "LOW",
        "The Unix socket on which a supervisor serves the coordination tree. Set by `ottla cluster up` and "
        "`ottla serve --workers` for the brokers that they start.",
    ),
    row(
        "ottla.shared.port",
        ConfigType.INT,
        "0",
        between(0, 65535),
        "LOW",
        "A further port of the first listener, on which other brokers of this machine listen, too: a new connection goes to "
        "any of them. Set by `ottla serve --workers`.",
    ),
    row(
        "ottla.foreign.confirm",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "MEDIUM",
        "A data directory written by Apache Kafka is opened without retention and cleaning, because Kafka keeps "
        "the topics' settings elsewhere and defaults could delete data. Committed offsets and transactional ids in it do "
        "not expire either. `true` says that the settings here are right.",
    ),
    row(
        "ottla.client.telemetry.enable",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "LOW",
        "Clients decide when they connect whether they will ever push metrics (KIP-714). With `false` they are told that "
        "it is possible once there is a client-metrics configuration; those that run already must be restarted then. With "
        "`true` they are always told, and ask every five minutes whether there is one.",
    ),
    row(
        "ottla.oauthbearer.unsecured",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "LOW",
        "Takes OAUTHBEARER tokens that nobody has signed, on listeners of this machine only: for trials. Apache Kafka does "
        "so wherever no callback handler is set.",
    ),
    row(
        "ottla.scram.users",
        ConfigType.PASSWORD,
        None,
        ANYTHING,
        "MEDIUM",
        "SCRAM users that the broker makes when it starts, each text once: "
        "`admin:SCRAM-SHA-512:salt=...,stored_key=...,server_key=...,iterations=8192`, separated by semicolons. "
        "`ottla security init` writes it, so that the first user can log in; other users are made by `ottla user create`.",
    ),
)

AUTHORIZER = (
    row(
        "super.users",
        STRING,
        "",
        ANYTHING,
        "LOW",
        "Principals that may do everything, separated by semicolons: `User:admin;User:CN=broker,O=x`. Read by the "
        "authorizer.",
    ),
    row(
        "allow.everyone.if.no.acl.found",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "LOW",
        "Whether a resource that no rule is about is open to all. Read by the authorizer.",
    ),
)


def _removed(names: Sequence[str], reason: str = REMOVED) -> tuple[ConfigKey, ...]:
    return tuple(row(name, STRING, None, ANYTHING, "LOW", "A key of older releases.", inert=reason) for name in names)


REMOVED_KEYS = (
    *_removed(("host.name", "port"), "Removed in Kafka 4: `listeners` says where to listen."),
    *_removed(
        ("advertised.host.name", "advertised.port"),
        "Removed in Kafka 4: `advertised.listeners` says what clients are told.",
    ),
    *_removed(
        (
            "auto.include.jmx.reporter",
            "broker.id.generation.enable",
            "control.plane.listener.name",
            "delegation.token.master.key",
            "eligible.leader.replicas.enable",
            "group.consumer.enable",
            "group.coordinator.new.enable",
            "inter.broker.protocol.version",
            "leader.imbalance.per.broker.percentage",
            "log.message.downconversion.enable",
            "log.message.format.version",
            "log.message.timestamp.difference.max.ms",
            "offsets.commit.required.acks",
            "password.encoder.cipher.algorithm",
            "password.encoder.iterations",
            "password.encoder.key.length",
            "password.encoder.keyfactory.algorithm",
            "password.encoder.old.secret",
            "password.encoder.secret",
            "reserved.broker.max.id",
        )
    ),
)
