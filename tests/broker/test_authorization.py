"""Who may do what: a whole broker in virtual time with an authorizer, asked by users with rules and without."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from tests.support.access_cases import CASES, Names, batch, errors_in

from ottla.broker.audit import Audit
from ottla.broker.authorization import DECISIONS_MAX, Authorizer
from ottla.broker.broker import Broker
from ottla.broker.config import BrokerConfig, ConfigError
from ottla.broker.context import Session
from ottla.broker.guards.table import GUARDS
from ottla.broker.handlers.parked_fetch import ParkedFetch
from ottla.broker.settings.access import AccessSettings
from ottla.cluster.image import ClusterImage
from ottla.errors import ErrorCode
from ottla.protocol.api import APIS, SERVED, ApiKey
from ottla.protocol.messages.create_acls import AclCreation, CreateAclsRequest, CreateAclsResponse
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_acls import DeleteAclsFilter, DeleteAclsRequest, DeleteAclsResponse
from ottla.protocol.messages.describe_acls import DescribeAclsRequest, DescribeAclsResponse
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.protocol.schema import Message
from ottla.security.acls import Operation, Pattern, PatternType, Permission, ResourceType, Rule
from ottla.testing.simulation import HOST, SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC

T = TypeVar("T")
USERS = ("admin", "alice", "bob", "nobody")
SETTINGS: dict[str, object] = {
    "listeners": f"PLAINTEXT://{HOST}:9092,LOGIN://{HOST}:9093",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
    "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.login.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        + " ".join(f'user_{user}="x"' for user in USERS)
        + ";"
    ),
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:admin",
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.num.partitions": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "share.coordinator.state.topic.replication.factor": 1,
}
DENIED = {
    ErrorCode.TOPIC_AUTHORIZATION_FAILED,
    ErrorCode.GROUP_AUTHORIZATION_FAILED,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
    ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ErrorCode.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
}


def with_broker(scenario: Callable[[SimulatedBroker], Awaitable[T]], **settings: object) -> T:
    async def run(loop: VirtualLoop) -> T:
        node = SimulatedBroker(loop, **{**SETTINGS, **settings})
        await node.start()
        try:
            return await scenario(node)
        finally:
            await node.stop()

    return run_virtual(1, run)[0]


def broker_of(node: SimulatedBroker) -> Broker:
    assert node.broker is not None
    return node.broker


async def as_user(node: SimulatedBroker, user: str, client_id: str = "client") -> WireClient:
    client = await node.connect(client_id, 9093)
    await client.ask(SaslHandshakeRequest(mechanism="PLAIN"), 1, SaslHandshakeResponse)
    answer = await client.ask(SaslAuthenticateRequest(auth_bytes=f"\0{user}\0x".encode()), 2, SaslAuthenticateResponse)
    assert not answer.error_code
    return client


async def grant(
    node: SimulatedBroker,
    user: str,
    operation: Operation,
    kind: ResourceType,
    name: str,
    *,
    permission: Permission = Permission.ALLOW,
    pattern: PatternType = PatternType.LITERAL,
) -> None:
    admin = await as_user(node, "admin")
    creation = AclCreation(
        resource_type=kind,
        resource_name=name,
        resource_pattern_type=pattern,
        principal=f"User:{user}",
        host="*",
        operation=operation,
        permission_type=permission,
    )
    answer = await admin.ask(CreateAclsRequest(creations=[creation]), 3, CreateAclsResponse)
    assert [r.error_code for r in answer.results] == [0]
    admin.close()


async def revoke(node: SimulatedBroker, user: str) -> int:
    admin = await as_user(node, "admin")
    wanted = DeleteAclsFilter(
        resource_type_filter=1,
        resource_name_filter=None,
        pattern_type_filter=1,
        principal_filter=f"User:{user}",
        host_filter=None,
        operation=1,
        permission_type=1,
    )
    answer = await admin.ask(DeleteAclsRequest(filters=[wanted]), 3, DeleteAclsResponse)
    admin.close()
    return len(answer.filter_results[0].matching_acls)


async def make_topic(node: SimulatedBroker, name: str) -> bytes:
    admin = await as_user(node, "admin")
    topic = CreatableTopic(name=name, num_partitions=1, replication_factor=1)
    answer = await admin.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)
    assert not answer.topics[0].error_code
    admin.close()
    return broker_of(node).image.topics[name].topic_id


def log_end(node: SimulatedBroker, name: str) -> int:
    partition = broker_of(node).replicas.partition(name, 0)
    assert partition is not None
    return partition.log.log_end_offset


async def metadata(client: WireClient, *names: str, **more: Any) -> dict[str | None, int]:
    request = MetadataRequest(topics=[MetadataRequestTopic(name=n) for n in names] or None, **more)
    return {topic.name: topic.error_code for topic in (await client.ask(request, 12, MetadataResponse)).topics}


def produce(*topics: str, acks: int = -1, **more: Any) -> ProduceRequest:
    return ProduceRequest(
        acks=acks,
        timeout_ms=1000,
        topic_data=[
            TopicProduceData(name=name, partition_data=[PartitionProduceData(index=0, records=batch())])
            for name in topics
        ],
        **more,
    )


READ, WRITE, DESCRIBE = Operation.READ, Operation.WRITE, Operation.DESCRIBE
TOPIC, GROUP, CLUSTER = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.CLUSTER

#: What is answered to everybody, or with nothing in it that is not the client's own.
NOTHING_ASKED: dict[str, Callable[[Any], bool]] = {
    **{
        f"{name}_DELEGATION_TOKEN": lambda answer: answer.error_code == ErrorCode.DELEGATION_TOKEN_AUTH_DISABLED
        for name in ("RENEW", "EXPIRE", "DESCRIBE")
    },
    "METADATA of all": lambda answer: answer.topics == [],
    "LIST_GROUPS": lambda answer: answer.groups == [],
    "LIST_TRANSACTIONS": lambda answer: answer.transaction_states == [],
    "DESCRIBE_CLUSTER": lambda answer: answer.cluster_authorized_operations == 0,
    "DELETE_TOPICS by unknown id": lambda answer: errors_in(answer) == [ErrorCode.UNKNOWN_TOPIC_ID],
}
#: APIs without a case of their own: what a user without rules gets for an empty request.
EMPTY_REQUESTS: dict[ApiKey, dict[str, object]] = {
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: {"group_id": "g"},
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: {"group_id": "g"},
    ApiKey.DESCRIBE_QUORUM: {},
    ApiKey.ENVELOPE: {},
    ApiKey.SHARE_ACKNOWLEDGE: {"group_id": "g", "member_id": "A" * 22},
    ApiKey.SHARE_FETCH: {"group_id": "g", "member_id": "A" * 22},
    ApiKey.SHARE_GROUP_HEARTBEAT: {"group_id": "g", "member_id": "A" * 22},
    ApiKey.STREAMS_GROUP_HEARTBEAT: {"group_id": "g", "member_id": "A" * 22},
    ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE: {"group_id": "g", "member_id": "A" * 22},
    ApiKey.UPDATE_FEATURES: {},
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: {},
    ApiKey.UNREGISTER_BROKER: {"broker_id": 9},
}
SHARE_STATE = {ApiKey(key) for key in (83, 84, 85, 86, 87)}
UNGUARDED = {ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE} | {
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS,
    ApiKey.PUSH_TELEMETRY,
    # Whose the token is decides.
    ApiKey.RENEW_DELEGATION_TOKEN,
    ApiKey.EXPIRE_DELEGATION_TOKEN,
}


def test_every_api_has_its_check() -> None:
    """Every served API, in every version, as a user whom no rule is about: refused, and nothing has changed."""
    assert GUARDS.keys() >= SERVED.keys()
    assert {key for key, guard in GUARDS.items() if guard is None} == UNGUARDED
    cased = {case.key for case in CASES}
    assert cased | EMPTY_REQUESTS.keys() | SHARE_STATE | UNGUARDED == SERVED.keys()

    async def scenario(node: SimulatedBroker) -> None:
        names = Names("t", await make_topic(node, "t"), "g", "x")
        client = await as_user(node, "nobody")
        broker = broker_of(node)
        before = (dict(broker.image.topics), dict(broker.image.configs), broker.image.acls, log_end(node, "t"))
        asked = 0
        for case in CASES:
            low, high = SERVED[case.key]
            for version in range(max(low, case.version_min), min(high, case.version_max or high) + 1):
                try:
                    future = client.send(case.make(names), version)
                except Exception:  # a field that this version does not have
                    continue
                answer = await future
                asked += 1
                if case.name in NOTHING_ASKED:
                    assert NOTHING_ASKED[case.name](answer), (case.name, version)
                    continue
                codes = set(errors_in(answer)) - {0}
                shows_nothing = case.key is ApiKey.DESCRIBE_LOG_DIRS and answer.results == []  # type: ignore[attr-defined]
                assert (codes and codes <= DENIED) or shows_nothing, (case.name, version, codes)
        for key, fields in EMPTY_REQUESTS.items():
            empty: Any = APIS[key].request_class()()
            for field, value in fields.items():
                setattr(empty, field, value)
            answer = await client.send(empty, SERVED[key][1])
            assert set(errors_in(answer)) & DENIED, key.name
        for key in SHARE_STATE:
            types = __import__(f"ottla.protocol.messages.{APIS[key].module}", fromlist=["x"])
            topic_class = next(v for n, v in vars(types).items() if n.endswith("Data") and n != "PartitionData")
            topic = topic_class(topic_id=names.topic_id, partitions=[types.PartitionData(partition=0)])
            request: Any = APIS[key].request_class()()
            request.group_id, request.topics = "g", [topic]
            answer = await client.send(request, SERVED[key][1])
            assert errors_in(answer) == [ErrorCode.CLUSTER_AUTHORIZATION_FAILED], key.name
        assert asked > 150
        after = (dict(broker.image.topics), dict(broker.image.configs), broker.image.acls, log_end(node, "t"))
        assert after == before
        assert (
            broker.coordinators.groups.group_ids() == [] if hasattr(broker.coordinators.groups, "group_ids") else True
        )

    with_broker(scenario)


def test_existence_by_every_api() -> None:
    """By name, what a client may not see is answered as what is not there is: nothing in the codes tells them apart."""

    async def scenario(node: SimulatedBroker) -> None:
        topic_id = await make_topic(node, "there")
        client = await as_user(node, "nobody")
        for case in CASES:
            high = SERVED[case.key][1]
            version = min(high, case.version_max or high)
            if "by id" in case.name or (case.key in (ApiKey.PRODUCE, ApiKey.FETCH) and version >= 13):
                continue
            there = await client.send(case.make(Names("there", topic_id, "g", "x")), version)
            missing = await client.send(case.make(Names("missing", topic_id, "g", "x")), version)
            assert errors_in(there) == errors_in(missing), case.name
            for topic in getattr(there, "topics", None) or ():
                assert getattr(topic, "topic_id", bytes(16)) == bytes(16), case.name

    with_broker(scenario)


def test_rules_let_in_and_are_taken_away_again() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "t")
        alice = await as_user(node, "alice")
        assert await metadata(alice, "t") == {"t": 29}
        await grant(node, "alice", WRITE, TOPIC, "t")
        assert await metadata(alice, "t") == {"t": 0}, "WRITE implies DESCRIBE"
        assert errors_in(await alice.ask(produce("t"), 9, ProduceResponse)) == [0]
        assert log_end(node, "t") == 1
        await grant(node, "alice", WRITE, TOPIC, "t", permission=Permission.DENY)
        assert errors_in(await alice.ask(produce("t"), 9, ProduceResponse)) == [29]
        assert await revoke(node, "alice") == 2
        assert await metadata(alice, "t") == {"t": 29}
        await node.stop()
        await node.start()
        assert await metadata(await as_user(node, "alice"), "t") == {"t": 29}

    with_broker(scenario)


def test_rules_are_in_the_tree_where_kafka_keeps_them_and_survive_a_restart() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "t")
        await grant(node, "alice", READ, TOPIC, "t")
        await grant(node, "alice", READ, GROUP, "g-", pattern=PatternType.PREFIXED)
        tree = broker_of(node).sessions.tree
        assert await tree.children("/kafka-acl/Topic") == ["t"]
        assert await tree.children("/kafka-acl-extended/prefixed/Group") == ["g-"]
        await node.stop()
        await node.start()
        admin = await as_user(node, "admin")
        request = DescribeAclsRequest(
            resource_type_filter=1,
            resource_name_filter=None,
            pattern_type_filter=1,
            principal_filter=None,
            host_filter=None,
            operation=1,
            permission_type=1,
        )
        told = await admin.ask(request, 3, DescribeAclsResponse)
        assert sorted((r.resource_type, r.resource_name, r.pattern_type) for r in told.resources) == [
            (2, "t", 3),
            (3, "g-", 4),
        ]
        assert await metadata(await as_user(node, "alice"), "t") == {"t": 0}

    with_broker(scenario)


def test_one_topic_of_two_denied_appends_nothing() -> None:
    """The short cut looks at all topics before it appends; the long way appends to the one that is allowed, once."""

    async def scenario(node: SimulatedBroker) -> None:
        for name in ("a", "b"):
            await make_topic(node, name)
        admin = await as_user(node, "admin")
        await admin.ask(produce("a", "b"), 9, ProduceResponse)  # from the second batch on the short cut takes them
        await grant(node, "alice", WRITE, TOPIC, "a")
        alice = await as_user(node, "alice")
        for topics in (("a", "b"), ("b", "a")):
            answer = await alice.ask(produce(*topics), 9, ProduceResponse)
            told = {topic.name: topic.partition_responses[0].error_code for topic in answer.responses}
            assert told == {"a": 0, "b": 29}
        assert (log_end(node, "a"), log_end(node, "b")) == (3, 1)
        alice.send(produce("a", "b", acks=0), 9).add_done_callback(lambda done: done.exception())
        await alice.closed
        assert (log_end(node, "a"), log_end(node, "b")) == (4, 1), "as in Kafka: what is allowed is appended"

    with_broker(scenario)


def test_metadata_cache_two_principals() -> None:
    """What is kept of an answer for one is not given to another, in whatever order they ask."""

    async def scenario(node: SimulatedBroker) -> None:
        for name in ("a", "b", "c"):
            await make_topic(node, name)
        await grant(node, "alice", DESCRIBE, TOPIC, "a")
        await grant(node, "bob", DESCRIBE, TOPIC, "b")
        clients = {user: await as_user(node, user) for user in USERS}
        for _ in range(2):
            for user in ("admin", "alice", "bob", "nobody"):
                seen = set(await metadata(clients[user]))
                assert seen == {"admin": {"a", "b", "c"}, "alice": {"a"}, "bob": {"b"}, "nobody": set()}[user]
                named = await metadata(clients[user], "a", "b")
                assert named["a"] == (0 if user in ("admin", "alice") else 29)
                assert named["b"] == (0 if user in ("admin", "bob") else 29)

    with_broker(scenario)


def test_cache_filled_by_stranger() -> None:
    """Questions of all kinds push out each other; the answers that others need are kept again the next time."""

    async def scenario(node: SimulatedBroker) -> None:
        for name in ("a", *(f"n{number}" for number in range(8))):
            await make_topic(node, name)
            await grant(node, "bob", DESCRIBE, TOPIC, name)
        bob, admin = await as_user(node, "bob"), await as_user(node, "admin")
        for first in range(8):
            for second in range(8):
                await metadata(bob, f"n{first}", f"n{second}")
        handler = broker_of(node).dispatcher
        assert await metadata(admin, "a") == {"a": 0}
        assert await metadata(admin, "a") == {"a": 0}
        assert handler is broker_of(node).dispatcher

    with_broker(scenario)


def fetch(topic: str, *, max_wait_ms: int = 0, **more: Any) -> FetchRequest:
    return FetchRequest(
        max_wait_ms=max_wait_ms,
        min_bytes=1,
        max_bytes=1 << 20,
        topics=[FetchTopic(topic=topic, partitions=[FetchPartition(partition=0, partition_max_bytes=1 << 20)])],
        **{"session_epoch": -1, **more},
    )


def test_parked_fetch_across_revocation() -> None:
    """A fetch waits; the right is taken away; records come: it gets none of them."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "t")
        await grant(node, "alice", READ, TOPIC, "t")
        alice, admin = await as_user(node, "alice"), await as_user(node, "admin")
        parked = alice.send(fetch("t", max_wait_ms=20_000), 12)
        await asyncio.sleep(1)
        assert not parked.done()
        await revoke(node, "alice")
        assert errors_in(await admin.ask(produce("t"), 9, ProduceResponse)) == [0]
        answer = await parked
        assert isinstance(answer, FetchResponse)
        (part,) = answer.responses[0].partitions
        assert (part.error_code, bytes(part.records or b"")) == (29, b"")

    with_broker(scenario)


@pytest.mark.parametrize("has_session", [False, True])
def test_parked_fetch_by_position_across_revocation(has_session: bool) -> None:
    """As above, of a version that the short cut takes."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "t")
        await grant(node, "alice", READ, TOPIC, "t")
        assert node.broker is not None
        topic_id = node.broker.image.topics["t"].topic_id
        alice, admin = await as_user(node, "alice"), await as_user(node, "admin")
        request = fetch("", max_wait_ms=0, session_epoch=0 if has_session else -1)
        request.topics[0].topic_id = topic_id
        first = await alice.ask(request, 17, FetchResponse)
        if has_session:
            request.session_id, request.session_epoch, request.topics = first.session_id, 1, []
        request.max_wait_ms, request.min_bytes = 20_000, 1
        parked = alice.send(request, 17)
        await asyncio.sleep(1)
        assert not parked.done()
        partition = node.broker.replicas.partition("t", 0)
        assert partition is not None
        assert [type(waiter) for waiter in partition.fetch_waiters] == [ParkedFetch]
        await revoke(node, "alice")
        assert errors_in(await admin.ask(produce("t"), 9, ProduceResponse)) == [0]
        answer = await parked
        assert isinstance(answer, FetchResponse)
        (part,) = answer.responses[0].partitions
        assert (part.error_code, bytes(part.records or b"")) == (29, b"")

    with_broker(scenario)


def test_a_denied_topic_does_not_end_the_wait_for_others() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        for name in ("mine", "other"):
            await make_topic(node, name)
        await grant(node, "alice", READ, TOPIC, "mine")
        alice, admin = await as_user(node, "alice"), await as_user(node, "admin")
        request = fetch("mine", max_wait_ms=20_000)
        request.topics += fetch("other").topics
        parked = alice.send(request, 12)
        await asyncio.sleep(2)
        assert not parked.done()
        await admin.ask(produce("other"), 9, ProduceResponse)
        await asyncio.sleep(2)
        assert not parked.done()
        await admin.ask(produce("mine"), 9, ProduceResponse)
        answer = await parked
        assert isinstance(answer, FetchResponse)
        told = {t.topic: (t.partitions[0].error_code, bool(t.partitions[0].records)) for t in answer.responses}
        assert told == {"mine": (0, True), "other": (29, False)}
        alone = await alice.ask(fetch("other", max_wait_ms=20_000), 12, FetchResponse)
        assert errors_in(alone)[1:] == [29], "with nothing to wait for it is answered at once"

    with_broker(scenario)


def test_foreign_session_id_is_unknown() -> None:
    """A fetch session is its owner's: to others it does not exist, and they can neither read nor end it."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "t")
        for user in ("alice", "bob"):
            await grant(node, user, READ, TOPIC, "t")
        alice, bob = await as_user(node, "alice"), await as_user(node, "bob")
        opened = await alice.ask(fetch("t", session_epoch=0), 12, FetchResponse)
        assert opened.session_id
        for epoch in (1, 2):
            stolen = await bob.ask(FetchRequest(session_id=opened.session_id, session_epoch=epoch), 12, FetchResponse)
            assert stolen.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        await bob.ask(FetchRequest(session_id=opened.session_id, session_epoch=-1), 12, FetchResponse)
        await bob.ask(fetch("t", session_id=opened.session_id, session_epoch=0), 12, FetchResponse)
        again = await as_user(node, "alice")
        mine = await again.ask(FetchRequest(session_id=opened.session_id, session_epoch=1), 12, FetchResponse)
        assert (mine.error_code, mine.session_id) == (0, opened.session_id)

    with_broker(scenario)


def test_denied_topic_never_joins_a_transaction() -> None:
    """A transactional producer without WRITE on a topic: the coordinator hears nothing of it, the LSO does not hang."""

    async def scenario(node: SimulatedBroker) -> None:
        from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

        await make_topic(node, "t")
        await broker_of(node).controller.ensure_topic(TRANSACTION_STATE_TOPIC)
        await grant(node, "alice", WRITE, ResourceType.TRANSACTIONAL_ID, "x")
        alice = await as_user(node, "alice")
        for _ in range(100):
            made = await alice.ask(
                InitProducerIdRequest(transactional_id="x", transaction_timeout_ms=60_000), 5, InitProducerIdResponse
            )
            if not made.error_code:
                break
            await asyncio.sleep(1)
        assert not made.error_code
        records = batch(
            transactional=True, producer_id=made.producer_id, producer_epoch=made.producer_epoch, base_sequence=0
        )
        request = produce("t", transactional_id="x")
        request.topic_data[0].partition_data[0].records = records
        assert errors_in(await alice.ask(request, 12, ProduceResponse)) == [29]
        partition = broker_of(node).replicas.partition("t", 0)
        assert partition is not None
        assert (partition.log.log_end_offset, partition.log.last_stable_offset) == (0, 0)
        assert not partition.log.producers.entries
        bob = await as_user(node, "bob")
        assert errors_in(await bob.ask(request, 12, ProduceResponse)) == [53]

    with_broker(scenario)


def test_client_id_admin_needs_write() -> None:
    """The client id that opens internal topics in Kafka opens them to those with WRITE only."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "t")
        node_broker = broker_of(node)
        await node_broker.controller.ensure_topic(GROUP_METADATA_TOPIC)
        alice = await as_user(node, "alice", "__admin_client")
        assert errors_in(await alice.ask(produce(GROUP_METADATA_TOPIC), 9, ProduceResponse)) == [29]
        await grant(node, "alice", WRITE, TOPIC, "*")
        other = await as_user(node, "alice")
        assert errors_in(await other.ask(produce(GROUP_METADATA_TOPIC), 9, ProduceResponse)) == [17]

    with_broker(scenario)


def test_regex_two_principals_one_group() -> None:
    """A pattern is for members that may describe all there is: none learns a name from what another one may see."""
    from ottla.protocol.messages.consumer_group_heartbeat import (
        ConsumerGroupHeartbeatRequest,
        ConsumerGroupHeartbeatResponse,
    )

    async def scenario(node: SimulatedBroker) -> None:
        await broker_of(node).controller.ensure_topic(GROUP_METADATA_TOPIC)
        for name in ("a1", "a2"):
            await make_topic(node, name)
        for user in ("alice", "bob"):
            await grant(node, user, READ, GROUP, "g")
        await grant(node, "bob", DESCRIBE, TOPIC, "*")
        await grant(node, "alice", DESCRIBE, TOPIC, "a1")

        async def join(user: str, member: str) -> ConsumerGroupHeartbeatResponse:
            client = await as_user(node, user)
            request = ConsumerGroupHeartbeatRequest(
                group_id="g",
                member_id=member * 22,
                member_epoch=0,
                rebalance_timeout_ms=10_000,
                subscribed_topic_regex="a.*",
                topic_partitions=[],
            )
            for _ in range(100):
                answer = await client.ask(request, 1, ConsumerGroupHeartbeatResponse)
                if answer.error_code not in (14, 15, 16):
                    break
                await asyncio.sleep(1)
            return answer

        assert (await join("bob", "B")).error_code == 0
        assert (await join("alice", "A")).error_code == 29
        await grant(node, "bob", DESCRIBE, TOPIC, "a2", permission=Permission.DENY)
        assert (await join("bob", "C")).error_code == 29

    with_broker(scenario)


def test_pages_obey_acls_on_plaintext() -> None:
    """The pages show topics and groups: for those who may describe the cluster, ANONYMOUS too. Two words are for all."""

    async def get(path: str) -> bytes:
        heard = bytearray()
        ended = asyncio.get_running_loop().create_future()

        class Browser(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                heard.extend(data)

            def connection_lost(self, exc: Exception | None) -> None:
                ended.set_result(None)

        transport, _ = await asyncio.get_running_loop().create_connection(Browser, HOST, 9092)
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        await ended
        return bytes(heard)

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "secret-topic")
        for path in ("/", "/metrics"):
            answer = await get(path)
            assert answer.startswith(b"HTTP/1.1 403")
            assert b"secret-topic" not in answer
        assert (await get("/healthz")).endswith(b"\r\n\r\nok\n")
        await grant(node, "ANONYMOUS", DESCRIBE, CLUSTER, "kafka-cluster")
        assert b"secret-topic" in await get("/")

    with_broker(scenario)


def test_every_denial_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Lines about denials are bounded; the count is not, and what was left out is told."""
    caplog.set_level(logging.INFO, "ottla.audit")

    async def scenario(node: SimulatedBroker) -> int:
        await make_topic(node, "t")
        client = await as_user(node, "nobody")
        for _ in range(100):
            await client.ask(produce("t"), 9, ProduceResponse)
        await asyncio.sleep(2)
        await client.ask(produce("t"), 9, ProduceResponse)
        return broker_of(node).audit.denials

    assert with_broker(scenario) == 101
    lines = [record.getMessage() for record in caplog.records if record.name == "ottla.audit"]
    lines = [line for line in lines if "login" not in line and "change" not in line]
    assert 1 < len(lines) < 60
    assert any('"denials_left_out"' in line for line in lines)
    assert '"principal": "User:nobody"' in lines[0]
    assert '"resource": "TOPIC:t"' in lines[0]


def session(user: str = "a", host: str = "10.0.0.1") -> Session:
    made = Session(listener="LOGIN", client_host=host)
    made.principal = f"User:{user}"
    return made


def authorizer_with(*rules: tuple[Pattern, Rule]) -> Authorizer:
    image = ClusterImage(acls={pattern: (rule,) for pattern, rule in rules})
    return Authorizer(lambda: image, AccessSettings(super_users=frozenset({"User:root"})), Audit(lambda: 0.0))


def test_same_user_two_hosts() -> None:
    rule = Rule("User:a", "0:0:0:0:0:0:0:1", READ, Permission.ALLOW)
    authorizer = authorizer_with((Pattern(TOPIC, PatternType.LITERAL, "t"), rule))
    for _ in range(2):
        assert authorizer.allows(session(host="::1"), READ, TOPIC, "t")
        assert not authorizer.allows(session(host="127.0.0.1"), READ, TOPIC, "t")


def test_million_names_bounded() -> None:
    """However many names one client asks about, what is kept of it stays small; long names are not kept."""
    authorizer = authorizer_with()
    asking = session()
    for number in range(100_000):
        authorizer.allows(asking, READ, TOPIC, f"t{number}", is_logged=False)
    assert len(asking.rights.decisions) <= DECISIONS_MAX
    authorizer.allows(asking, READ, TOPIC, "x" * 30_000, is_logged=False)
    assert not any(len(name) > 249 for _, _, name in asking.rights.decisions)


def test_super_users_are_asked_nothing() -> None:
    denied = Rule("User:*", "*", Operation.ALL, Permission.DENY)
    authorizer = authorizer_with((Pattern(TOPIC, PatternType.LITERAL, "*"), denied))
    assert authorizer.allows(session("root"), READ, TOPIC, "t")
    assert not authorizer.allows(session("a"), READ, TOPIC, "t")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["listeners=PLAINTEXT://0.0.0.0:9092", "super.users=User:ANONYMOUS"], "everybody would be a super user"),
        (["super.users=admin"], "super.users: cannot read admin"),
    ],
)
def test_anonymous_super_user_refused(lines: list[str], sentence: str) -> None:
    name = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    with pytest.raises(ConfigError, match=sentence):
        BrokerConfig.from_sources(properties="\n".join([name, *lines]))
    found = BrokerConfig.from_sources(properties=f"{name}\nsuper.users=User:ANONYMOUS;User:CN=a,O=b")
    assert found.access == AccessSettings(super_users=frozenset({"User:ANONYMOUS", "User:CN=a,O=b"}))


def test_an_authorizers_settings_without_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs authorizer\.class\.name"):
        BrokerConfig.from_sources(properties="super.users=User:a")
    with pytest.raises(ConfigError, match="can only be"):
        BrokerConfig.from_sources(properties="authorizer.class.name=com.example.Mine")
    assert BrokerConfig.from_sources().access is None
    opened = BrokerConfig.from_sources(
        properties="authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
        "allow.everyone.if.no.acl.found=true"
    )
    assert opened.access == AccessSettings(allow_if_none=True)


def test_without_an_authorizer_rules_are_disabled() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await node.connect()
        for case in CASES:
            if case.key in (ApiKey.DESCRIBE_ACLS, ApiKey.CREATE_ACLS, ApiKey.DELETE_ACLS):
                answer: Message = await client.send(case.make(Names("t", bytes(16), "g", "x")), 3)
                assert errors_in(answer) == [ErrorCode.SECURITY_DISABLED]

    with_broker(scenario, **{"authorizer.class.name": "", "super.users": ""})
