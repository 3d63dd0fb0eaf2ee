"""BrokerConfig: sources, their order, and sentences for what cannot be."""

from __future__ import annotations

import pytest

from ottla.broker.config import BrokerConfig, ConfigError, Flags, Listener
from ottla.storage.config import LogConfig

#: config/server.properties of Apache Kafka 4, comments taken out.
STOCK = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
"""


def test_without_any_source_kafkas_defaults_count() -> None:
    config = BrokerConfig.from_sources()
    assert config == BrokerConfig()
    assert config.topic_defaults == LogConfig()
    assert config.advertised_listeners is None


def test_a_stock_kafka_4_file_starts() -> None:
    config = BrokerConfig.from_sources(properties=STOCK)
    assert config.listeners == (Listener("PLAINTEXT", "", 9092),)
    assert config.advertised_listeners == (Listener("PLAINTEXT", "localhost", 9092),)
    assert config.log_dirs == ("/tmp/kraft-combined-logs",)
    assert config.offsets_topic_replication_factor == 1
    assert "controller.quorum.bootstrap.servers changes nothing: There is no KRaft quorum" in config.notes[0]


def test_later_sources_are_stronger() -> None:
    properties = "num.partitions=1\nlog.dirs=/file\nauto.create.topics.enable=false\nmin.insync.replicas=2"
    config = BrokerConfig.from_sources(
        properties=properties,
        environment={"KAFKA_NUM_PARTITIONS": "2", "KAFKA_LOG_DIRS": "/env", "OTTLA_HOST": "h"},
        overrides=["num.partitions=3"],
        flags=Flags(port=19092, data_dir="/flag"),
    )
    assert config.num_partitions == 3
    assert config.log_dirs == ("/flag",)
    assert config.auto_create_topics_enable is False
    assert config.topic_defaults.min_insync_replicas == 2
    assert config.listeners == (Listener("PLAINTEXT", "h", 19092),)
    assert config.levels.static["num.partitions"] == "3"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("num.partition=3", "Unknown setting num.partition in -X; did you mean num.partitions?"),
        ("retention.ms=3", "Unknown setting retention.ms in -X; did you mean log.retention.ms?"),
        ("qwertz=3", "Unknown setting qwertz in -X"),
        (
            "num.partitions=0",
            "Invalid value 0 for configuration num.partitions: Value must be at least 1 (set in -X; allowed: [1,...])",
        ),
        ("delete.topic.enable=ja", "Invalid value ja for configuration delete.topic.enable: Expected value"),
        ("default.replication.factor=x", "Invalid value x for configuration default.replication.factor: Not a number"),
        ("authorizer.class.name=x", "authorizer.class.name can only be org.apache.kafka.metadata.authorizer.Standard"),
        ("super.users=User:a", "super.users needs authorizer.class.name="),
        ("zookeeper.connect=h:2181", "zookeeper.connect needs broker.id (--broker-id): a number that no other broker"),
        ("zookeeper.connect=h:x", "zookeeper.connect: 'h:x' is no host:port"),
        ("zookeeper.session.timeout.ms=0", "Invalid value 0 for configuration zookeeper.session.timeout.ms"),
        ("zookeeper.metadata.migration.enable=true", "is refused: There is no KRaft quorum"),
        ("remote.log.storage.system.enable=true", "is refused: Tiered storage is not served yet."),
        ("log.roll.ms=0", "log.roll.ms must be greater than or equal to 1, but it is 0"),
        ("log.retention.ms=0", "log.retention.ms must be unlimited (-1) or at least 1 millisecond"),
        ("process.roles=controller", "process.roles must contain broker"),
        ("queued.max.request.bytes=5", "queued.max.request.bytes (5) must be -1 or at least socket.request.max.bytes"),
        ("max.connections.per.ip=0", "max.connections.per.ip can be 0 only if max.connections.per.ip.overrides"),
        ("max.connections.per.ip.overrides=zzz", "max.connections.per.ip.overrides: write zzz as host:count"),
        ("log.cleaner.dedupe.buffer.size=5", "log.cleaner.dedupe.buffer.size must be at least 1048576, but it is 5"),
        ("group.max.session.timeout.ms=5", "group.min.session.timeout.ms (6000) must not be greater than"),
        ("offsets.topic.compression.codec=7", "offsets.topic.compression.codec must be 0 to 4, but it is 7"),
        ("log.cleaner.min.compaction.lag.ms=9223372036854775807 ", ""),
        ("log.dirs=,", "log.dirs must name at least one directory"),
        ("listener.name.plaintext.max.connections.per.ip=5", "settings for one listener are not served yet"),
        (
            "leader.replication.throttled.rate=5",
            "leader.replication.throttled.rate in -X is refused: Kafka reads it only where kafka-configs --alter has set it",
        ),
        ("no equals sign", "-X no equals sign: write it as key=value"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(setting: str, sentence: str) -> None:
    if not sentence:
        BrokerConfig.from_sources(overrides=[setting])
        return
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(overrides=[setting])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_are_raised_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(
            properties="""\
num.partition=3
retention.ms=5
bad=\\u00zz
delete.topic.enable=ja
authorizer.class.name=x
node.id=1
broker.id=2
log.dirs=,
listeners=A,SSL://:9093,B://:1
advertised.listeners=
group.min.session.timeout.ms=9
group.max.session.timeout.ms=5
log.roll.ms=0
""",
            properties_name="my.properties",
            environment={"KAFKA_BACKGROUND_THREADS": "0", "OTTLA_PORT": "http"},
            overrides=["nothing", "qwertz=1", "max.connections.per.ip.overrides=a,b"],
            flags=Flags(advertise="a b"),
        )
    assert error.value.mistakes == (
        "my.properties line 3: \\u00zz is no character",
        "-X nothing: write it as key=value",
        "OTTLA_PORT must be a port number, but it is http",
        "listeners: cannot read 'A'; write it as NAME://host:port",
        "Unknown setting num.partition in my.properties; did you mean num.partitions?",
        "Unknown setting retention.ms in my.properties; did you mean log.retention.ms?",
        "Invalid value ja for configuration delete.topic.enable: Expected value to be either true or false "
        "(set in my.properties)",
        "Invalid value 0 for configuration background.threads: Value must be at least 1 (set in the environment; "
        "allowed: [1,...])",
        "Unknown setting qwertz in -X",
        "authorizer.class.name can only be org.apache.kafka.metadata.authorizer.StandardAuthorizer, but it is x",
        "node.id (1) and broker.id (2) contradict each other: set one of them",
        "log.dirs must name at least one directory",
        "max.connections.per.ip.overrides: write a as host:count",
        "max.connections.per.ip.overrides: write b as host:count",
        "log.roll.ms must be greater than or equal to 1, but it is 0",
        "group.min.session.timeout.ms (9) must not be greater than group.max.session.timeout.ms (5)",
    )


def test_a_setting_that_is_wrong_by_itself_contradicts_no_other() -> None:
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(overrides=["group.min.session.timeout.ms=x", "group.max.session.timeout.ms=5"])
    assert len(error.value.mistakes) == 1


@pytest.mark.parametrize(
    ("overrides", "sentences"),
    [
        (
            ["listeners=A://:1,B://:2,PLAINTEXT://:3"],
            [
                "listeners: no security protocol is defined for listener A; add it to listener.security.protocol.map",
                "listeners: no security protocol is defined for listener B; add it to listener.security.protocol.map",
            ],
        ),
        (
            ["advertised.listeners=A://h:1,PLAINTEXT://0.0.0.0:1", "inter.broker.listener.name=X"],
            [
                "advertised.listeners: A is not one of the listeners PLAINTEXT",
                "advertised.listeners: clients cannot connect to PLAINTEXT://0.0.0.0:1; name a host, or use auto",
                "inter.broker.listener.name must be one of the listeners PLAINTEXT, not X",
            ],
        ),
        (
            ["listener.security.protocol.map=A:B,C:D"],
            [
                f"listener.security.protocol.map: cannot read '{item}'; allowed are PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
                for item in ("A:B", "C:D")
            ],
        ),
    ],
)
def test_all_mistakes_of_one_list_are_raised_at_once(overrides: list[str], sentences: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(overrides=overrides)
    assert list(error.value.mistakes) == sentences


def test_settings_removed_with_listeners_are_noted_and_change_nothing() -> None:
    config = BrokerConfig.from_sources(overrides=["port=9093", "host.name=h", "advertised.port=1"])
    assert config.listeners == BrokerConfig().listeners
    assert config.notes == (
        "port changes nothing: Removed in Kafka 4: `listeners` says where to listen.",
        "host.name changes nothing: Removed in Kafka 4: `listeners` says where to listen.",
        "advertised.port changes nothing: Removed in Kafka 4: `advertised.listeners` says what clients are told.",
    )


@pytest.mark.parametrize(
    ("key", "end"),
    [
        (
            "max.partition.fetch.bytes",
            "it is a setting of consumers, not of brokers (related settings of the broker: fetch.max.bytes)",
        ),
        (
            "max.request.size",
            "it is a setting of producers, not of brokers (related settings of the broker: message.max.bytes, "
            "socket.request.max.bytes)",
        ),
        ("bootstrap.servers", "it is a setting of clients, not of brokers"),
        ("application.id", "it is a setting of Kafka Streams applications, not of brokers"),
    ],
)
def test_settings_of_clients_are_named_as_such(key: str, end: str) -> None:
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(properties=f"{key}=1")
    assert str(error.value) == f"Unknown setting {key} in server.properties; {end}"
    variable = "KAFKA_" + key.upper().replace(".", "_")
    if key != "bootstrap.servers":  # the images know that variable
        notes = BrokerConfig.from_sources(environment={variable: "1"}).notes
        assert notes == (f"The environment variable {variable} names no setting; {end}",)


def test_mistakes_name_the_place_they_are_in() -> None:
    with pytest.raises(ConfigError, match=r"in /etc/my\.properties"):
        BrokerConfig.from_sources(properties="num.partition=3", properties_name="/etc/my.properties")
    with pytest.raises(ConfigError, match="set in the environment"):
        BrokerConfig.from_sources(environment={"KAFKA_NUM_PARTITIONS": "x"})


def test_a_refused_key_may_have_its_default() -> None:
    BrokerConfig.from_sources(overrides=["authorizer.class.name=", "zookeeper.connect="])
    BrokerConfig.from_sources(overrides=["remote.log.storage.system.enable=false"])


def test_zookeeper_is_read_as_kafka_3_does() -> None:
    settings = ["zookeeper.connect=a:1,b/c", "zookeeper.session.timeout.ms=7000", "broker.id=0"]
    config = BrokerConfig.from_sources(overrides=settings)
    assert config.node_id == 0
    assert str(config.zookeeper) == "a:1,b:2181/c"
    assert config.zookeeper is not None
    assert config.zookeeper.session_timeout_ms == config.zookeeper.connection_timeout_ms == 7_000
    assert config.with_dynamic({}, {}).zookeeper == config.zookeeper
    assert BrokerConfig.from_sources(overrides=["zookeeper.session.timeout.ms=7000"]).zookeeper is None


def test_users_and_rules_in_a_zookeeper_open_to_all_are_warned_of() -> None:
    settings = ["zookeeper.connect=a:1", "broker.id=0"]
    rules = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    assert BrokerConfig.from_sources(overrides=settings).notes == ()
    assert "zookeeper.set.acl" in " ".join(BrokerConfig.from_sources(overrides=[*settings, rules]).notes)
    closed = (
        "zookeeper.set.acl=true\nottla.zookeeper.sasl.jaas.config="
        'org.apache.zookeeper.server.auth.DigestLoginModule required username="o" password="s";'
    )
    assert BrokerConfig.from_sources(properties=closed, overrides=[*settings, rules]).notes == ()
    assert BrokerConfig.from_sources(overrides=[rules]).notes == ()


def test_the_stock_server_properties_of_kafka_3_9_starts() -> None:
    """Every setting that config/server.properties of Apache Kafka 3.9 has."""
    config = BrokerConfig.from_sources(
        properties="""
broker.id=0
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kafka-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.retention.check.interval.ms=300000
zookeeper.connect=localhost:2181
zookeeper.connection.timeout.ms=18000
group.initial.rebalance.delay.ms=0
"""
    )
    assert (config.node_id, str(config.zookeeper)) == (0, "localhost:2181")


def test_options_name_the_ensemble_and_the_broker() -> None:
    flags = Flags(zookeeper="zk/x", broker_id=2)
    config = BrokerConfig.from_sources(properties="node.id=1\nzookeeper.connect=other:1", flags=flags)
    assert (config.node_id, str(config.zookeeper)) == (2, "zk:2181/x")


def test_settings_of_other_products_in_the_file_are_left_alone() -> None:
    BrokerConfig.from_sources(properties="confluent.support.metrics.enable=false")


def test_node_id_and_broker_id_are_one() -> None:
    assert BrokerConfig.from_sources(overrides=["broker.id=3"]).node_id == 3
    assert BrokerConfig.from_sources(overrides=["node.id=4", "broker.id=4"]).node_id == 4
    assert BrokerConfig.from_sources(overrides=["broker.id=-1"]).node_id == 1
    with pytest.raises(ConfigError, match="contradict each other"):
        BrokerConfig.from_sources(overrides=["node.id=4", "broker.id=3"])


def test_data_directories() -> None:
    assert BrokerConfig.from_sources(overrides=["log.dir=/a, /b"]).log_dirs == ("/a", "/b")
    assert BrokerConfig.from_sources(overrides=["log.dir=/a", "log.dirs=/c,/d"]).log_dirs == ("/c", "/d")
    assert BrokerConfig.from_sources(overrides=["log.dir=/a"], flags=Flags(data_dir="/f")).log_dirs == ("/f",)


def test_a_topics_configuration_is_typed() -> None:
    config = BrokerConfig.from_sources(overrides=["log.retention.hours=1", "compression.type=zstd"])
    assert config.log_config({}) is config.topic_defaults
    log = config.log_config({"cleanup.policy": "compact", "flush.messages": "1", "min.cleanable.dirty.ratio": "0.1"})
    assert (log.cleanup_compact, log.cleanup_delete) == (True, False)
    assert (log.flush_messages, log.min_cleanable_dirty_ratio, log.retention_ms) == (1, 0.1, 3_600_000)
    assert log.compression_type == "zstd"
    neither = config.log_config({"cleanup.policy": ""})
    assert (neither.cleanup_compact, neither.cleanup_delete) == (False, False)


def test_internal_segment_bytes_makes_segments_smaller_than_the_minimum() -> None:
    config = BrokerConfig.from_sources()
    assert config.log_config({"internal.segment.bytes": "1000"}).segment_bytes == 1000


def test_overrides_that_another_release_wrote_do_not_stop_a_topic() -> None:
    config = BrokerConfig.from_sources()
    assert config.log_config({"from.the.future": "1", "retention.ms": "soon", "flush.ms": "5"}).flush_ms == 5


def test_dynamic_settings_count_but_move_nothing() -> None:
    static = BrokerConfig.from_sources(overrides=["max.connections=5", "log.retention.ms=7", "node.id=9"])
    config = static.with_dynamic(
        {"log.retention.ms": "1000", "nokey": "1"}, {"max.connections": "100", "log.retention.ms": "2000"}
    )
    assert (config.max_connections, config.topic_defaults.retention_ms) == (100, 1000)
    assert (config.node_id, config.listeners, config.log_dirs) == (9, static.listeners, static.log_dirs)
    assert config.levels.broker["nokey"] == "1"
    assert config.with_dynamic({}, {}) == static
    with pytest.raises(ConfigError, match=r"log\.roll\.ms must be"):
        static.with_dynamic({"log.roll.ms": "0"}, {})
