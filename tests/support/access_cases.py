"""One request of every API about a topic, a group and a transactional id, and what its answer says about rights.

For the matrix of access rules beside Apache Kafka, and for the test that every API asks for something. Requests that would
change what others need come last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.schema import Message
from ottla.protocol.schema import Struct as MessagePart
from ottla.security.acls import Operation, PatternType, Permission, ResourceType


@dataclass(frozen=True, slots=True)
class Names:
    """What one user asks about."""

    topic: str
    topic_id: bytes
    group: str
    transactional_id: str


Make = Callable[[Names], Message]


class Case(NamedTuple):
    """A request, its API and the highest version it is meant for (None: any)."""

    name: str
    key: ApiKey
    make: Make
    version_max: int | None = None
    version_min: int = 0


def _types(key: ApiKey) -> Any:
    return import_module(f"ottla.protocol.messages.{APIS[key].module}")


def _case(key: ApiKey, make: Callable[[Any, Names], Message], name: str = "", **versions: int) -> Case:
    types = _types(key)
    return Case(name or key.name, key, lambda names: make(types, names), **versions)


def batch(**more: Any) -> bytes:
    return bytes(build_batch([Record(0, 1, None, b"v")], **more))


K = ApiKey

CASES: list[Case] = [
    _case(
        K.METADATA,
        lambda t, n: t.MetadataRequest(
            topics=[t.MetadataRequestTopic(name=n.topic)], include_topic_authorized_operations=True
        ),
        version_min=12,
    ),
    _case(
        K.METADATA,
        lambda t, n: t.MetadataRequest(topics=[t.MetadataRequestTopic(name=None, topic_id=n.topic_id)]),
        "METADATA by id",
        version_min=12,
    ),
    _case(
        K.METADATA,
        lambda t, n: t.MetadataRequest(
            topics=[t.MetadataRequestTopic(name=n.topic + "-none")], allow_auto_topic_creation=False
        ),
        "METADATA of none",
        version_min=12,
    ),
    _case(
        K.METADATA,
        lambda t, n: t.MetadataRequest(
            topics=[t.MetadataRequestTopic(name=n.topic)], include_cluster_authorized_operations=True
        ),
        "METADATA v9",
        version_max=9,
    ),
    _case(K.METADATA, lambda t, n: t.MetadataRequest(topics=None), "METADATA of all", version_min=12),
    _case(
        K.DESCRIBE_TOPIC_PARTITIONS,
        lambda t, n: t.DescribeTopicPartitionsRequest(topics=[t.TopicRequest(name=n.topic)]),
    ),
    _case(
        K.PRODUCE,
        lambda t, n: t.ProduceRequest(
            acks=-1,
            timeout_ms=5000,
            topic_data=[
                t.TopicProduceData(
                    name=n.topic, topic_id=n.topic_id, partition_data=[t.PartitionProduceData(index=0, records=batch())]
                )
            ],
        ),
    ),
    _case(
        K.PRODUCE,
        lambda t, n: t.ProduceRequest(
            acks=1,
            timeout_ms=5000,
            topic_data=[
                t.TopicProduceData(name=n.topic, partition_data=[t.PartitionProduceData(index=0, records=batch())])
            ],
        ),
        "PRODUCE v9",
        version_max=9,
    ),
    _case(
        K.PRODUCE,
        lambda t, n: t.ProduceRequest(
            transactional_id=n.transactional_id,
            acks=-1,
            timeout_ms=5000,
            topic_data=[
                t.TopicProduceData(
                    name=n.topic,
                    partition_data=[
                        t.PartitionProduceData(
                            index=0,
                            records=batch(transactional=True, producer_id=987654, producer_epoch=0, base_sequence=0),
                        )
                    ],
                )
            ],
        ),
        "PRODUCE transactional",
        version_max=9,
    ),
    _case(
        K.FETCH,
        lambda t, n: t.FetchRequest(
            replica_id=-1,
            max_wait_ms=0,
            min_bytes=0,
            session_epoch=-1,
            topics=[
                t.FetchTopic(
                    topic=n.topic,
                    topic_id=n.topic_id,
                    partitions=[t.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1000)],
                )
            ],
        ),
    ),
    _case(
        K.FETCH,
        lambda t, n: t.FetchRequest(
            replica_id=-1,
            max_wait_ms=0,
            min_bytes=0,
            session_epoch=-1,
            topics=[
                t.FetchTopic(
                    topic=n.topic, partitions=[t.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1000)]
                )
            ],
        ),
        "FETCH v12",
        version_max=12,
    ),
    _case(
        K.LIST_OFFSETS,
        lambda t, n: t.ListOffsetsRequest(
            replica_id=-1,
            topics=[
                t.ListOffsetsTopic(name=n.topic, partitions=[t.ListOffsetsPartition(partition_index=0, timestamp=-1)])
            ],
        ),
    ),
    _case(
        K.OFFSET_FOR_LEADER_EPOCH,
        lambda t, n: t.OffsetForLeaderEpochRequest(
            replica_id=-1,
            topics=[
                t.OffsetForLeaderTopic(
                    topic=n.topic,
                    partitions=[t.OffsetForLeaderPartition(partition=0, current_leader_epoch=-1, leader_epoch=0)],
                )
            ],
        ),
    ),
    _case(
        K.DESCRIBE_PRODUCERS,
        lambda t, n: t.DescribeProducersRequest(topics=[t.TopicRequest(name=n.topic, partition_indexes=[0])]),
    ),
    _case(K.INIT_PRODUCER_ID, lambda t, n: t.InitProducerIdRequest(transactional_id=None), version_max=5),
    _case(
        K.INIT_PRODUCER_ID,
        lambda t, n: t.InitProducerIdRequest(transactional_id=n.transactional_id, transaction_timeout_ms=10_000),
        "INIT_PRODUCER_ID transactional",
        version_max=5,
    ),
    _case(K.FIND_COORDINATOR, lambda t, n: t.FindCoordinatorRequest(key_type=0, coordinator_keys=[n.group])),
    _case(
        K.FIND_COORDINATOR,
        lambda t, n: t.FindCoordinatorRequest(key_type=1, coordinator_keys=[n.transactional_id]),
        "FIND_COORDINATOR of transactions",
    ),
    _case(
        K.FIND_COORDINATOR,
        lambda t, n: t.FindCoordinatorRequest(key=n.group, key_type=0),
        "FIND_COORDINATOR v3",
        version_max=3,
    ),
    _case(
        K.JOIN_GROUP,
        lambda t, n: t.JoinGroupRequest(
            group_id=n.group,
            session_timeout_ms=10_000,
            rebalance_timeout_ms=10_000,
            member_id="nobody",
            protocol_type="consumer",
            protocols=[t.JoinGroupRequestProtocol(name="range", metadata=b"")],
        ),
    ),
    _case(
        K.SYNC_GROUP,
        lambda t, n: t.SyncGroupRequest(
            group_id=n.group, generation_id=1, member_id="nobody", protocol_type="consumer", protocol_name="range"
        ),
    ),
    _case(K.HEARTBEAT, lambda t, n: t.HeartbeatRequest(group_id=n.group, generation_id=1, member_id="nobody")),
    _case(
        K.LEAVE_GROUP,
        lambda t, n: t.LeaveGroupRequest(group_id=n.group, members=[t.MemberIdentity(member_id="nobody")]),
    ),
    _case(
        K.OFFSET_COMMIT,
        lambda t, n: t.OffsetCommitRequest(
            group_id=n.group,
            generation_id_or_member_epoch=-1,
            topics=[
                t.OffsetCommitRequestTopic(
                    name=n.topic, partitions=[t.OffsetCommitRequestPartition(partition_index=0, committed_offset=0)]
                )
            ],
        ),
        version_max=9,
    ),
    _case(
        K.OFFSET_COMMIT,
        lambda t, n: t.OffsetCommitRequest(
            group_id=n.group,
            generation_id_or_member_epoch=-1,
            topics=[
                t.OffsetCommitRequestTopic(
                    topic_id=n.topic_id,
                    partitions=[t.OffsetCommitRequestPartition(partition_index=0, committed_offset=0)],
                )
            ],
        ),
        "OFFSET_COMMIT by id",
        version_min=10,
    ),
    _case(
        K.OFFSET_FETCH,
        lambda t, n: t.OffsetFetchRequest(
            groups=[
                t.OffsetFetchRequestGroup(
                    group_id=n.group, topics=[t.OffsetFetchRequestTopics(name=n.topic, partition_indexes=[0])]
                )
            ]
        ),
        version_max=9,
        version_min=8,
    ),
    _case(
        K.OFFSET_FETCH,
        lambda t, n: t.OffsetFetchRequest(groups=[t.OffsetFetchRequestGroup(group_id=n.group, topics=None)]),
        "OFFSET_FETCH of all",
        version_max=9,
        version_min=8,
    ),
    _case(
        K.OFFSET_FETCH,
        lambda t, n: t.OffsetFetchRequest(
            group_id=n.group, topics=[t.OffsetFetchRequestTopic(name=n.topic, partition_indexes=[0])]
        ),
        "OFFSET_FETCH v7",
        version_max=7,
    ),
    _case(
        K.DESCRIBE_GROUPS, lambda t, n: t.DescribeGroupsRequest(groups=[n.group], include_authorized_operations=True)
    ),
    _case(K.LIST_GROUPS, lambda t, n: t.ListGroupsRequest()),
    _case(
        K.CONSUMER_GROUP_HEARTBEAT,
        lambda t, n: t.ConsumerGroupHeartbeatRequest(
            group_id=n.group + "-c",
            member_id="A" * 22,
            member_epoch=7,
            rebalance_timeout_ms=10_000,
            subscribed_topic_names=[n.topic],
            topic_partitions=[],
        ),
    ),
    _case(K.CONSUMER_GROUP_DESCRIBE, lambda t, n: t.ConsumerGroupDescribeRequest(group_ids=[n.group])),
    _case(K.SHARE_GROUP_DESCRIBE, lambda t, n: t.ShareGroupDescribeRequest(group_ids=[n.group])),
    _case(K.STREAMS_GROUP_DESCRIBE, lambda t, n: t.StreamsGroupDescribeRequest(group_ids=[n.group])),
    _case(
        K.DESCRIBE_SHARE_GROUP_OFFSETS,
        lambda t, n: t.DescribeShareGroupOffsetsRequest(
            groups=[
                t.DescribeShareGroupOffsetsRequestGroup(
                    group_id=n.group,
                    topics=[t.DescribeShareGroupOffsetsRequestTopic(topic_name=n.topic, partitions=[0])],
                )
            ]
        ),
    ),
    _case(
        K.ADD_PARTITIONS_TO_TXN,
        lambda t, n: t.AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=n.transactional_id,
            v3_and_below_producer_id=987654,
            v3_and_below_producer_epoch=0,
            v3_and_below_topics=[t.AddPartitionsToTxnTopic(name=n.topic, partitions=[0])],
        ),
        version_max=3,
    ),
    _case(
        K.ADD_OFFSETS_TO_TXN,
        lambda t, n: t.AddOffsetsToTxnRequest(
            transactional_id=n.transactional_id, producer_id=987654, producer_epoch=0, group_id=n.group
        ),
    ),
    _case(
        K.TXN_OFFSET_COMMIT,
        lambda t, n: t.TxnOffsetCommitRequest(
            transactional_id=n.transactional_id,
            group_id=n.group,
            producer_id=987654,
            producer_epoch=0,
            topics=[
                t.TxnOffsetCommitRequestTopic(
                    name=n.topic, partitions=[t.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=0)]
                )
            ],
        ),
        version_max=3,
    ),
    _case(
        K.END_TXN,
        lambda t, n: t.EndTxnRequest(
            transactional_id=n.transactional_id, producer_id=987654, producer_epoch=0, committed=False
        ),
        version_max=3,
    ),
    _case(
        K.DESCRIBE_TRANSACTIONS,
        lambda t, n: t.DescribeTransactionsRequest(transactional_ids=[n.transactional_id + "-none"]),
    ),
    _case(K.LIST_TRANSACTIONS, lambda t, n: t.ListTransactionsRequest()),
    _case(
        K.WRITE_TXN_MARKERS,
        lambda t, n: t.WriteTxnMarkersRequest(
            markers=[
                t.WritableTxnMarker(
                    producer_id=987654, topics=[t.WritableTxnMarkerTopic(name=n.topic, partition_indexes=[0])]
                )
            ]
        ),
    ),
    _case(
        K.DESCRIBE_CONFIGS,
        lambda t, n: t.DescribeConfigsRequest(
            resources=[
                t.DescribeConfigsResource(resource_type=2, resource_name=n.topic),
                t.DescribeConfigsResource(resource_type=4, resource_name="1"),
                t.DescribeConfigsResource(resource_type=32, resource_name=n.group),
            ]
        ),
    ),
    _case(
        K.INCREMENTAL_ALTER_CONFIGS,
        lambda t, n: t.IncrementalAlterConfigsRequest(
            validate_only=True,
            resources=[
                t.AlterConfigsResource(
                    resource_type=2,
                    resource_name=n.topic,
                    configs=[t.AlterableConfig(name="retention.ms", config_operation=0, value="1000")],
                ),
                t.AlterConfigsResource(
                    resource_type=32,
                    resource_name=n.group,
                    configs=[t.AlterableConfig(name="consumer.session.timeout.ms", config_operation=0, value="50000")],
                ),
            ],
        ),
    ),
    _case(
        K.ALTER_CONFIGS,
        lambda t, n: t.AlterConfigsRequest(
            validate_only=True,
            resources=[
                t.AlterConfigsResource(
                    resource_type=2,
                    resource_name=n.topic,
                    configs=[t.AlterableConfig(name="retention.ms", value="1000")],
                )
            ],
        ),
    ),
    _case(K.LIST_CONFIG_RESOURCES, lambda t, n: t.ListConfigResourcesRequest(resource_types=[16])),
    _case(
        K.ALTER_REPLICA_LOG_DIRS,
        lambda t, n: t.AlterReplicaLogDirsRequest(
            dirs=[
                t.AlterReplicaLogDir(path="/nowhere", topics=[t.AlterReplicaLogDirTopic(name=n.topic, partitions=[0])])
            ]
        ),
    ),
    _case(K.DESCRIBE_LOG_DIRS, lambda t, n: t.DescribeLogDirsRequest(topics=[])),
    _case(
        K.LIST_PARTITION_REASSIGNMENTS, lambda t, n: t.ListPartitionReassignmentsRequest(timeout_ms=1000, topics=None)
    ),
    _case(K.DESCRIBE_CLUSTER, lambda t, n: t.DescribeClusterRequest(include_cluster_authorized_operations=True)),
    _case(
        K.DESCRIBE_CLIENT_QUOTAS,
        lambda t, n: t.DescribeClientQuotasRequest(
            components=[t.ComponentData(entity_type="user", match_type=0, match="nobody-has-this")]
        ),
    ),
    _case(
        K.ALTER_CLIENT_QUOTAS,
        lambda t, n: t.AlterClientQuotasRequest(
            entries=[
                t.AlterClientQuotasRequestEntryData(
                    entity=[t.EntityData(entity_type="user", entity_name="nobody-has-this")],
                    ops=[t.OpData(key="producer_byte_rate", value=1000.0)],
                )
            ],
            validate_only=True,
        ),
    ),
    _case(
        K.DESCRIBE_USER_SCRAM_CREDENTIALS,
        lambda t, n: t.DescribeUserScramCredentialsRequest(users=[t.UserName(name="nobody-has-this")]),
    ),
    _case(
        K.ALTER_USER_SCRAM_CREDENTIALS,
        lambda t, n: t.AlterUserScramCredentialsRequest(
            deletions=[t.ScramCredentialDeletion(name="nobody-has-this", mechanism=1)]
        ),
    ),
    _case(
        K.CREATE_DELEGATION_TOKEN,
        lambda t, n: t.CreateDelegationTokenRequest(
            owner_principal_type="User", owner_principal_name="somebody-else", max_lifetime_ms=1000
        ),
    ),
    _case(K.RENEW_DELEGATION_TOKEN, lambda t, n: t.RenewDelegationTokenRequest(hmac=b"none", renew_period_ms=1000)),
    _case(
        K.EXPIRE_DELEGATION_TOKEN, lambda t, n: t.ExpireDelegationTokenRequest(hmac=b"none", expiry_time_period_ms=1000)
    ),
    _case(K.DESCRIBE_DELEGATION_TOKEN, lambda t, n: t.DescribeDelegationTokenRequest(owners=None)),
    _case(
        K.DESCRIBE_ACLS,
        lambda t, n: t.DescribeAclsRequest(
            resource_type_filter=2,
            resource_name_filter="no-such-topic",
            pattern_type_filter=3,
            principal_filter=None,
            host_filter=None,
            operation=1,
            permission_type=1,
        ),
    ),
    _case(
        K.CREATE_ACLS,
        lambda t, n: t.CreateAclsRequest(
            creations=[
                t.AclCreation(
                    resource_type=2,
                    resource_name="",
                    resource_pattern_type=3,
                    principal="User:x",
                    host="*",
                    operation=3,
                    permission_type=3,
                )
            ]
        ),
    ),
    _case(
        K.DELETE_ACLS,
        lambda t, n: t.DeleteAclsRequest(
            filters=[
                t.DeleteAclsFilter(
                    resource_type_filter=2,
                    resource_name_filter="no-such-topic",
                    pattern_type_filter=3,
                    principal_filter=None,
                    host_filter=None,
                    operation=1,
                    permission_type=1,
                )
            ]
        ),
    ),
    _case(
        K.ELECT_LEADERS,
        lambda t, n: t.ElectLeadersRequest(
            election_type=0, timeout_ms=1000, topic_partitions=[t.TopicPartitions(topic=n.topic, partitions=[0])]
        ),
    ),
    _case(
        K.CREATE_TOPICS,
        lambda t, n: t.CreateTopicsRequest(
            timeout_ms=1000,
            validate_only=True,
            topics=[t.CreatableTopic(name=n.topic, num_partitions=1, replication_factor=1)],
        ),
    ),
    _case(
        K.CREATE_PARTITIONS,
        lambda t, n: t.CreatePartitionsRequest(
            timeout_ms=1000,
            validate_only=True,
            topics=[t.CreatePartitionsTopic(name=n.topic, count=1, assignments=None)],
        ),
    ),
    _case(
        K.DELETE_RECORDS,
        lambda t, n: t.DeleteRecordsRequest(
            timeout_ms=1000,
            topics=[
                t.DeleteRecordsTopic(name=n.topic, partitions=[t.DeleteRecordsPartition(partition_index=0, offset=0)])
            ],
        ),
    ),
    _case(
        K.OFFSET_DELETE,
        lambda t, n: t.OffsetDeleteRequest(
            group_id=n.group,
            topics=[
                t.OffsetDeleteRequestTopic(name=n.topic, partitions=[t.OffsetDeleteRequestPartition(partition_index=7)])
            ],
        ),
    ),
    _case(K.DELETE_GROUPS, lambda t, n: t.DeleteGroupsRequest(groups_names=[n.group + "-none"])),
    _case(
        K.DELETE_TOPICS,
        lambda t, n: t.DeleteTopicsRequest(timeout_ms=1000, topics=[t.DeleteTopicState(name=n.topic + "-none")]),
    ),
    _case(
        K.DELETE_TOPICS,
        lambda t, n: t.DeleteTopicsRequest(
            timeout_ms=1000, topics=[t.DeleteTopicState(name=None, topic_id=b"\x07" * 16)]
        ),
        "DELETE_TOPICS by unknown id",
    ),
]
"""All of them, in the order in which they are asked."""


class Grant(NamedTuple):
    """One rule for the matrix; names are prefixes of the user's own unless `name` says otherwise."""

    resource_type: ResourceType
    operation: Operation
    permission: Permission = Permission.ALLOW
    pattern_type: PatternType = PatternType.LITERAL
    name: str = ""
    host: str = "*"


def own_name(grant: Grant, names: Names) -> str:
    """The name of the resource that a grant is about."""
    if grant.name:
        return grant.name
    return {
        ResourceType.TOPIC: names.topic,
        ResourceType.GROUP: names.group,
        ResourceType.CLUSTER: "kafka-cluster",
        ResourceType.TRANSACTIONAL_ID: names.transactional_id,
    }[grant.resource_type]


def errors_in(message: Any) -> list[int]:
    """Every error code in an answer, in order of place."""
    return list(_errors(message))


def _errors(part: Any) -> Iterator[int]:
    for field in part.__slots__:
        value = getattr(part, field)
        if field.endswith("error_code"):
            yield int(value)
        elif isinstance(value, MessagePart):
            yield from _errors(value)
        elif isinstance(value, list):
            for element in value:
                if isinstance(element, MessagePart):
                    yield from _errors(element)
