"""The matrix of access rules beside Apache Kafka: every API by users with each rule, the same scripts to both.

Each user has a topic, a group and a transactional id of its own and one rule about them. Compared are the error codes of its
answers, what it is told that it may do, and which of its names lists show. `EXPLAINED` says where they may differ, and why.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support import kafka_anchor
from tests.support.access_cases import CASES, Case, Grant, Names, errors_in, own_name
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.protocol.api import SERVED
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.create_acls import AclCreation, CreateAclsRequest, CreateAclsResponse
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.security.acls import OPERATIONS, Operation, PatternType, Permission, ResourceType
from ottla.testing.wire import WireClient

pytestmark = pytest.mark.kafka

KINDS = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.CLUSTER, ResourceType.TRANSACTIONAL_ID)
ALL = Operation.ALL


def users() -> dict[str, list[Grant]]:
    """Every user and its rules."""
    everything = [Grant(kind, ALL) for kind in KINDS]
    found: dict[str, list[Grant]] = {"none": [], "everything": everything}
    for kind in KINDS:
        found[f"all-{kind.name}"] = [Grant(kind, ALL)]
        for operation in OPERATIONS[kind]:
            if operation is Operation.TWO_PHASE_COMMIT:
                continue
            found[f"{kind.name}-{operation.name}"] = [Grant(kind, operation)]
            found[f"not-{kind.name}-{operation.name}"] = [*everything, Grant(kind, operation, Permission.DENY)]
        if kind is not ResourceType.CLUSTER:
            found[f"prefixed-{kind.name}"] = [Grant(kind, ALL, pattern_type=PatternType.PREFIXED)]
        found[f"here-{kind.name}"] = [Grant(kind, ALL, host="127.0.0.1")]
        found[f"elsewhere-{kind.name}"] = [Grant(kind, ALL, host="10.9.8.7")]
    return found


USERS = {name.lower().replace("_", "-"): grants for name, grants in users().items()}

#: Cases whose answers may differ, and why.
EXPLAINED: dict[str, str] = {}


class Running:
    """One broker, with users."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def as_user(self, user: str) -> WireClient:
        client = await WireClient.connect("127.0.0.1", self.port)
        await client.ask(SaslHandshakeRequest(mechanism="PLAIN"), 1, SaslHandshakeResponse)
        said = SaslAuthenticateRequest(auth_bytes=f"\0{user}\0x".encode())
        answer = await client.ask(said, 1, SaslAuthenticateResponse)
        assert not answer.error_code, (user, answer.error_message)
        return client


SUPER = "admin"
PASSWORDS = " ".join(f'user_{user}="x"' for user in (SUPER, "broker", *USERS))
JAAS = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="broker" password="x" {PASSWORDS};'
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@contextmanager
def ottla_broker() -> Iterator[Running]:
    port = free_port()
    process = BrokerProcess(
        {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "authorizer.class.name": AUTHORIZER,
            "super.users": f"User:{SUPER};User:ANONYMOUS",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.num.partitions": "1",
        },
        environment={"KAFKA_LISTENER_NAME_LOGIN_PLAIN_SASL_JAAS_CONFIG": JAAS},
    )
    process.environment["KAFKA_LISTENERS"] = f"PLAINTEXT://127.0.0.1:{process.port},LOGIN://127.0.0.1:{port}"
    with process:
        yield Running(port)


@contextmanager
def kafka_broker() -> Iterator[Running]:
    kafka_anchor.require()
    port = free_port()
    process = kafka_anchor.KafkaProcess()
    process.settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{process.port},CONTROLLER://127.0.0.1:{process.port + 1},LOGIN://127.0.0.1:{port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{process.port},LOGIN://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": JAAS,
        "authorizer.class.name": AUTHORIZER,
        "super.users": f"User:{SUPER};User:ANONYMOUS",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
        "group.coordinator.rebalance.protocols": "classic,consumer,streams,share",
    }
    try:
        process.start()
        yield Running(port)
    finally:
        process.close()


async def prepare(broker: Running) -> dict[str, Names]:
    """Make what users ask about, and their rules; return the names."""
    admin = await broker.as_user(SUPER)
    topics = [CreatableTopic(name=f"t-{user}-", num_partitions=1, replication_factor=1) for user in USERS]
    made = await admin.ask(CreateTopicsRequest(topics=topics, timeout_ms=60_000), 7, CreateTopicsResponse)
    assert not any(topic.error_code for topic in made.topics)
    ids = {topic.name: topic.topic_id for topic in made.topics}
    names = {user: Names(f"t-{user}-", ids[f"t-{user}-"], f"g-{user}-", f"x-{user}-") for user in USERS}
    creations = [
        AclCreation(
            resource_type=given.resource_type,
            resource_name=own_name(given, names[user])[: -1 if given.pattern_type is PatternType.PREFIXED else None],
            resource_pattern_type=given.pattern_type,
            principal=f"User:{user}",
            host=given.host,
            operation=given.operation,
            permission_type=given.permission,
        )
        for user, grants in USERS.items()
        for given in grants
    ]
    answer = await admin.ask(CreateAclsRequest(creations=creations), 3, CreateAclsResponse)
    assert not any(result.error_code for result in answer.results), answer.results
    for key_type in (0, 1):  # both coordinators have to be there before anybody asks them
        for _ in range(300):
            asked = FindCoordinatorRequest(key_type=key_type, coordinator_keys=["warm"])
            found = await admin.ask(asked, 4, FindCoordinatorResponse)
            if not found.coordinators[0].error_code:
                break
            await asyncio.sleep(0.1)
        else:
            raise TimeoutError("no coordinator")
    await settled(admin)
    admin.close()
    return names


async def settled(admin: WireClient) -> None:
    """Wait until every partition has a leader."""
    for _ in range(300):
        told = await admin.ask(MetadataRequest(topics=None), 12, MetadataResponse)
        if all(not part.error_code and part.leader_id >= 0 for topic in told.topics for part in topic.partitions):
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("partitions without leaders")


#: Codes by which a coordinator says "later".
LATER = {14, 15, 16, 51}


async def ask(client: WireClient, case: Case, names: Names, version: int) -> Any:
    """Ask once a coordinator is ready."""
    for _ in range(100):
        answer = await client.send(case.make(names), version)
        if not set(errors_in(answer)) & LATER:
            break
        await asyncio.sleep(0.1)
    return answer


def said(answer: Any, names: Names) -> tuple[Any, ...]:
    """What an answer says about rights."""
    bits = []
    for field in ("cluster_authorized_operations", "topic_authorized_operations", "authorized_operations"):
        bits += [value for value in _values(answer, field) if value != -(2**31)]
    listed = sorted(
        name
        for rows, field in (("topics", "name"), ("groups", "group_id"))
        for row in getattr(answer, rows, None) or ()
        if (name := getattr(row, field, None)) in (names.topic, names.group)
    )
    return (*sorted(errors_in(answer)), "may", *bits, "shows", *listed)


def _values(part: Any, wanted: str) -> Iterator[int]:
    for field in getattr(part, "__slots__", ()):
        value = getattr(part, field)
        if field == wanted:
            yield value
        elif isinstance(value, list):
            for element in value:
                yield from _values(element, wanted)


async def answers(broker: Running, versions: dict[str, int]) -> dict[tuple[str, str], tuple[Any, ...]]:
    names = await prepare(broker)
    found: dict[tuple[str, str], tuple[Any, ...]] = {}
    for user in USERS:
        client = await broker.as_user(user)
        for case in CASES:
            if case.name not in versions:
                continue
            try:
                answer = await ask(client, case, names[user], versions[case.name])
            except ConnectionError:
                found[user, case.name] = ("closed",)
                client = await broker.as_user(user)
                continue
            found[user, case.name] = said(answer, names[user])
        client.close()
    return found


async def versions_of(broker: Running) -> dict[int, tuple[int, int]]:
    client = await WireClient.connect("127.0.0.1", broker.port)
    told = await client.ask(
        ApiVersionsRequest(client_software_name="test", client_software_version="1"), 3, ApiVersionsResponse
    )
    client.close()
    return {row.api_key: (row.min_version, row.max_version) for row in told.api_keys}


def test_answers_are_those_of_apache_kafka() -> None:
    async def run() -> None:
        with ottla_broker() as ours, kafka_broker() as theirs:
            spoken = await versions_of(theirs)
            versions = {}
            for case in CASES:
                if case.key not in spoken:
                    continue
                high = min(SERVED[case.key][1], case.version_max or 99, spoken[case.key][1])
                if high >= max(case.version_min, spoken[case.key][0]):
                    versions[case.name] = high
            mine, kafkas = await answers(ours, versions), await answers(theirs, versions)
        differing = {key: (mine[key], kafkas[key]) for key in mine if mine[key] != kafkas[key]}
        unexplained = {key: both for key, both in differing.items() if key[1] not in EXPLAINED}
        by_case = Counter(name for _, name in unexplained)
        print(f"{len(mine)} answers, {len(differing)} differ, {len(unexplained)} unexplained: {dict(by_case)}")
        shown: Counter[str] = Counter()
        for (user, name), (here, there) in unexplained.items():
            shown[name] += 1
            if shown[name] <= 3:
                print(f"  {name} as {user}: ottla {here}, Kafka {there}")
        assert len(mine) >= 2_000
        assert not unexplained

    asyncio.run(run())
