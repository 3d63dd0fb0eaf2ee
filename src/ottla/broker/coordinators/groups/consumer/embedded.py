"""What consumers of the classic protocol put into JoinGroup and SyncGroup: subscriptions and assignments, as bytes.

The embedded consumer protocol (ConsumerProtocolSubscription, ConsumerProtocolAssignment) begins with its version; every
version begins with the fields of those before, and readers ignore what they do not know.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.errors import RemoteProtocolError
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.modern.assignor import Assignment
    from ottla.cluster.image import ClusterImage

_INT16 = struct.Struct(">h")
_VERSION_MAX: Final = ConsumerProtocolSubscription.VERSIONS[1]


class Subscription(NamedTuple):
    """What a consumer subscribes to, and what it says it owns."""

    topic_names: frozenset[str]
    rack_id: str | None
    owned: dict[bytes, frozenset[int]]


def version_of(data: bytes) -> int:
    """Return the version that the bytes begin with, not above what we know.

    Raises:
        RemoteProtocolError: there is none.
    """
    if len(data) < 2:
        raise RemoteProtocolError("an embedded consumer protocol without a version")
    version: int = _INT16.unpack_from(data)[0]
    if version < 0:
        raise RemoteProtocolError(f"version {version} of the embedded consumer protocol")
    return min(version, _VERSION_MAX)


def read_subscription(data: bytes, image: ClusterImage) -> Subscription:
    """Return a consumer's subscription. Topics that do not exist cannot be owned.

    Raises:
        RemoteProtocolError: the bytes cannot be read.
    """
    found, _ = decode(ConsumerProtocolSubscription, version_of(data), data, 2)
    owned: dict[bytes, frozenset[int]] = {}
    for each in found.owned_partitions:
        topic = image.topics.get(each.topic)
        if topic is not None:
            owned[topic.topic_id] = owned.get(topic.topic_id, frozenset()) | frozenset(each.partitions)
    return Subscription(frozenset(found.topics), found.rack_id or None, owned)


def read_assignment(data: bytes, image: ClusterImage) -> tuple[Assignment, bool]:
    """Return an assignment, and whether there is more to it than partitions (an assignor's own data).

    Raises:
        RemoteProtocolError: the bytes cannot be read.
    """
    if not data:
        return {}, False
    found, _ = decode(ConsumerProtocolAssignment, version_of(data), data, 2)
    assignment = {
        image.topics[each.topic].topic_id: frozenset(each.partitions)
        for each in found.assigned_partitions
        if each.topic in image.topics
    }
    return assignment, bool(found.user_data)


def write_assignment(assignment: Assignment, version: int, image: ClusterImage) -> bytes:
    """Return an assignment as SyncGroup gives it to a consumer that speaks this version."""
    partitions = []
    for topic_id, parts in assignment.items():
        topic = image.topic_by_id(topic_id)
        if topic is not None:
            partitions.append(ConsumerProtocolAssignmentTopicPartition(topic=topic.name, partitions=sorted(parts)))
    return _INT16.pack(version) + encode(ConsumerProtocolAssignment(assigned_partitions=partitions), version)
