"""What other people's clients see of a topic, and what they make."""

from __future__ import annotations

import time
import uuid
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]


class Seen(NamedTuple):
    """One record as librdkafka read it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int


def new_topic(address: str, partitions: int = 1, **config: str) -> str:
    """Create a topic of a name that was never used; return the name."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    settings = {key.replace("_", "."): value for key, value in config.items()}
    admin = AdminClient({"bootstrap.servers": address})
    made = admin.create_topics([NewTopic(name, partitions, 1, config=settings)])
    made[name].result(30)
    return name


def read_all(address: str, topic: str, *, committed: bool = True, timeout_s: float = 60.0) -> list[Seen]:
    """Return every record of a topic, by partition and offset, as librdkafka reads it."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "nobody",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "check.crcs": True,
        }
    )
    found: list[Seen] = []
    deadline = time.monotonic() + timeout_s
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        open_partitions = set(partitions)
        while open_partitions:
            assert time.monotonic() < deadline, f"{len(found)} records, and no end of {open_partitions}"
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(_seen(message))
            elif error.code() == -191:  # the end of a partition
                open_partitions.discard(message.partition())
            else:
                raise AssertionError(error)
    finally:
        consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


def _seen(message: Message) -> Seen:
    headers: Any = message.headers() or ()
    return Seen(
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        tuple(headers),
        message.timestamp()[1],
    )
