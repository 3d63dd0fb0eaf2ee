"""What admin calls take and return: plain values, named as in Kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ottla.client._core.metadata import Node
from ottla.client.admin_settings import ConfigValue
from ottla.types import TopicPartition

__all__ = ["Node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopic:
    """A topic to make.

    Attributes:
        partitions: how many; None for the brokers' `num.partitions`.
        replication_factor: None for the brokers' `default.replication.factor`.
        replicas: broker ids of each partition, the leader first; instead of the two above.
        configs: durations and sizes in words, too: {"retention.ms": "1d"}.
    """

    name: str
    partitions: int | None = None
    replication_factor: int | None = None
    replicas: Sequence[Sequence[int]] | None = None
    configs: Mapping[str, ConfigValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicListing:
    """A topic's name and id; `topic_id` is text as Kafka's tools print it, "" where the broker has none."""

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    is_internal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionDescription:
    """One partition; `leader` is a broker id or None.

    Attributes:
        eligible_leaders: replicas that may lead although they are not in sync (KIP-966); empty where unknown.
    """

    partition: int
    leader: int | None
    leader_epoch: int
    replicas: tuple[int, ...]
    in_sync_replicas: tuple[int, ...]
    offline_replicas: tuple[int, ...]
    eligible_leaders: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """A topic and its partitions, in order."""

    name: str
    topic_id: str
    is_internal: bool
    partitions: tuple[PartitionDescription, ...]
    authorized_operations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntry:
    """One value of a configuration.

    Attributes:
        value: text as the broker holds it; None for a secret, or where there is none.
        source: "dynamic-topic", "dynamic-broker", "dynamic-default-broker", "static-broker", "default", "group",
            "dynamic-broker-logger", "client-metrics" or "unknown".
        type: "boolean", "string", "int", "short", "long", "double", "list", "class", "password" or "unknown".
        synonyms: where the value comes from and what it hides, strongest first: (key, value, source).
    """

    name: str
    value: str | None
    source: str
    is_default: bool
    is_sensitive: bool
    is_read_only: bool
    type: str = "unknown"
    documentation: str | None = None
    synonyms: tuple[tuple[str, str | None, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupListing:
    """A group; `type` is "classic", "consumer", "share", "streams" or "" where the broker does not say."""

    group_id: str
    type: str
    state: str
    protocol_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDescription:
    """A member of a group.

    Attributes:
        assignment: the partitions it has; for a streams group its active tasks as (subtopology, partition).
        target: those it is to have next, where the broker says it.
        epoch: of a member of the newer protocols; None for a classic one.
        upgraded: True for a member that speaks the newer protocol, False for a classic one; None where unknown.
    """

    member_id: str
    group_instance_id: str | None
    client_id: str
    host: str
    assignment: tuple[TopicPartition, ...]
    target: tuple[TopicPartition, ...] | None = None
    epoch: int | None = None
    rack: str | None = None
    subscribed_topics: tuple[str, ...] = ()
    subscribed_pattern: str | None = None
    upgraded: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDescription:
    """A group of any type.

    Attributes:
        type: "classic", "consumer", "share" or "streams".
        state: "Stable", "Empty", "PreparingRebalance", ... as the broker spells it.
        assignor: who divides the partitions.
        coordinator: id of the broker that coordinates it.
    """

    group_id: str
    type: str
    state: str
    protocol_type: str
    assignor: str
    coordinator: int
    members: tuple[MemberDescription, ...]
    group_epoch: int | None = None
    assignment_epoch: int | None = None
    subtopologies: tuple[str, ...] = ()
    authorized_operations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLag:
    """How far a group is behind in one partition.

    Attributes:
        committed: the next offset it reads; None if it has committed none.
        end: offset behind the last record (for readers of committed records the last stable offset).
        lag: end - committed; None where one of them is missing.
        member_id, client_id, host: who reads the partition now; "" if no member does, or several of a share group.
    """

    partition: TopicPartition
    committed: int | None
    start: int
    end: int
    lag: int | None
    member_id: str = ""
    client_id: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetInfo:
    """An offset that was asked for by place or time; `offset` None: there is no record as young as the time."""

    offset: int | None
    timestamp: datetime | None
    leader_epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionListing:
    """A transactional id and the state of its transaction."""

    transactional_id: str
    producer_id: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionDescription:
    """One transactional id; `started` is None without an open transaction."""

    transactional_id: str
    coordinator: int
    state: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    started: datetime | None
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerDescription:
    """A producer that a partition remembers; `transaction_start_offset` is None without an open transaction there."""

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_timestamp: datetime | None
    coordinator_epoch: int
    transaction_start_offset: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDescription:
    """A broker under the address it advertises; `is_fenced` says that it may not lead (KIP-1073)."""

    id: int
    host: str
    port: int
    rack: str | None
    is_fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDescription:
    """The cluster as a broker sees it; `controller` is a broker id or None."""

    cluster_id: str
    controller: int | None
    brokers: tuple[BrokerDescription, ...]
    authorized_operations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """A replica's files: bytes, offsets it is behind the high watermark, whether it is on its way to another directory."""

    size_bytes: int
    offset_lag: int
    is_future: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDirDescription:
    """A log directory of a broker; bytes are None where the broker does not say, `error` "" if it works."""

    path: str
    error: str
    total_bytes: int | None
    usable_bytes: int | None
    replicas: Mapping[TopicPartition, ReplicaInfo]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDescription:
    """A feature: the levels the broker can have, and the one the cluster has agreed on (None: none)."""

    name: str
    min_level: int
    max_level: int
    finalized_level: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reassignment:
    """A partition whose replicas are being changed."""

    replicas: tuple[int, ...]
    adding: tuple[int, ...]
    removing: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumDescription:
    """The KRaft quorum: (replica id, log end offset) of voters and observers."""

    leader: int
    leader_epoch: int
    high_watermark: int
    voters: tuple[tuple[int, int], ...]
    observers: tuple[tuple[int, int], ...]


#: Whom a quota is about: {"user": "alice", "client-id": None}; None stands for the default of its kind.
QuotaEntity = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientQuota:
    """Limits of an entity: {"producer_byte_rate": 1e6}."""

    entity: Mapping[str, str | None]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """One rule: who may, or may not, do what from where to which resource.

    Attributes:
        resource_type: "topic", "group", "cluster", "transactional_id", "delegation_token" or "user".
        pattern_type: "literal" or "prefixed".
        operation: "read", "write", "all", "create", "delete", "alter", "describe", ...
        permission: "allow" or "deny".
    """

    principal: str
    operation: str
    resource_type: str = "topic"
    resource_name: str = "*"
    pattern_type: str = "literal"
    host: str = "*"
    permission: str = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class AclFilter:
    """Which rules are meant; None, and "any", stand for all. `pattern_type="match"` finds what applies to a name."""

    principal: str | None = None
    operation: str = "any"
    resource_type: str = "any"
    resource_name: str | None = None
    pattern_type: str = "any"
    host: str | None = None
    permission: str = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScramCredential:
    """What a broker tells of a user's password: never the password itself."""

    mechanism: str
    iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationToken:
    """A token. `hmac` is its secret: do not log it."""

    token_id: str
    owner: str
    requester: str
    issued: datetime
    expires: datetime
    expires_at_most: datetime
    hmac: bytes = field(repr=False)
    renewers: tuple[str, ...] = ()
