"""A member of a share group that writes down what it gets and what it was told is acknowledged; it is killed at random.

    python worker.py ADDRESS GROUP TOPIC NAME JOURNAL

Lines of the journal, which all workers share: `got NAME PARTITION OFFSET NUMBER DELIVERIES` when a record has come,
`done NAME PARTITION OFFSET NUMBER` when its acknowledgement was answered without an error. Now and then a record is released.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any

from confluent_kafka import AcknowledgeType, KafkaException, ShareConsumer


def main() -> None:
    address, group, topic, name, path = sys.argv[1:]
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    dice = random.Random()
    consumer = ShareConsumer(
        {
            "bootstrap.servers": address,
            "group.id": group,
            "share.acknowledgement.mode": "explicit",
            "max.poll.records": 50,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "socket.timeout.ms": 10_000,
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    while True:
        try:
            messages = [message for message in consumer.poll(0.5) if message.error() is None]
        except KafkaException as error:
            print("poll:", error, flush=True)
            continue
        if messages:
            write(journal, [f"got {name} {place(message)} {message.delivery_count()}" for message in messages])
            settle(consumer, messages, journal, name, dice)


def settle(consumer: ShareConsumer, messages: list[Any], journal: int, name: str, dice: random.Random) -> None:
    """Acknowledge what came, and write down what was confirmed."""
    accepted = []
    for message in messages:
        if dice.random() < 0.05:
            consumer.acknowledge(message, AcknowledgeType.RELEASE)
        else:
            accepted.append(message)
            consumer.acknowledge(message)
    try:
        answers = consumer.commit_sync(10.0)
    except KafkaException as error:
        print("commit:", error, flush=True)
        return
    confirmed = {(each.topic, each.partition) for each, error in answers.items() if error is None}
    done = [message for message in accepted if (message.topic(), message.partition()) in confirmed]
    write(journal, [f"done {name} {place(message)}" for message in done])


def place(message: Any) -> str:
    return f"{message.partition()} {message.offset()} {message.value().decode()}"


def write(journal: int, lines: list[str]) -> None:
    """One write: lines of several workers do not mix."""
    if lines:
        os.write(journal, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    main()
