"""What groups know of topics: partition counts, racks, and a hash that shows whether anything has changed.

The hash is kept with the group epoch (ConsumerGroupMetadataValue.MetadataHash, since Kafka 4.1): if it differs from that of
the image, topics have come, gone or grown, and the group needs another assignment. It covers what Kafka's covers (id, name,
partitions, racks), but is BLAKE2 where Kafka has XXH3: a group taken over from Kafka is assigned once more, no harm done.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.cluster.image import ClusterImage, TopicImage

_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")


def topic_hash(topic: TopicImage, image: ClusterImage) -> bytes:
    """Return a hash of the topic's id, name, partitions and their racks."""
    hasher = hashlib.blake2b(topic.topic_id, digest_size=8)
    _add(hasher, topic.name)
    hasher.update(_INT32.pack(len(topic.partitions)))
    racks_of = {node_id: broker.rack for node_id, broker in image.brokers.items() if broker.rack}
    if racks_of:
        for partition in topic.partitions:
            racks = sorted(racks_of[node_id] or "" for node_id in partition.replicas if node_id in racks_of)
            hasher.update(_INT32.pack(len(racks)))
            for rack in racks:
                _add(hasher, rack)
    return hasher.digest()


def metadata_hash(topic_names: Iterable[str], image: ClusterImage) -> int:
    """Return a hash (int64) of the topics with these names; 0 if none of them exists."""
    hasher = None
    for name in sorted(topic_names):
        topic = image.topics.get(name)
        if topic is not None:
            hasher = hasher or hashlib.blake2b(digest_size=8)
            hasher.update(topic_hash(topic, image))
    if hasher is None:
        return 0
    value: int = _INT64.unpack(hasher.digest())[0]
    return value


def topic_ids(topic_names: Iterable[str], image: ClusterImage) -> frozenset[bytes]:
    """Return the ids of those of these topics that exist."""
    topics = image.topics
    return frozenset(topics[name].topic_id for name in topic_names if name in topics)


def _add(hasher: hashlib.blake2b, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    hasher.update(_INT32.pack(len(data)))
    hasher.update(data)
