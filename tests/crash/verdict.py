"""Was anything lost, doubled or put out of order? The journal of the load against the logs as a consumer reads them."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

READ_TIMEOUT_S = 120.0

Key = tuple[str, str]


@dataclass(slots=True)
class Journal:
    """What the load was promised: the numbers acknowledged for each (topic, key), and what went wrong at its end."""

    acked: dict[Key, dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    failures: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def count(self) -> int:
        return sum(map(len, self.acked.values()))


def read_journal(path: Path) -> Journal:
    journal = Journal()
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] == "done":
            journal.done = True
        elif words[0] == "failed":
            journal.failures.append(line)
        else:
            topic, key, count, partition, offset = words
            journal.acked[topic, key][int(count)] = int(partition), int(offset)
    return journal


def read_topic(address: str, topic: str, partitions: int) -> dict[Key, list[tuple[int, int, int]]]:
    """(number, partition, offset) of every record of each key, in the order of the log."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "verdict",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "log_level": 0,
        }
    )
    found: dict[Key, list[tuple[int, int, int]]] = defaultdict(list)
    consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
    ended: set[int] = set()
    deadline = time.monotonic() + READ_TIMEOUT_S
    while len(ended) < partitions:
        assert time.monotonic() < deadline, f"{topic} could not be read within {READ_TIMEOUT_S} s"
        messages: list[Any] = consumer.consume(1_000, 0.5)
        for message in messages:
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(message.partition())
                continue
            ended.discard(message.partition())
            value = message.value()
            count = int(value[: value.index(b" ")])
            found[topic, message.key().decode()].append((count, message.partition(), message.offset()))
    consumer.close()
    return found


def complaints_about_log(journal: Journal, found: dict[Key, list[tuple[int, int, int]]], topic: str) -> list[str]:
    """A topic that keeps everything: each key's acknowledged numbers once, at their offsets, rising."""
    complaints = []
    for key, acked in journal.acked.items():
        if key[0] != topic:
            continue
        rows = found.get(key, [])
        counts = [count for count, _, _ in rows]
        places = {count: (partition, offset) for count, partition, offset in rows}
        lost = sorted(set(acked) - set(counts))
        moved = [count for count, place in acked.items() if place[1] >= 0 and places.get(count, place) != place]
        if lost:
            complaints.append(f"{key}: {len(lost)} acknowledged records lost: {lost[:5]}")
        if len(counts) != len(set(counts)):
            complaints.append(f"{key}: {len(counts) - len(set(counts))} duplicates")
        if counts != sorted(counts):
            complaints.append(f"{key}: out of order")
        if moved:
            complaints.append(f"{key}: {len(moved)} records are not at the offset that was acknowledged: {moved[:5]}")
    return complaints


def complaints_about_compacted(journal: Journal, found: dict[Key, list[tuple[int, int, int]]], topic: str) -> list[str]:
    """A compacted topic: each key's last acknowledged number (or a later one) is there, and numbers rise."""
    complaints = []
    for key, acked in journal.acked.items():
        if key[0] != topic:
            continue
        counts = [count for count, _, _ in found.get(key, [])]
        if not counts or counts[-1] < max(acked):
            complaints.append(f"{key}: the last acknowledged is {max(acked)}, the last there is {counts[-1:]}")
        if counts != sorted(set(counts)):
            complaints.append(f"{key}: duplicates or out of order")
    return complaints
