"""Brokers that log in to each other: replication and failover."""

from __future__ import annotations

import pytest
from tests.replication.story import is_replicated, produced, simulate, values_on

from ottla.broker.config import BrokerConfig
from ottla.config import ConfigError
from ottla.security.sasl.scram import credential_from_salted, credential_to_text, salted_password
from ottla.testing.simulated_cluster import SimulatedCluster

SCRAM = "SCRAM-SHA-512"
PASSWORD = "secret-of-brokers"


def secure(cluster: SimulatedCluster, mechanism: str, *, password: str = PASSWORD) -> None:
    """Give each machine a plain listener for clients, and one on which brokers log in."""
    for node_id, machine in cluster.machines.items():
        jaas = "org.apache.kafka.common.security."
        if mechanism == "PLAIN":
            jaas += f'plain.PlainLoginModule required username="broker" password="{password}" user_broker="{PASSWORD}";'
        else:
            jaas += f'scram.ScramLoginModule required username="broker" password="{password}";'
            salt = b"salt of a test.."
            credential = credential_from_salted(SCRAM, salted_password(SCRAM, PASSWORD, salt, 4096), salt, 4096)
            machine._settings["ottla.scram.users"] = f"broker:{SCRAM}:{credential_to_text(credential)}"
        machine._settings |= {
            "listeners": f"PLAINTEXT://{machine.host}:9092,INTERNAL://{machine.host}:9094",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:SASL_PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "sasl.mechanism.inter.broker.protocol": mechanism,
            "sasl.enabled.mechanisms": mechanism,
            f"listener.name.internal.{mechanism.lower()}.sasl.jaas.config": jaas,
            "broker.id": node_id,
        }


@pytest.mark.parametrize("mechanism", ["PLAIN", SCRAM])
def test_brokers_log_in_to_each_other_and_one_takes_over(mechanism: str) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        secure(cluster, mechanism)
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        assert await produced(cluster, 1, b"a") == 0
        await is_replicated(cluster, 1, 2, 3)
        cluster[1].kill()
        await cluster.has_leader("t", 2)
        assert await produced(cluster, 2, b"b") == 1
        await cluster.start(1)
        await cluster.has_isr("t", 1, 2, 3)
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 1) == [b"a", b"b"]

    simulate(scenario)


def test_a_broker_with_a_wrong_password_is_in_no_isr() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        secure(cluster, "PLAIN")
        jaas = "listener.name.internal.plain.sasl.jaas.config"
        machine = cluster[3]
        machine._settings[jaas] = str(machine._settings[jaas]).replace(f' password="{PASSWORD}"', ' password="guessed"')
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        await cluster.has_isr("t", 1, 2)
        await produced(cluster, 1, b"a")
        await is_replicated(cluster, 1, 2)
        assert values_on(cluster, 3) == []

    simulate(scenario)


SASL = {
    "listeners": "INTERNAL://127.0.0.1:9094",
    "listener.security.protocol.map": "INTERNAL:SASL_PLAINTEXT",
    "zookeeper.connect": "zk:2181",
    "broker.id": "1",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.internal.plain.sasl.jaas.config": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required user_broker="x";'
    ),
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "set sasl.mechanism.inter.broker.protocol to one of PLAIN"),
        ({"sasl.mechanism.inter.broker.protocol": "OAUTHBEARER"}, "SCRAM-SHA-512, GSSAPI, not OAUTHBEARER"),
        (
            {"sasl.mechanism.inter.broker.protocol": "GSSAPI"},
            "set listener.name.internal.gssapi.sasl.jaas.config to com.sun.security",
        ),
        (
            {"sasl.mechanism.inter.broker.protocol": "PLAIN"},
            "listener.name.internal.plain.sasl.jaas.config needs username and password",
        ),
        (
            {"inter.broker.listener.name": "INTERNAL", "security.inter.broker.protocol": "SSL"},
            "only one of inter.broker.listener.name and security.inter.broker.protocol can be set",
        ),
        ({"security.inter.broker.protocol": "SSL"}, "security.inter.broker.protocol=SSL needs a listener of that name"),
    ],
)
def test_what_a_broker_needs_to_log_in_is_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BrokerConfig.from_sources(overrides=[f"{key}={value}" for key, value in {**SASL, **changes}.items()])
