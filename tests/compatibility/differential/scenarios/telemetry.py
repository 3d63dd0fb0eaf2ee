"""Client metrics (KIP-714): subscriptions as configurations, GetTelemetrySubscriptions, PushTelemetry.

Neither broker announces the two APIs while there is no subscription; Kafka answers them all the same, and it has no
receiver here, so that what is inside a push is not looked at and not compared.
"""

from __future__ import annotations

import uuid

from tests.compatibility.differential.scenarios.configs import (
    APPEND,
    CLIENT_METRICS,
    DELETE,
    SET,
    SUBTRACT,
    describe,
)
from tests.compatibility.differential.script import newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_configs, incremental_alter_configs
from ottla.protocol.messages.get_telemetry_subscriptions import GetTelemetrySubscriptionsRequest
from ottla.protocol.messages.list_config_resources import ListConfigResourcesRequest
from ottla.protocol.messages.push_telemetry import PushTelemetryRequest
from ottla.types import ZERO_UUID

NAME = "telemetry-subscription"
#: No pushes are accepted before this has passed, however slow the brokers are.
LONG = "3600000"


def alter(wire: Wire, label: str | None, name: str, *changes: tuple[str, int, str | None]) -> None:
    rows = [
        incremental_alter_configs.AlterableConfig(name=key, config_operation=operation, value=value)
        for key, operation, value in changes
    ]
    resource = incremental_alter_configs.AlterConfigsResource(
        resource_type=CLIENT_METRICS, resource_name=name, configs=rows
    )
    message = incremental_alter_configs.IncrementalAlterConfigsRequest(resources=[resource])
    wire.ask(label, message, newest(ApiKey.INCREMENTAL_ALTER_CONFIGS), on="main" if label else "aside")


def await_subscription(wire: Wire, name: str, key: str, value: str) -> None:
    wire.settle(f"{key}={value}", lambda: describe(wire, None, 4, CLIENT_METRICS, name, [key]).get(key) == value)


def remove(wire: Wire, name: str) -> None:
    alter(wire, None, name, *((key, DELETE, None) for key in ("interval.ms", "metrics", "match")))
    wire.settle(f"no {name}", lambda: name not in listed(wire))


def listed(wire: Wire) -> list[str]:
    message = ListConfigResourcesRequest(resource_types=[CLIENT_METRICS])
    return [row.resource_name for row in wire.ask(None, message, 1, on="aside").config_resources]


def configuring(wire: Wire) -> None:
    def ask(label: str, key: str, value: str | None, name: str = NAME) -> None:
        alter(wire, label, name, (key, SET, value))

    for value in ("100", "99", "3600000", "3600001", "-1", "soon", "", " 1000 ", "99999999999", "1e3"):
        ask(f"interval.ms={value!r}", "interval.ms", value)
    for value in (
        "*", "", "org.apache.kafka.producer.,org.apache.kafka.consumer.", "a,a", "a,,b", ",", " a , b ", "*,a",
    ):  # fmt: skip
        ask(f"metrics={value!r}", "metrics", value)
    for value in (
        "client_id=a.*", "client_id", "client_id=", "=x", "client_id=a=b", "no_such=1", "client_id=(", "",
        "client_id=a,client_id=b", "client_id=a,client_id=a", "CLIENT_ID=a", " client_id = a ", "client_id=a,,",
        "client_source_port=[0-9]+", "client_source_address=127.0.0.1", "client_instance_id=x",
        "client_software_name=differ,client_software_version=1.0", "client_id=[", "client_id=*", "client_id==",
        "client_id=a=", "client_id= ",
    ):  # fmt: skip
        ask(f"match={value!r}", "match", value)
    ask("an unknown key", "no.such.key", "1")
    ask("an empty name", "metrics", "*", "")
    alter(wire, "delete what is not there", "telemetry-absent", ("metrics", DELETE, None))
    alter(wire, "delete an unknown key", NAME, ("no.such.key", DELETE, None))
    alter(wire, "all", NAME, ("metrics", SET, "a.,b."), ("interval.ms", SET, LONG), ("match", SET, "client_id=a.*"))
    await_subscription(wire, NAME, "interval.ms", LONG)
    alter(wire, "append", NAME, ("metrics", APPEND, "c."))
    alter(wire, "subtract", NAME, ("metrics", SUBTRACT, "b."))
    for version in versions(ApiKey.DESCRIBE_CONFIGS):
        describe(wire, f"v{version}: a subscription", version, CLIENT_METRICS, NAME, synonyms=True)
        describe(wire, f"v{version}: one key", version, CLIENT_METRICS, NAME, ["match", "nothing"])
        describe(wire, f"v{version}: an empty name", version, CLIENT_METRICS, "")
    for version in versions(ApiKey.LIST_CONFIG_RESOURCES):
        wire.ask(f"v{version}: listed", ListConfigResourcesRequest(), version)
    for version in versions(ApiKey.ALTER_CONFIGS):
        for label, configs in (
            ("replace", {"metrics": "*"}),
            ("bad", {"interval.ms": "1"}),
            ("unknown", {"x": "1"}),
            ("bad match", {"match": "x=1"}),
        ):
            rows = [alter_configs.AlterableConfig(name=key, value=value) for key, value in configs.items()]
            resource = alter_configs.AlterConfigsResource(
                resource_type=CLIENT_METRICS, resource_name=NAME, configs=rows
            )
            wire.ask(f"v{version}: {label}", alter_configs.AlterConfigsRequest(resources=[resource]), version)
        await_subscription(wire, NAME, "metrics", "*")
        describe(wire, f"after v{version}", newest(ApiKey.DESCRIBE_CONFIGS), CLIENT_METRICS, NAME, synonyms=True)
    remove(wire, NAME)


def get(wire: Wire, label: str | None, instance: bytes) -> int:
    answer = wire.ask(label, GetTelemetrySubscriptionsRequest(client_instance_id=instance), 0)
    return int(answer.subscription_id)


def push(
    wire: Wire, label: str, instance: bytes, subscription: int,
    *, terminating: bool = False, codec: int = 0, metrics: bytes = b"",
) -> None:  # fmt: skip
    message = PushTelemetryRequest(
        client_instance_id=instance,
        subscription_id=subscription,
        terminating=terminating,
        compression_type=codec,
        metrics=metrics,
    )
    wire.ask(label, message, 0)


def asking(wire: Wire) -> None:
    def client(number: int) -> bytes:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"telemetry-{number}").bytes

    get(wire, "no subscription", client(1))
    get(wire, "no subscription, again", client(1))
    alter(wire, None, NAME, ("metrics", SET, "org.apache.kafka."), ("interval.ms", SET, LONG))
    await_subscription(wire, NAME, "interval.ms", LONG)
    wire.settle("the subscription is in force", lambda: wire_interval(wire) == 300_000)
    get(wire, "a changed subscription", client(1))
    get(wire, "a changed subscription, again", client(1))
    get(wire, "the reserved id 1", bytes(15) + b"\x01")
    push(wire, "no id", ZERO_UUID, 0)
    push(wire, "the reserved id 1", bytes(15) + b"\x01", 0)
    subscription = get(wire, "second client", client(2))
    push(wire, "at once", client(2), subscription, metrics=b"")
    push(wire, "too early", client(2), subscription)
    get(wire, "too early as well", client(2))
    push(wire, "terminating comes at any time", client(2), subscription, terminating=True)
    push(wire, "after terminating", client(2), subscription)
    push(wire, "and after that", client(2), subscription)
    subscription = get(wire, "third client", client(3))
    push(wire, "wrong subscription id", client(3), subscription + 1)
    push(wire, "right after the wrong one", client(3), subscription)
    get(wire, "after the wrong one", client(3))
    push(wire, "right", client(3), subscription)
    subscription = get(wire, "fourth client", client(4))
    push(wire, "codec 5", client(4), subscription, codec=5)
    get(wire, "after codec 5", client(4))
    push(wire, "codec -1", client(4), subscription, codec=-1)
    subscription = get(wire, "fifth client", client(5))
    push(wire, "too large", client(5), subscription, metrics=bytes(1_048_577))
    get(wire, "after too large", client(5))
    subscription = get(wire, "sixth client", client(6))
    push(wire, "codec 5 and terminating", client(6), subscription, codec=5, terminating=True)
    push(wire, "after it", client(6), subscription, terminating=True)
    push(wire, "and once more", client(6), subscription, terminating=True)
    push(wire, "a client that never asked", client(7), 0)
    alter(wire, None, NAME, ("metrics", SET, "*,org.apache.kafka."), ("interval.ms", SET, "100"))
    wire.settle("the shorter interval is in force", lambda: wire_interval(wire) == 100)
    subscription = get(wire, "eighth client", client(8))
    push(wire, "eighth client", client(8), subscription)
    alter(wire, None, NAME, ("match", SET, "client_id=nobody"))
    wire.settle("nobody matches", lambda: wire_interval(wire) == 300_000)
    push(wire, "the subscription is gone", client(8), subscription)
    get(wire, "matches no more", client(8))
    alter(wire, None, NAME, ("match", SET, "client_id=di.*r,client_source_address=127\\.0\\.0\\.1"))
    wire.settle("matches again", lambda: wire_interval(wire) == 100)
    get(wire, "matches again", client(8))
    alter(wire, None, NAME, ("match", SET, "client_software_name=differ"))
    wire.settle("no software name was told", lambda: wire_interval(wire) == 300_000)
    get(wire, "no software name", client(9))
    remove(wire, NAME)
    wire.settle("removed", lambda: wire_interval(wire) == 300_000)


def wire_interval(wire: Wire) -> int:
    """What a client that nobody has seen is told: shows that a change has come as far as the answers."""
    request = GetTelemetrySubscriptionsRequest(client_instance_id=uuid.uuid4().bytes)
    return int(wire.ask(None, request, 0, on="aside").push_interval)


SCENARIOS = [configuring, asking]
