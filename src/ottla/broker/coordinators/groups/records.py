"""Records of `__consumer_offsets`: built, encoded, decoded.

Key: int16 record type and the key's body. Value: int16 version and the value's body; no value is a tombstone. Types 0 and 1
are committed offsets (0 from before Kafka 0.9), 2 is a classic group, 3-8 and 16 belong to consumer groups (4 is read and
deleted, but no longer written), 10-15 to share groups, 17-23 to streams groups; 9 and 18 were never in a release.
Versions written are those of Kafka 4.4: OffsetCommitValue 4 (1 if the offset has its own expiry), GroupMetadataValue 3.
Kafka's kafka-dump-log reads them with `--offsets-decoder`. KIP-915: readers ignore tagged fields they do not know.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ottla.broker.coordinators.record_codec import RecordCodec
from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.protocol.messages.group_records import (
    ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupMemberMetadataKey,
    ConsumerGroupMemberMetadataValue,
    ConsumerGroupMetadataKey,
    ConsumerGroupMetadataValue,
    ConsumerGroupPartitionMetadataKey,
    ConsumerGroupPartitionMetadataValue,
    ConsumerGroupRegularExpressionKey,
    ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataKey,
    ConsumerGroupTargetAssignmentMetadataValue,
    GroupMetadataKey,
    GroupMetadataValue,
    LegacyOffsetCommitKey,
    LegacyOffsetCommitValue,
    OffsetCommitKey,
    OffsetCommitValue,
    ShareGroupCurrentMemberAssignmentKey,
    ShareGroupCurrentMemberAssignmentValue,
    ShareGroupMemberMetadataKey,
    ShareGroupMemberMetadataValue,
    ShareGroupMetadataKey,
    ShareGroupMetadataValue,
    ShareGroupStatePartitionMetadataKey,
    ShareGroupStatePartitionMetadataValue,
    ShareGroupTargetAssignmentMemberKey,
    ShareGroupTargetAssignmentMemberValue,
    ShareGroupTargetAssignmentMetadataKey,
    ShareGroupTargetAssignmentMetadataValue,
    StreamsGroupCurrentMemberAssignmentKey,
    StreamsGroupCurrentMemberAssignmentValue,
    StreamsGroupMemberMetadataKey,
    StreamsGroupMemberMetadataValue,
    StreamsGroupMetadataKey,
    StreamsGroupMetadataValue,
    StreamsGroupTargetAssignmentMemberKey,
    StreamsGroupTargetAssignmentMemberValue,
    StreamsGroupTargetAssignmentMetadataKey,
    StreamsGroupTargetAssignmentMetadataValue,
    StreamsGroupTopologyKey,
    StreamsGroupTopologyValue,
)
from ottla.types import ZERO_UUID

OFFSET_COMMIT_VALUE_VERSION: Final = 4
#: The only version with an expiry of its own (OffsetCommit v2-4 with a retention time).
OFFSET_COMMIT_EXPIRY_VERSION: Final = 1
GROUP_METADATA_VALUE_VERSION: Final = 3

NO_TIMESTAMP: Final = -1

_CODEC: Final = RecordCodec(
    {
        0: (LegacyOffsetCommitKey, LegacyOffsetCommitValue),
        1: (OffsetCommitKey, OffsetCommitValue),
        2: (GroupMetadataKey, GroupMetadataValue),
        3: (ConsumerGroupMetadataKey, ConsumerGroupMetadataValue),
        4: (ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue),
        5: (ConsumerGroupMemberMetadataKey, ConsumerGroupMemberMetadataValue),
        6: (ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue),
        7: (ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue),
        8: (ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupCurrentMemberAssignmentValue),
        10: (ShareGroupMemberMetadataKey, ShareGroupMemberMetadataValue),
        11: (ShareGroupMetadataKey, ShareGroupMetadataValue),
        12: (ShareGroupTargetAssignmentMetadataKey, ShareGroupTargetAssignmentMetadataValue),
        13: (ShareGroupTargetAssignmentMemberKey, ShareGroupTargetAssignmentMemberValue),
        14: (ShareGroupCurrentMemberAssignmentKey, ShareGroupCurrentMemberAssignmentValue),
        15: (ShareGroupStatePartitionMetadataKey, ShareGroupStatePartitionMetadataValue),
        16: (ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue),
        17: (StreamsGroupMetadataKey, StreamsGroupMetadataValue),
        19: (StreamsGroupMemberMetadataKey, StreamsGroupMemberMetadataValue),
        20: (StreamsGroupTargetAssignmentMetadataKey, StreamsGroupTargetAssignmentMetadataValue),
        21: (StreamsGroupTargetAssignmentMemberKey, StreamsGroupTargetAssignmentMemberValue),
        22: (StreamsGroupCurrentMemberAssignmentKey, StreamsGroupCurrentMemberAssignmentValue),
        23: (StreamsGroupTopologyKey, StreamsGroupTopologyValue),
    }
)
encode = _CODEC.encode
decode = _CODEC.decode


class CommittedOffset(NamedTuple):
    """A committed offset. `record_offset` is where its record lies in the log."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_timestamp_ms: int = 0
    expire_timestamp_ms: int = NO_TIMESTAMP
    topic_id: bytes = ZERO_UUID
    record_offset: int = -1


def offset_commit(group: str, topic: str, partition: int, committed: CommittedOffset) -> CoordinatorRecord:
    """Return the record of a committed offset."""
    return CoordinatorRecord(
        OffsetCommitKey(group=group, topic=topic, partition=partition),
        OffsetCommitValue(
            offset=committed.offset,
            leader_epoch=committed.leader_epoch,
            metadata=committed.metadata,
            commit_timestamp=committed.commit_timestamp_ms,
            expire_timestamp=committed.expire_timestamp_ms,
            topic_id=committed.topic_id,
        ),
        OFFSET_COMMIT_VALUE_VERSION if committed.expire_timestamp_ms == NO_TIMESTAMP else OFFSET_COMMIT_EXPIRY_VERSION,
    )


def offset_commit_tombstone(group: str, topic: str, partition: int) -> CoordinatorRecord:
    """Return the record that takes a committed offset away."""
    return CoordinatorRecord(OffsetCommitKey(group=group, topic=topic, partition=partition), None)


def group_metadata(group: str, value: GroupMetadataValue) -> CoordinatorRecord:
    """Return the record of a classic group."""
    return CoordinatorRecord(GroupMetadataKey(group=group), value, GROUP_METADATA_VALUE_VERSION)


def group_metadata_tombstone(group: str) -> CoordinatorRecord:
    """Return the record that takes a classic group away."""
    return CoordinatorRecord(GroupMetadataKey(group=group), None)
