"""What consumers put into JoinGroup and SyncGroup of a classic group: subscriptions and assignments, as bytes.

They begin with their version; each version begins with the fields of those before, and readers ignore what they do not
know (ConsumerProtocolSubscription and ConsumerProtocolAssignment, KIP-429, KIP-792, KIP-881).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from ottla.client._core.assignors import GroupMember, MemberAssignment
from ottla.errors import RemoteProtocolError
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
)
from ottla.types import TopicPartition

_INT16 = struct.Struct(">h")
_SUBSCRIPTION_VERSION: Final = 3
#: librdkafka reads no newer one; all have the same fields.
_ASSIGNMENT_VERSION: Final = 0


def _by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, partition in partitions:
        found.setdefault(topic, []).append(partition)
    return found


def _version(data: bytes, highest: int) -> int:
    if len(data) < 2:
        raise RemoteProtocolError("an embedded consumer protocol without a version")
    version: int = _INT16.unpack_from(data)[0]
    if version < 0:
        raise RemoteProtocolError(f"version {version} of the embedded consumer protocol")
    return min(version, highest)


def write_subscription(
    topics: Sequence[str], user_data: bytes | None, owned: Iterable[TopicPartition], generation_id: int, rack: str
) -> bytes:
    """Return a subscription as bytes."""
    message = ConsumerProtocolSubscription(
        topics=list(topics),
        user_data=user_data,
        owned_partitions=[
            ConsumerProtocolSubscriptionTopicPartition(topic=topic, partitions=numbers)
            for topic, numbers in _by_topic(owned).items()
        ],
        generation_id=generation_id,
        rack_id=rack or None,
    )
    return _INT16.pack(_SUBSCRIPTION_VERSION) + encode(message, _SUBSCRIPTION_VERSION)


def read_subscription(member_id: str, group_instance_id: str | None, data: bytes) -> GroupMember:
    """Return a member as its subscription describes it.

    Raises:
        RemoteProtocolError: the bytes cannot be read.
    """
    found, _ = decode(ConsumerProtocolSubscription, _version(data, _SUBSCRIPTION_VERSION), data, 2)
    return GroupMember(
        member_id=member_id,
        topics=tuple(found.topics),
        owned=[TopicPartition(each.topic, number) for each in found.owned_partitions for number in each.partitions],
        generation_id=found.generation_id,
        user_data=found.user_data,
        rack=found.rack_id,
        group_instance_id=group_instance_id,
    )


def write_assignment(assignment: MemberAssignment) -> bytes:
    """Return one member's assignment as bytes."""
    message = ConsumerProtocolAssignment(
        assigned_partitions=[
            ConsumerProtocolAssignmentTopicPartition(topic=topic, partitions=numbers)
            for topic, numbers in _by_topic(assignment.partitions).items()
        ],
        user_data=assignment.user_data,
    )
    return _INT16.pack(_ASSIGNMENT_VERSION) + encode(message, _ASSIGNMENT_VERSION)


def read_assignment(data: bytes) -> MemberAssignment:
    """Return an assignment.

    Raises:
        RemoteProtocolError: the bytes cannot be read.
    """
    if not data:
        return MemberAssignment([])
    found, _ = decode(ConsumerProtocolAssignment, _version(data, 3), data, 2)
    return MemberAssignment(
        [TopicPartition(each.topic, number) for each in found.assigned_partitions for number in each.partitions],
        found.user_data,
    )
