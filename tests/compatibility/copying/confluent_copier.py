"""The same program as `java/Copier.java`, with librdkafka.

Usage: python confluent_copier.py BOOTSTRAP NAME [key=value of the consumer ...]
"""

from __future__ import annotations

import random
import signal
import sys

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

PATIENCE_S = 15


def go_back(consumer: Consumer) -> None:
    """What was read since the last commit is to be read again."""
    for place in consumer.committed(consumer.assignment(), 30):
        place.offset = max(place.offset, 0)
        consumer.seek(place)


def main(bootstrap: str, name: str, options: list[str]) -> None:
    """Copy until killed.

    Raises:
        KafkaException: this instance cannot go on.
    """
    dice = random.SystemRandom()
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": name,
            "transaction.timeout.ms": 10_000,
            "linger.ms": 1,
            "reconnect.backoff.max.ms": 300,
            "log_level": 0,
        }
    )
    producer.init_transactions(30)  # from here on whoever had this id before is fenced, and his transaction is ended
    reading: dict[str, str | int | float | bool | None] = {
        "bootstrap.servers": bootstrap,
        "group.id": "copy",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 50,
        "reconnect.backoff.max.ms": 300,
        "log_level": 0,
    }
    for option in options:
        key, _, text = option.partition("=")
        reading[key] = text
    consumer = Consumer(reading)
    consumer.subscribe(["input"])
    print("ready", flush=True)
    while True:
        # librdkafka's send_offsets_to_transaction() may wait for ever, whatever timeout it is given, when its coordinator
        # was restarted (librdkafka#5456). The process ends then, and whoever watches it starts it again.
        signal.alarm(PATIENCE_S)
        messages = []
        for message in consumer.consume(dice.randint(1, 30), 0.1):
            if (failure := message.error()) is None:
                messages.append(message)
            elif failure.fatal():  # such as a static member that is fenced since the answer to its join was lost
                raise KafkaException(failure)
        if not messages:
            continue
        try:
            producer.begin_transaction()
            offsets: dict[int, int] = {}
            for message in messages:
                value, partition, offset = message.value(), message.partition(), message.offset()
                assert value is not None
                assert partition is not None
                assert offset is not None
                producer.produce("output", value=str(int(value) * 2), partition=partition)
                offsets[partition] = offset + 1
            places = [TopicPartition("input", partition, offset) for partition, offset in offsets.items()]
            producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), 30)
            if dice.random() < 0.1:
                producer.abort_transaction(30)
                go_back(consumer)
            else:
                producer.commit_transaction(30)
        except KafkaException as error:
            if error.args[0].fatal():
                raise
            print("aborts:", error, flush=True)
            producer.abort_transaction(30)
            go_back(consumer)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except KafkaException as error:
        print(error, flush=True)
        sys.exit(1)
