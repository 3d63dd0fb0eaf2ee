"""Words everybody shares: partitions, uuids, sentinels of the Kafka protocol.

Nothing here decides anything. The names are Kafka's.
"""

from __future__ import annotations

import base64
import binascii
from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple

#: The uuid that means "not set" on the wire (KIP-516).
ZERO_UUID = bytes(16)

#: Timestamps that ListOffsets understands as places instead of times (KIP-79, KIP-734, KIP-405, KIP-1023).
LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL = -4
LATEST_TIERED = -5
EARLIEST_PENDING_UPLOAD = -6

#: The topic of committed offsets and groups.
GROUP_METADATA_TOPIC = "__consumer_offsets"
#: The topic of transactional ids.
TRANSACTION_STATE_TOPIC = "__transaction_state"
#: The topic of what share groups have delivered.
SHARE_GROUP_STATE_TOPIC = "__share_group_state"
#: Topics that clients may read but neither write nor delete by accident.
INTERNAL_TOPICS = frozenset({GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC, SHARE_GROUP_STATE_TOPIC})


class TopicPartition(NamedTuple):
    """One partition of one topic, by name."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class TopicIdPartition(NamedTuple):
    """One partition of one topic, by the topic's id."""

    topic_id: bytes
    partition: int


class IsolationLevel(IntEnum):
    """What a reader may see of open and aborted transactions (KIP-98)."""

    READ_UNCOMMITTED = 0
    READ_COMMITTED = 1


class CompressionType(IntEnum):
    """The codec in bits 0-2 of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class TimestampType(IntEnum):
    """Who stamped a batch: bit 3 of its attributes."""

    CREATE_TIME = 0
    LOG_APPEND_TIME = 1


class AppendOrigin(Enum):
    """Who appends: it decides how much is checked (a client everything, a coordinator epochs, a replica nothing)."""

    CLIENT = "client"
    COORDINATOR = "coordinator"
    REPLICATION = "replication"


def uuid_to_text(uuid: bytes) -> str:
    """Return Kafka's text form of a uuid: 22 characters of URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(uuid).rstrip(b"=").decode()


def uuid_from_text(text: str) -> bytes:
    """Return the 16 bytes of a uuid in Kafka's text form.

    Raises:
        ValueError: `text` is no uuid.
    """
    try:
        uuid = base64.urlsafe_b64decode(text + "==")
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text!r} is no uuid: {error}") from None
    if len(uuid) != 16:
        raise ValueError(f"{text!r} is no uuid: it has {len(uuid)} bytes instead of 16")
    return uuid


@lru_cache(maxsize=4096)  # clients name the same groups again and again
def java_hash(text: str) -> int:
    """Return Java's `String.hashCode`: int32 over UTF-16 code units. Coordinators are found by it."""
    data = text.encode("utf-16-be", "surrogatepass")
    result = 0
    for index in range(0, len(data), 2):
        result = (31 * result + (data[index] << 8 | data[index + 1])) & 0xFFFFFFFF
    return result - (1 << 32) if result & 0x80000000 else result


def coordinator_partition(key: str, partition_count: int) -> int:
    """Return the partition of a coordinator's topic that holds `key` (Kafka's `Utils.abs(hashCode) % n`).

    The absolute value, not the lower 31 bits that Kafka's partitioner for keys takes: a data directory written by
    Kafka has a group's offsets where the former says. Java has no positive counterpart of -2^31 and makes it 0.
    """
    value = java_hash(key)
    return (0 if value == -(1 << 31) else abs(value)) % partition_count
