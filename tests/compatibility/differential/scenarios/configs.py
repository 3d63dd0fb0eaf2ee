"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources."""

from __future__ import annotations

from tests.compatibility.differential.script import create_topic, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_configs, incremental_alter_configs
from ottla.protocol.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from ottla.protocol.messages.list_config_resources import ListConfigResourcesRequest

TOPIC, BROKER, LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)
NODE = "1"


def describe(
    wire: Wire, label: str | None, version: int, kind: int, name: str, keys: list[str] | None = None,
    *, synonyms: bool = False, documentation: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Ask for one resource's configs; name -> value of the answer."""
    resource = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
    message = DescribeConfigsRequest(
        resources=[resource], include_synonyms=synonyms, include_documentation=documentation and version >= 3
    )
    answer = wire.ask(label, message, version, on="aside" if label is None else "main")
    return {row.name: row.value for result in answer.get("results", []) for row in result.configs}


def await_value(wire: Wire, kind: int, name: str, key: str, value: str) -> None:
    wire.settle(f"{key}={value}", lambda: describe(wire, None, 4, kind, name, [key]).get(key) == value)


def describing(wire: Wire) -> None:
    create_topic(wire, "configs-described", retention_ms="777000", cleanup_policy="compact,delete")
    for version in versions(ApiKey.DESCRIBE_CONFIGS):

        def ask(
            label: str,
            kind: int,
            name: str,
            keys: list[str] | None = None,
            *,
            version: int = version,
            synonyms: bool = False,
        ) -> None:
            describe(wire, label, version, kind, name, keys, synonyms=synonyms)

        ask("a topic", TOPIC, "configs-described")
        ask("a topic with synonyms", TOPIC, "configs-described", synonyms=True)
        describe(wire, "a topic with documentation", version, TOPIC, "configs-described", documentation=True)
        ask("two keys", TOPIC, "configs-described", ["retention.ms", "segment.bytes"], synonyms=True)
        ask("an unknown key", TOPIC, "configs-described", ["no.such.key"])
        ask("no keys", TOPIC, "configs-described", [])
        ask("unknown topic", TOPIC, "nowhere")
        ask("invalid topic", TOPIC, "no/where")
        ask("empty topic", TOPIC, "")
        ask("the broker", BROKER, NODE)
        ask("the broker with synonyms", BROKER, NODE, synonyms=True)
        ask("a broker's key", BROKER, NODE, ["log.retention.ms", "num.partitions"], synonyms=True)
        ask("all brokers", BROKER, "")
        ask("another broker", BROKER, "7")
        ask("a broker that is no number", BROKER, "one")
        ask("unknown type", 77, "x")
        ask("type 0", 0, "x")
        ask("an unborn group", GROUP, "configs-group")
        ask("a group without a name", GROUP, "")
        ask("client metrics", CLIENT_METRICS, "configs-metrics")
        wire.ask("nothing", DescribeConfigsRequest(), version)
        twice = [
            DescribeConfigsResource(
                resource_type=TOPIC, resource_name="configs-described", configuration_keys=["retention.ms"]
            )
        ] * 2
        wire.ask("the same twice", DescribeConfigsRequest(resources=twice), version)


def altering(wire: Wire) -> None:
    for version in versions(ApiKey.ALTER_CONFIGS):
        topic = f"configs-altered-{version}"
        create_topic(wire, topic, retention_ms="777000")

        def ask(
            label: str,
            kind: int,
            name: str,
            configs: dict[str, str | None],
            *,
            only: bool = False,
            version: int = version,
        ) -> None:
            rows = [alter_configs.AlterableConfig(name=key, value=value) for key, value in configs.items()]
            resource = alter_configs.AlterConfigsResource(resource_type=kind, resource_name=name, configs=rows)
            wire.ask(label, alter_configs.AlterConfigsRequest(resources=[resource], validate_only=only), version)

        ask("validate only", TOPIC, topic, {"segment.bytes": "2000000"}, only=True)
        ask("replace all", TOPIC, topic, {"segment.bytes": "2000000"})
        await_value(wire, TOPIC, topic, "segment.bytes", "2000000")
        describe(
            wire,
            f"{topic}: what is left",
            newest(ApiKey.DESCRIBE_CONFIGS),
            TOPIC,
            topic,
            ["retention.ms", "segment.bytes"],
        )
        ask("unknown key", TOPIC, topic, {"no.such.key": "1"})
        ask("bad value", TOPIC, topic, {"segment.bytes": "many"})
        ask("null value", TOPIC, topic, {"segment.bytes": None})
        ask("unknown topic", TOPIC, "nowhere", {"segment.bytes": "2000000"})
        ask("empty topic name", TOPIC, "", {"segment.bytes": "2000000"})
        ask("unknown type", 77, "x", {"segment.bytes": "2000000"})
        ask("unknown broker", BROKER, "7", {"log.cleaner.threads": "2"})
        ask("read-only broker key", BROKER, NODE, {"broker.rack": "2"})
        ask("unknown broker key", BROKER, NODE, {"no.such.key": "2"})
        ask("all brokers' key", BROKER, "", {"log.retention.ms": "600000"}, only=True)
        ask("all brokers' threads", BROKER, "", {"num.io.threads": "17"}, only=True)
        wire.ask("nothing", alter_configs.AlterConfigsRequest(), version)


def incremental(wire: Wire) -> None:
    for version in versions(ApiKey.INCREMENTAL_ALTER_CONFIGS):
        topic = f"configs-incremental-{version}"
        create_topic(wire, topic, retention_ms="777000")

        def ask(
            label: str,
            kind: int,
            name: str,
            *changes: tuple[str, int, str | None],
            only: bool = False,
            version: int = version,
        ) -> None:
            rows = [
                incremental_alter_configs.AlterableConfig(name=key, config_operation=operation, value=value)
                for key, operation, value in changes
            ]
            resource = incremental_alter_configs.AlterConfigsResource(
                resource_type=kind, resource_name=name, configs=rows
            )
            message = incremental_alter_configs.IncrementalAlterConfigsRequest(resources=[resource], validate_only=only)
            wire.ask(label, message, version)

        def left(label: str, *keys: str, topic: str = topic) -> None:
            describe(
                wire, f"{topic}: {label}", newest(ApiKey.DESCRIBE_CONFIGS), TOPIC, topic, list(keys), synonyms=True
            )

        ask("validate only", TOPIC, topic, ("segment.bytes", SET, "2000000"), only=True)
        ask("set", TOPIC, topic, ("segment.bytes", SET, "2000000"), ("cleanup.policy", SET, "compact"))
        await_value(wire, TOPIC, topic, "segment.bytes", "2000000")
        ask("append", TOPIC, topic, ("cleanup.policy", APPEND, "delete"))
        await_value(wire, TOPIC, topic, "cleanup.policy", "compact,delete")
        left("after appending", "cleanup.policy", "segment.bytes", "retention.ms")
        ask("append what is there", TOPIC, topic, ("cleanup.policy", APPEND, "delete"))
        ask("subtract", TOPIC, topic, ("cleanup.policy", SUBTRACT, "compact"), ("retention.ms", DELETE, None))
        await_value(wire, TOPIC, topic, "cleanup.policy", "delete")
        left("after subtracting", "cleanup.policy", "segment.bytes", "retention.ms")
        ask("subtract what is not there", TOPIC, topic, ("cleanup.policy", SUBTRACT, "compact"))
        ask("append to a number", TOPIC, topic, ("segment.bytes", APPEND, "5"))
        ask("subtract from a number", TOPIC, topic, ("segment.bytes", SUBTRACT, "5"))
        ask("operation 9", TOPIC, topic, ("segment.bytes", 9, "5"))
        ask("set null", TOPIC, topic, ("segment.bytes", SET, None))
        ask("append null", TOPIC, topic, ("cleanup.policy", APPEND, None))
        ask("delete what is not there", TOPIC, topic, ("flush.ms", DELETE, None))
        ask("unknown key", TOPIC, topic, ("no.such.key", SET, "1"))
        ask("delete an unknown key", TOPIC, topic, ("no.such.key", DELETE, None))
        ask("bad value", TOPIC, topic, ("segment.bytes", SET, "many"))
        ask("value out of bounds", TOPIC, topic, ("segment.bytes", SET, "1"))
        ask("a key twice", TOPIC, topic, ("segment.bytes", SET, "3000000"), ("segment.bytes", DELETE, None))
        ask("unknown topic", TOPIC, "nowhere", ("segment.bytes", SET, "2000000"))
        ask("invalid topic", TOPIC, "no/where", ("segment.bytes", SET, "2000000"))
        ask("empty topic", TOPIC, "", ("segment.bytes", SET, "2000000"))
        ask("no changes", TOPIC, topic)
        ask("unknown type", 77, "x", ("segment.bytes", SET, "2000000"))
        ask("unknown broker", BROKER, "7", ("log.cleaner.threads", SET, "2"))
        ask("read-only broker key", BROKER, NODE, ("broker.rack", SET, "2"))
        ask("read-only key of all brokers", BROKER, "", ("broker.rack", SET, "2"))
        ask("unknown broker key", BROKER, NODE, ("no.such.key", SET, "2"))
        ask("a broker's key, bad value", BROKER, NODE, ("log.retention.ms", SET, "soon"))
        ask("a broker's key, validate only", BROKER, NODE, ("log.retention.ms", SET, "600000000"), only=True)
        ask("a broker's key", BROKER, NODE, ("log.retention.ms", SET, "600000000"))
        await_value(wire, BROKER, NODE, "log.retention.ms", "600000000")
        ask("all brokers' key", BROKER, "", ("log.retention.ms", SET, "500000000"))
        await_value(wire, BROKER, "", "log.retention.ms", "500000000")
        label = f"version {version}: a broker's key and its synonyms"
        describe(wire, label, newest(ApiKey.DESCRIBE_CONFIGS), BROKER, NODE, ["log.retention.ms"], synonyms=True)
        describe(
            wire, f"version {version}: all brokers' keys", newest(ApiKey.DESCRIBE_CONFIGS), BROKER, "", synonyms=True
        )
        left("a topic follows the broker", "retention.ms")
        ask("back", BROKER, NODE, ("log.retention.ms", DELETE, None))
        ask("all back", BROKER, "", ("log.retention.ms", DELETE, None))
        await_value(wire, TOPIC, topic, "retention.ms", "604800000")
        ask("a group's key", GROUP, "configs-group", ("consumer.session.timeout.ms", SET, "50000"))
        ask("a group's bad value", GROUP, "configs-group", ("consumer.session.timeout.ms", SET, "1"))
        ask("a group's unknown key", GROUP, "configs-group", ("no.such.key", SET, "1"))
        await_value(wire, GROUP, "configs-group", "consumer.session.timeout.ms", "50000")
        describe(
            wire, f"version {version}: a group", newest(ApiKey.DESCRIBE_CONFIGS), GROUP, "configs-group", synonyms=True
        )
        wire.ask("nothing", incremental_alter_configs.IncrementalAlterConfigsRequest(), version)
        row = incremental_alter_configs.AlterableConfig(name="segment.bytes", config_operation=SET, value="3000000")
        twice = [
            incremental_alter_configs.AlterConfigsResource(resource_type=TOPIC, resource_name=topic, configs=[row])
        ] * 2
        wire.ask("a resource twice", incremental_alter_configs.IncrementalAlterConfigsRequest(resources=twice), version)


def listing(wire: Wire) -> None:
    create_topic(wire, "configs-listed", retention_ms="777000")
    for version in versions(ApiKey.LIST_CONFIG_RESOURCES):
        wire.ask("by default", ListConfigResourcesRequest(), version)
        if version >= 1:
            for kinds in (
                [TOPIC],
                [BROKER],
                [GROUP],
                [CLIENT_METRICS],
                [LOGGER],
                [TOPIC, BROKER],
                [77],
                [TOPIC, TOPIC],
                [0],
            ):
                wire.ask(f"types {kinds}", ListConfigResourcesRequest(resource_types=kinds), version)


#: Counts of threads by their default, and one that each may become from there.
THREAD_COUNTS = {
    "background.threads": 10, "log.cleaner.threads": 1, "num.io.threads": 8, "num.network.threads": 3,
    "num.recovery.threads.per.data.dir": 2, "num.replica.fetchers": 1, "remote.log.manager.copier.thread.pool.size": 10,
    "remote.log.manager.expiration.thread.pool.size": 10, "remote.log.manager.follower.thread.pool.size": 2,
    "remote.log.reader.threads": 10, "listener.name.plaintext.num.network.threads": 3,
}  # fmt: skip
THROTTLES = (
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
)


def dynamic_brokers(wire: Wire) -> None:
    """What can be set on a running broker only: throttles, and counts of threads step by step."""
    version = newest(ApiKey.INCREMENTAL_ALTER_CONFIGS)

    def ask(label: str, node: str, key: str, value: str | None, *, only: bool = True) -> None:
        row = incremental_alter_configs.AlterableConfig(
            name=key, config_operation=DELETE if value is None else SET, value=value
        )
        resource = incremental_alter_configs.AlterConfigsResource(
            resource_type=BROKER, resource_name=node, configs=[row]
        )
        message = incremental_alter_configs.IncrementalAlterConfigsRequest(resources=[resource], validate_only=only)
        wire.ask(label, message, version)

    for node in (NODE, ""):
        whose = "one broker's" if node else "all brokers'"
        for key, now in THREAD_COUNTS.items():
            for count in (now // 2 - 1, now // 2, now * 2, now * 2 + 1):
                if count or key != "log.cleaner.threads":  # of which 0 makes Kafka divide by it
                    ask(f"{whose} {key}={count}", node, key, str(count))
        for key in THROTTLES:
            for text in ("abc", "-1", "0", "1000", "1.5", ""):
                ask(f"{whose} {key}={text}", node, key, text)
            ask(f"{whose} {key}", node, key, "1000" if node else "2000", only=False)
            await_value(wire, BROKER, node, key, "1000" if node else "2000")
    describe(wire, "throttles", newest(ApiKey.DESCRIBE_CONFIGS), BROKER, NODE, list(THROTTLES), synonyms=True)
    describe(wire, "throttles of all brokers", newest(ApiKey.DESCRIBE_CONFIGS), BROKER, "", synonyms=True)
    for node in (NODE, ""):
        for key in THROTTLES:
            ask(f"{key} is taken back from '{node}'", node, key, None, only=False)
    for label, node, value in (
        ("twice as many", NODE, "16"),
        ("four times as many", NODE, "32"),
        ("hidden by a stronger level", "", "8"),
        ("back at once is too far", NODE, None),
        ("half", NODE, "16"),
        ("back", NODE, None),
        ("back for all", "", None),
    ):
        ask(f"num.io.threads: {label}", node, "num.io.threads", value, only=False)
        if value is not None:
            await_value(wire, BROKER, node, "num.io.threads", value)


SCENARIOS = [describing, altering, incremental, dynamic_brokers, listing]
