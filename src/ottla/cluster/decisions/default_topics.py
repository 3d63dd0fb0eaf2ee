"""What a topic is like that was not described: made by its first use, or one of the coordinators' own. Pure.

The internal topics get the settings that Apache Kafka gives them, and as many replicas as configured, but never more than
brokers are alive: a single node does not wait for two others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ottla.cluster.decisions.topics import NewTopic
from ottla.types import GROUP_METADATA_TOPIC, INTERNAL_TOPICS, SHARE_GROUP_STATE_TOPIC, TRANSACTION_STATE_TOPIC

#: Kafka refuses smaller segments in topics, but not in the settings for internal ones.
SEGMENT_BYTES_MIN = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What the controller takes from the broker's configuration."""

    node_id: int
    rack: str | None = None
    num_partitions: int = 1
    default_replication_factor: int = 1
    offsets_topic_num_partitions: int = 50
    offsets_topic_replication_factor: int = 3
    offsets_topic_segment_bytes: int = 104_857_600
    transaction_topic_num_partitions: int = 50
    transaction_topic_replication_factor: int = 3
    transaction_topic_min_isr: int = 2
    transaction_topic_segment_bytes: int = 104_857_600
    share_topic_num_partitions: int = 50
    share_topic_replication_factor: int = 3
    share_topic_min_isr: int = 2
    share_topic_segment_bytes: int = 104_857_600
    #: The broker's static settings as text; defaults of topics come from here.
    static: Mapping[str, str] = field(default_factory=dict)


def default_topic(name: str, settings: ControllerSettings, broker_count: int) -> NewTopic:
    """Return what is to be made of a topic that is only known by its name."""

    def replicas(wanted: int) -> int:
        return min(wanted, max(broker_count, 1))

    def internal(partitions: int, replication_factor: int, segment_bytes: int, **configs: str) -> NewTopic:
        sized = {"segment.bytes": str(max(segment_bytes, SEGMENT_BYTES_MIN))}
        named = {key.replace("_", "."): value for key, value in configs.items()}
        return NewTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=replicas(replication_factor),
            configs=dict(sorted({**named, **sized}.items())),
        )

    def in_sync(wanted: int, replication_factor: int) -> str:
        """Of in-sync replicas not more can be asked for than there are replicas."""
        return str(min(wanted, replicas(replication_factor)))

    if name == GROUP_METADATA_TOPIC:
        return internal(
            settings.offsets_topic_num_partitions,
            settings.offsets_topic_replication_factor,
            settings.offsets_topic_segment_bytes,
            cleanup_policy="compact",
            compression_type="producer",
        )
    if name == TRANSACTION_STATE_TOPIC:
        return internal(
            settings.transaction_topic_num_partitions,
            settings.transaction_topic_replication_factor,
            settings.transaction_topic_segment_bytes,
            cleanup_policy="compact",
            compression_type="uncompressed",
            min_insync_replicas=in_sync(
                settings.transaction_topic_min_isr, settings.transaction_topic_replication_factor
            ),
            unclean_leader_election_enable="false",
        )
    if name == SHARE_GROUP_STATE_TOPIC:
        # Only its coordinator deletes what is of no use any more.
        return internal(
            settings.share_topic_num_partitions,
            settings.share_topic_replication_factor,
            settings.share_topic_segment_bytes,
            cleanup_policy="delete",
            compression_type="producer",
            min_insync_replicas=in_sync(settings.share_topic_min_isr, settings.share_topic_replication_factor),
            retention_ms="-1",
        )
    return NewTopic(name=name)


def internal_replicas(name: str, settings: ControllerSettings) -> int:
    """Return how many replicas an internal topic is to have where there are as many brokers."""
    return {
        GROUP_METADATA_TOPIC: settings.offsets_topic_replication_factor,
        TRANSACTION_STATE_TOPIC: settings.transaction_topic_replication_factor,
        SHARE_GROUP_STATE_TOPIC: settings.share_topic_replication_factor,
    }[name]


def internal_min_isr(name: str, settings: ControllerSettings) -> int:
    """Return how many replicas of an internal topic are to be in sync where there are enough."""
    return {
        TRANSACTION_STATE_TOPIC: settings.transaction_topic_min_isr,
        SHARE_GROUP_STATE_TOPIC: settings.share_topic_min_isr,
    }.get(name, 1)


def internal_topic_configs(settings: ControllerSettings, broker_count: int) -> dict[str, dict[str, str]]:
    """Return the settings of all internal topics, for those that are found on the disk without any."""
    return {
        name: {key: value for key, value in default_topic(name, settings, broker_count).configs.items() if value}
        for name in sorted(INTERNAL_TOPICS)
    }
