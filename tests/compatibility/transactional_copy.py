"""A program that copies exactly once: reads `input`, doubles the value, writes `output`, commits offsets in the transaction.

Usage: python transactional_copy.py BOOTSTRAP TRANSACTIONAL_ID PARTITIONS EXPECTED

Ends with 0 when the group's offsets have reached EXPECTED records in all, with 1 when it cannot go on; whoever started it may
kill it at any time and start it again.
"""

from __future__ import annotations

import random
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition


def main(bootstrap: str, transactional_id: str, partitions: int, expected: int) -> int:
    dice = random.Random(time.time_ns())
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 10_000,
            "linger.ms": 1,
            "log_level": 0,
        }
    )
    producer.init_transactions(30)  # from here on whoever had this id before is fenced, and his transaction is ended
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "copy",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )
    places = consumer.committed([TopicPartition("input", index) for index in range(partitions)], 30)
    for place in places:
        place.offset = max(place.offset, 0)
    positions = {place.partition: place.offset for place in places}
    consumer.assign(places)
    while sum(positions.values()) < expected:
        messages = consumer.consume(dice.randint(1, 40), 0.2)
        if not messages:
            continue
        producer.begin_transaction()
        taken = dict(positions)
        for message in messages:
            if message.error() is not None:
                continue
            value, partition, offset = message.value(), message.partition(), message.offset()
            assert value is not None
            assert partition is not None
            assert offset is not None
            assert offset >= taken[partition], "the consumer went back"
            producer.produce("output", value=str(int(value) * 2), partition=partition)
            taken[partition] = offset + 1
        offsets = [TopicPartition("input", index, offset) for index, offset in taken.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        if dice.random() < 0.1:
            producer.abort_transaction(30)
            for index, offset in positions.items():
                consumer.seek(TopicPartition("input", index, offset))
            continue
        producer.commit_transaction(30)
        positions = taken
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    except KafkaException as error:
        print(error, file=sys.stderr)
        sys.exit(1)
