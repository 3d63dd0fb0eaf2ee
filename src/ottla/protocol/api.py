"""Which APIs exist, in which versions, and which of them this broker answers.

`APIS` is Kafka 4.4 without the keys that only a KRaft quorum speaks (52-54, 59, 62, 63, 67, 70, 73, 80-82, 94) and
without 4-7, which have had no versions since Kafka 4.0. `SERVED` is the part of it that is complete here; nothing is
advertised before it is served. Knows no message classes: `ApiSpec` loads them when asked.

Traps, each of them met by some client:
* Produce is advertised from version 0 although 0-2 are refused: librdkafka would otherwise switch features off
  (KAFKA-18659).
* The response to ApiVersions has header version 0 whatever its own version, so that a client can read the
  answer to a version the broker does not know (KIP-511).
* Version 3 of the ApiVersions response must not mention features whose lowest version is 0 (KAFKA-17011).
* The highest version of InitProducerId is unstable in Kafka 4.4 (two-phase commit, KIP-939): it exists, and is
  neither accepted nor advertised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from importlib import import_module
from typing import Final, NamedTuple

from ottla.protocol.schema import Message


class ApiKey(IntEnum):
    """Every request type of Kafka 4.4, served here or not: the names are needed to say what was refused."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    LEADER_AND_ISR = 4
    STOP_REPLICA = 5
    UPDATE_METADATA = 6
    CONTROLLED_SHUTDOWN = 7
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    WRITE_TXN_MARKERS = 27
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_ACLS = 29
    CREATE_ACLS = 30
    DELETE_ACLS = 31
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    ALTER_REPLICA_LOG_DIRS = 34
    DESCRIBE_LOG_DIRS = 35
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    CREATE_DELEGATION_TOKEN = 38
    RENEW_DELEGATION_TOKEN = 39
    EXPIRE_DELEGATION_TOKEN = 40
    DESCRIBE_DELEGATION_TOKEN = 41
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    ALTER_PARTITION_REASSIGNMENTS = 45
    LIST_PARTITION_REASSIGNMENTS = 46
    OFFSET_DELETE = 47
    DESCRIBE_CLIENT_QUOTAS = 48
    ALTER_CLIENT_QUOTAS = 49
    DESCRIBE_USER_SCRAM_CREDENTIALS = 50
    ALTER_USER_SCRAM_CREDENTIALS = 51
    VOTE = 52
    BEGIN_QUORUM_EPOCH = 53
    END_QUORUM_EPOCH = 54
    DESCRIBE_QUORUM = 55
    ALTER_PARTITION = 56
    UPDATE_FEATURES = 57
    ENVELOPE = 58
    FETCH_SNAPSHOT = 59
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    BROKER_REGISTRATION = 62
    BROKER_HEARTBEAT = 63
    UNREGISTER_BROKER = 64
    DESCRIBE_TRANSACTIONS = 65
    LIST_TRANSACTIONS = 66
    ALLOCATE_PRODUCER_IDS = 67
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    CONTROLLER_REGISTRATION = 70
    GET_TELEMETRY_SUBSCRIPTIONS = 71
    PUSH_TELEMETRY = 72
    ASSIGN_REPLICAS_TO_DIRS = 73
    LIST_CONFIG_RESOURCES = 74
    DESCRIBE_TOPIC_PARTITIONS = 75
    SHARE_GROUP_HEARTBEAT = 76
    SHARE_GROUP_DESCRIBE = 77
    SHARE_FETCH = 78
    SHARE_ACKNOWLEDGE = 79
    ADD_RAFT_VOTER = 80
    REMOVE_RAFT_VOTER = 81
    UPDATE_RAFT_VOTER = 82
    INITIALIZE_SHARE_GROUP_STATE = 83
    READ_SHARE_GROUP_STATE = 84
    WRITE_SHARE_GROUP_STATE = 85
    DELETE_SHARE_GROUP_STATE = 86
    READ_SHARE_GROUP_STATE_SUMMARY = 87
    STREAMS_GROUP_HEARTBEAT = 88
    STREAMS_GROUP_DESCRIBE = 89
    DESCRIBE_SHARE_GROUP_OFFSETS = 90
    ALTER_SHARE_GROUP_OFFSETS = 91
    DELETE_SHARE_GROUP_OFFSETS = 92
    STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE = 93
    UNREGISTER_CONTROLLER = 94


class ApiSpec(NamedTuple):
    """One API: its versions (inclusive), and where its messages live.

    `flexible_from` is the first version with compact lengths and tagged fields, None if there is none.
    `unstable` says that `max_version` may still change in a later Kafka.
    """

    key: ApiKey
    name: str
    min_version: int
    max_version: int
    flexible_from: int | None
    unstable: bool = False

    @property
    def module(self) -> str:
        """The module of `ottla.protocol.messages` that holds the request and the response."""
        return self.key.name.lower()

    def request_class(self) -> type[Message]:
        """Import the module of this API and return its request class."""
        return self._message_class("Request")

    def response_class(self) -> type[Message]:
        """Import the module of this API and return its response class."""
        return self._message_class("Response")

    def is_flexible(self, version: int) -> bool:
        return self.flexible_from is not None and version >= self.flexible_from

    def _message_class(self, kind: str) -> type[Message]:
        found: type[Message] = getattr(import_module(f"ottla.protocol.messages.{self.module}"), self.name + kind)
        return found


_ROWS: Final = (
    ApiSpec(ApiKey.PRODUCE, "Produce", 3, 13, 9),
    ApiSpec(ApiKey.FETCH, "Fetch", 4, 18, 12),
    ApiSpec(ApiKey.LIST_OFFSETS, "ListOffsets", 1, 11, 6),
    ApiSpec(ApiKey.METADATA, "Metadata", 0, 13, 9),
    ApiSpec(ApiKey.OFFSET_COMMIT, "OffsetCommit", 2, 10, 8),
    ApiSpec(ApiKey.OFFSET_FETCH, "OffsetFetch", 1, 10, 6),
    ApiSpec(ApiKey.FIND_COORDINATOR, "FindCoordinator", 0, 6, 3),
    ApiSpec(ApiKey.JOIN_GROUP, "JoinGroup", 0, 9, 6),
    ApiSpec(ApiKey.HEARTBEAT, "Heartbeat", 0, 4, 4),
    ApiSpec(ApiKey.LEAVE_GROUP, "LeaveGroup", 0, 5, 4),
    ApiSpec(ApiKey.SYNC_GROUP, "SyncGroup", 0, 5, 4),
    ApiSpec(ApiKey.DESCRIBE_GROUPS, "DescribeGroups", 0, 6, 5),
    ApiSpec(ApiKey.LIST_GROUPS, "ListGroups", 0, 5, 3),
    ApiSpec(ApiKey.SASL_HANDSHAKE, "SaslHandshake", 0, 1, None),
    ApiSpec(ApiKey.API_VERSIONS, "ApiVersions", 0, 5, 3),
    ApiSpec(ApiKey.CREATE_TOPICS, "CreateTopics", 2, 7, 5),
    ApiSpec(ApiKey.DELETE_TOPICS, "DeleteTopics", 1, 6, 4),
    ApiSpec(ApiKey.DELETE_RECORDS, "DeleteRecords", 0, 2, 2),
    ApiSpec(ApiKey.INIT_PRODUCER_ID, "InitProducerId", 0, 6, 2, unstable=True),
    ApiSpec(ApiKey.OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", 2, 4, 4),
    ApiSpec(ApiKey.ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", 0, 5, 3),
    ApiSpec(ApiKey.ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", 0, 4, 3),
    ApiSpec(ApiKey.END_TXN, "EndTxn", 0, 5, 3),
    ApiSpec(ApiKey.WRITE_TXN_MARKERS, "WriteTxnMarkers", 1, 2, 1),
    ApiSpec(ApiKey.TXN_OFFSET_COMMIT, "TxnOffsetCommit", 0, 6, 3),
    ApiSpec(ApiKey.DESCRIBE_ACLS, "DescribeAcls", 1, 3, 2),
    ApiSpec(ApiKey.CREATE_ACLS, "CreateAcls", 1, 3, 2),
    ApiSpec(ApiKey.DELETE_ACLS, "DeleteAcls", 1, 3, 2),
    ApiSpec(ApiKey.DESCRIBE_CONFIGS, "DescribeConfigs", 1, 4, 4),
    ApiSpec(ApiKey.ALTER_CONFIGS, "AlterConfigs", 0, 2, 2),
    ApiSpec(ApiKey.ALTER_REPLICA_LOG_DIRS, "AlterReplicaLogDirs", 1, 2, 2),
    ApiSpec(ApiKey.DESCRIBE_LOG_DIRS, "DescribeLogDirs", 1, 5, 2),
    ApiSpec(ApiKey.SASL_AUTHENTICATE, "SaslAuthenticate", 0, 2, 2),
    ApiSpec(ApiKey.CREATE_PARTITIONS, "CreatePartitions", 0, 3, 2),
    ApiSpec(ApiKey.CREATE_DELEGATION_TOKEN, "CreateDelegationToken", 1, 3, 2),
    ApiSpec(ApiKey.RENEW_DELEGATION_TOKEN, "RenewDelegationToken", 1, 2, 2),
    ApiSpec(ApiKey.EXPIRE_DELEGATION_TOKEN, "ExpireDelegationToken", 1, 2, 2),
    ApiSpec(ApiKey.DESCRIBE_DELEGATION_TOKEN, "DescribeDelegationToken", 1, 3, 2),
    ApiSpec(ApiKey.DELETE_GROUPS, "DeleteGroups", 0, 3, 2),
    ApiSpec(ApiKey.ELECT_LEADERS, "ElectLeaders", 0, 2, 2),
    ApiSpec(ApiKey.INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", 0, 1, 1),
    ApiSpec(ApiKey.ALTER_PARTITION_REASSIGNMENTS, "AlterPartitionReassignments", 0, 1, 0),
    ApiSpec(ApiKey.LIST_PARTITION_REASSIGNMENTS, "ListPartitionReassignments", 0, 0, 0),
    ApiSpec(ApiKey.OFFSET_DELETE, "OffsetDelete", 0, 0, None),
    ApiSpec(ApiKey.DESCRIBE_CLIENT_QUOTAS, "DescribeClientQuotas", 0, 1, 1),
    ApiSpec(ApiKey.ALTER_CLIENT_QUOTAS, "AlterClientQuotas", 0, 1, 1),
    ApiSpec(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, "DescribeUserScramCredentials", 0, 0, 0),
    ApiSpec(ApiKey.ALTER_USER_SCRAM_CREDENTIALS, "AlterUserScramCredentials", 0, 0, 0),
    ApiSpec(ApiKey.DESCRIBE_QUORUM, "DescribeQuorum", 0, 2, 0),
    ApiSpec(ApiKey.ALTER_PARTITION, "AlterPartition", 2, 3, 0),
    ApiSpec(ApiKey.UPDATE_FEATURES, "UpdateFeatures", 0, 2, 0),
    ApiSpec(ApiKey.ENVELOPE, "Envelope", 0, 0, 0),
    ApiSpec(ApiKey.DESCRIBE_CLUSTER, "DescribeCluster", 0, 2, 0),
    ApiSpec(ApiKey.DESCRIBE_PRODUCERS, "DescribeProducers", 0, 0, 0),
    ApiSpec(ApiKey.UNREGISTER_BROKER, "UnregisterBroker", 0, 0, 0),
    ApiSpec(ApiKey.DESCRIBE_TRANSACTIONS, "DescribeTransactions", 0, 0, 0),
    ApiSpec(ApiKey.LIST_TRANSACTIONS, "ListTransactions", 0, 2, 0),
    ApiSpec(ApiKey.CONSUMER_GROUP_HEARTBEAT, "ConsumerGroupHeartbeat", 0, 1, 0),
    ApiSpec(ApiKey.CONSUMER_GROUP_DESCRIBE, "ConsumerGroupDescribe", 0, 1, 0),
    ApiSpec(ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, "GetTelemetrySubscriptions", 0, 0, 0),
    ApiSpec(ApiKey.PUSH_TELEMETRY, "PushTelemetry", 0, 0, 0),
    ApiSpec(ApiKey.LIST_CONFIG_RESOURCES, "ListConfigResources", 0, 1, 0),
    ApiSpec(ApiKey.DESCRIBE_TOPIC_PARTITIONS, "DescribeTopicPartitions", 0, 0, 0),
    ApiSpec(ApiKey.SHARE_GROUP_HEARTBEAT, "ShareGroupHeartbeat", 1, 1, 0),
    ApiSpec(ApiKey.SHARE_GROUP_DESCRIBE, "ShareGroupDescribe", 1, 1, 0),
    ApiSpec(ApiKey.SHARE_FETCH, "ShareFetch", 1, 2, 0),
    ApiSpec(ApiKey.SHARE_ACKNOWLEDGE, "ShareAcknowledge", 1, 2, 0),
    ApiSpec(ApiKey.INITIALIZE_SHARE_GROUP_STATE, "InitializeShareGroupState", 0, 0, 0),
    ApiSpec(ApiKey.READ_SHARE_GROUP_STATE, "ReadShareGroupState", 0, 0, 0),
    ApiSpec(ApiKey.WRITE_SHARE_GROUP_STATE, "WriteShareGroupState", 0, 1, 0),
    ApiSpec(ApiKey.DELETE_SHARE_GROUP_STATE, "DeleteShareGroupState", 0, 0, 0),
    ApiSpec(ApiKey.READ_SHARE_GROUP_STATE_SUMMARY, "ReadShareGroupStateSummary", 0, 1, 0),
    ApiSpec(ApiKey.STREAMS_GROUP_HEARTBEAT, "StreamsGroupHeartbeat", 0, 1, 0),
    ApiSpec(ApiKey.STREAMS_GROUP_DESCRIBE, "StreamsGroupDescribe", 0, 1, 0),
    ApiSpec(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS, "DescribeShareGroupOffsets", 0, 1, 0),
    ApiSpec(ApiKey.ALTER_SHARE_GROUP_OFFSETS, "AlterShareGroupOffsets", 0, 0, 0),
    ApiSpec(ApiKey.DELETE_SHARE_GROUP_OFFSETS, "DeleteShareGroupOffsets", 0, 0, 0),
    ApiSpec(ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE, "StreamsGroupTopologyDescriptionUpdate", 0, 0, 0),
)

#: Everything we can encode and decode.
APIS: Final[Mapping[ApiKey, ApiSpec]] = {spec.key: spec for spec in _ROWS}

#: Kafka 4.4's full ranges, unstable versions included.
VERSIONS: Final[Mapping[ApiKey, tuple[int, int]]] = {spec.key: (spec.min_version, spec.max_version) for spec in _ROWS}

# fmt: off
_SERVED_KEYS: Final = (
    0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35,
    36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 55, 57, 58, 60, 61, 64, 65, 66, 68, 69, 71, 72, 74, 75,
    76, 77, 78, 79, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93,
)
# fmt: on

#: What this broker answers, and in which versions; requests in others are refused. Ordered by key.
SERVED: Final[Mapping[ApiKey, tuple[int, int]]] = {
    spec.key: (spec.min_version, spec.max_version - spec.unstable)
    for spec in (APIS[ApiKey(key)] for key in _SERVED_KEYS)
}

#: Features as (name, lowest, highest level); each is finalized at its highest until UpdateFeatures says otherwise.
FEATURES: Final = (
    ("group.version", 0, 1),
    ("share.version", 0, 1),
    ("streams.version", 0, 1),
    ("transaction.version", 0, 2),
)

#: What the ApiVersions response says. Differs from `SERVED` in Produce, see above, and in what only brokers send.
ADVERTISED: Final[Mapping[ApiKey, tuple[int, int]]] = {
    key: (0, versions[1]) if key == ApiKey.PRODUCE else versions
    for key, versions in SERVED.items()
    if key != ApiKey.ENVELOPE
}

#: Advertised only while somebody wants client metrics; clients that do not see them push nothing (KIP-714).
TELEMETRY: Final = frozenset({ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, ApiKey.PUSH_TELEMETRY})


def is_served(key: int, version: int) -> bool:
    """Return whether this broker answers requests of this key and version."""
    versions = SERVED.get(key)  # type: ignore[call-overload]  # an int finds its ApiKey: equal, and hashed alike
    return versions is not None and versions[0] <= version <= versions[1]


def request_header_version(key: int, version: int) -> int:
    """Return 2 (with tagged fields) or 1.

    A version above the highest known one is taken to be flexible like its predecessors: ApiVersions requests of the
    future must be understood well enough to answer UNSUPPORTED_VERSION.
    """
    return 2 if APIS[ApiKey(key)].is_flexible(version) else 1


def response_header_version(key: int, version: int) -> int:
    """Return 1 (with tagged fields) or 0; always 0 for ApiVersions."""
    return 1 if key != ApiKey.API_VERSIONS and APIS[ApiKey(key)].is_flexible(version) else 0


def visible_features(version: int, features: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return those (name, lowest, highest) supported features that an ApiVersions response of `version` may carry.

    Clients older than version 4 fail on a lowest version of 0 (KAFKA-17011), and before version 3 there were none.
    """
    if version < 3:
        return []
    return [feature for feature in features if version >= 4 or feature[1] > 0]


def common_version(theirs: Mapping[int, tuple[int, int]], key: ApiKey, *, at_most: int | None = None) -> int | None:
    """Return the highest version of an API that the peer and this library speak; None if there is none.

    `theirs` has the lowest and highest version by API key, `at_most` is a bound of the caller's.
    """
    spec = APIS[key]
    span = theirs.get(key)
    if span is None:
        return None
    highest = min(spec.max_version - spec.unstable, span[1])
    if at_most is not None:
        highest = min(highest, at_most)
    return highest if highest >= max(span[0], spec.min_version) else None
