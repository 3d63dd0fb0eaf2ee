"""Keys that say where ZooKeeper is and how it is reached: those of Kafka 3.9, which Kafka 4 has no more.

What they mean is in `ottla.cluster.trees.zookeeper_options`.
"""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigType, at_least, row

_NOT_LIMITED = "Requests to ZooKeeper are pipelined; how many wait at once is not limited by a setting."
_PEM = "A PEM file"

ROWS = (
    row(
        "zookeeper.connect",
        ConfigType.STRING,
        None,
        ANYTHING,
        "HIGH",
        "Servers of a ZooKeeper ensemble and the node below which the cluster keeps its state: "
        "`zk1:2181,zk2:2181,zk3:2181/ottla`. The node is made if it is missing. Without it the broker is a cluster of its "
        "own and keeps that state in a file of its first data directory. "
        "Needs `broker.id` and `pip install 'ottla[zookeeper]'`.",
    ),
    row(
        "zookeeper.session.timeout.ms",
        ConfigType.INT,
        "18000",
        at_least(1),
        "HIGH",
        "After so much silence the other brokers take this one for dead, and others lead its partitions.",
    ),
    row(
        "zookeeper.connection.timeout.ms",
        ConfigType.INT,
        None,
        at_least(1),
        "HIGH",
        "How long a start waits for a ZooKeeper server; as long as a session timeout unless it is set.",
    ),
    row(
        "zookeeper.set.acl",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "HIGH",
        "Whether only the identity of the brokers may change the nodes in ZooKeeper. Needs an identity: SASL, or TLS with a "
        "certificate.",
    ),
    row(
        "zookeeper.max.in.flight.requests",
        ConfigType.INT,
        "10",
        at_least(1),
        "HIGH",
        "How many requests may wait.",
        inert=_NOT_LIMITED,
    ),
    row(
        "zookeeper.metadata.migration.enable",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "HIGH",
        "Whether the state moves to KRaft.",
        refused="There is no KRaft quorum to which the state in ZooKeeper could be moved.",
    ),
    row(
        "zookeeper.ssl.client.enable",
        ConfigType.BOOLEAN,
        "false",
        ANYTHING,
        "MEDIUM",
        "Whether ZooKeeper is spoken to by TLS; `zookeeper.clientCnxnSocket` must name Netty then, as in Kafka.",
    ),
    row(
        "zookeeper.clientCnxnSocket", ConfigType.STRING, None, ANYTHING, "MEDIUM", "See `zookeeper.ssl.client.enable`."
    ),
    row(
        "zookeeper.ssl.keystore.location",
        ConfigType.STRING,
        None,
        ANYTHING,
        "MEDIUM",
        f"{_PEM} with the private key and the certificates of this broker.",
    ),
    row("zookeeper.ssl.keystore.password", ConfigType.PASSWORD, None, ANYTHING, "MEDIUM", "Of the private key."),
    row("zookeeper.ssl.keystore.type", ConfigType.STRING, None, ANYTHING, "MEDIUM", "PEM; nothing else can be read."),
    row(
        "zookeeper.ssl.truststore.location",
        ConfigType.STRING,
        None,
        ANYTHING,
        "MEDIUM",
        f"{_PEM} with the certificates that are trusted; without it those that this machine trusts.",
    ),
    row(
        "zookeeper.ssl.truststore.password",
        ConfigType.PASSWORD,
        None,
        ANYTHING,
        "MEDIUM",
        "Of the trusted certificates.",
        inert="A PEM file with certificates has no password.",
    ),
    row("zookeeper.ssl.truststore.type", ConfigType.STRING, None, ANYTHING, "MEDIUM", "PEM; nothing else can be read."),
    row("zookeeper.ssl.protocol", ConfigType.STRING, "TLSv1.2", ANYTHING, "LOW", "Used if no protocols are enabled."),
    row("zookeeper.ssl.enabled.protocols", ConfigType.LIST, None, ANYTHING, "LOW", "TLSv1.2, TLSv1.3 or both."),
    row(
        "zookeeper.ssl.cipher.suites",
        ConfigType.LIST,
        None,
        ANYTHING,
        "LOW",
        "Names of TLS 1.2, as OpenSSL takes them.",
    ),
    row(
        "zookeeper.ssl.endpoint.identification.algorithm",
        ConfigType.STRING,
        "HTTPS",
        ANYTHING,
        "LOW",
        "HTTPS: the server's name must stand in its certificate. Anything else turns that off.",
    ),
    row("zookeeper.ssl.crl.enable", ConfigType.BOOLEAN, "false", ANYTHING, "LOW", "`true` is not possible here."),
    row("zookeeper.ssl.ocsp.enable", ConfigType.BOOLEAN, "false", ANYTHING, "LOW", "`true` is not possible here."),
    row(
        "ottla.zookeeper.sasl.jaas.config",
        ConfigType.PASSWORD,
        None,
        ANYTHING,
        "MEDIUM",
        "Who this broker is to ZooKeeper (SASL), in the words that Kafka has in a JAAS file: "
        '`org.apache.zookeeper.server.auth.DigestLoginModule required username="..." password="...";`, or Krb5LoginModule '
        "with useTicketCache=true.",
    ),
)
