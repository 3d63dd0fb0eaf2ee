"""What a cluster is broken under: idempotent producers with acks=all, readers, and a ledger of what they were told.

Three topics, each with a producer of another maker: `c` is librdkafka's, `o` ottla's own client's, `v` that of Apache
Kafka's VerifiableProducer, which VerifiableConsumer reads in a group. Each producer's values count upwards within a
partition, so what must be in the log is known from the ledger alone.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.support import kafka_anchor

import ottla

PARTITIONS = 3
TOPICS = ("c", "o", "v")
GROUP = "verifiable"
PAUSE_S = 0.02
VERIFIABLE_PER_SECOND = 30
#: Nothing may be given up: a producer that ends on an error is a finding.
PATIENCE_MS = 1_200_000
Place = tuple[str, int]


@dataclass
class Ledger:
    """What clients were told."""

    acknowledged: dict[Place, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    seen: dict[Place, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    consumed: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    redelivered: int = 0
    consumers_started: int = 0
    #: What must not happen at all.
    complaints: list[str] = field(default_factory=list)
    last_acknowledged: dict[Place, float] = field(default_factory=dict)
    #: The longest pause between two acknowledgements of a partition since it was cleared.
    longest_silence: dict[Place, float] = field(default_factory=dict)

    def acknowledge(self, topic: str, partition: int, offset: int, value: int) -> None:
        now, place = time.monotonic(), (topic, partition)
        silence = now - self.last_acknowledged.get(place, now)
        self.last_acknowledged[place] = now
        self.longest_silence[place] = max(silence, self.longest_silence.get(place, 0.0))
        before = self.acknowledged[topic, partition].setdefault(offset, value)
        if before != value:
            self.complaints.append(f"{topic}-{partition} {offset}: {before} was acknowledged there, and {value}")

    def see(self, topic: str, partition: int, offset: int, value: int) -> None:
        before = self.seen[topic, partition].setdefault(offset, value)
        if before != value:
            self.complaints.append(f"{topic}-{partition} {offset}: {before} was read there, and {value}")

    @property
    def silence_s(self) -> float:
        """The longest pause of any partition."""
        return max(list(self.longest_silence.values()), default=0.0)

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))


class Load:
    """The producers and readers, from `start()` to `stop()`."""

    def __init__(self, bootstrap: str, directory: Path, *, has_verifiable: bool = True) -> None:
        self.ledger = Ledger()
        self.topics = TOPICS if has_verifiable else TOPICS[:2]
        self._bootstrap = bootstrap
        self._directory = directory
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._producers: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []
        self._producer: subprocess.Popen[str] | None = None
        self._consumer: subprocess.Popen[str] | None = None

    @property
    def places(self) -> list[Place]:
        return [(topic, index) for topic in self.topics for index in range(PARTITIONS)]

    def create_topics(self, **configs: str) -> None:
        client = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})
        rows = [NewTopic(name, PARTITIONS, 3, config=dict(configs)) for name in self.topics]
        for future in client.create_topics(rows, operation_timeout=30).values():
            future.result(60)

    def start(self) -> None:
        def threads(*runs: Callable[[], None]) -> list[threading.Thread]:
            return [threading.Thread(target=run, daemon=True) for run in runs]

        self._producers = threads(self._produce_librdkafka, self._produce_ottla)
        self._readers = threads(self._read)
        if "v" in self.topics:
            self._producers += threads(self._produce_verifiable)
            self._readers += threads(self._consume_verifiable)
        for thread in (*self._producers, *self._readers):
            thread.start()

    def stop(self) -> None:
        """End the producers when everything is acknowledged, then the readers when they have read it."""
        self._stopped.set()
        for thread in self._producers:
            thread.join(180)
            if thread.is_alive():
                self.ledger.complaints.append(f"{thread.name} does not end")
        deadline = time.monotonic() + 60
        while self._missing() and time.monotonic() < deadline:
            time.sleep(0.2)
        self._over.set()
        for process in (self._producer, self._consumer):
            if process is not None:
                process.kill()
                process.wait(30)
        for thread in self._readers:
            thread.join(60)

    def _missing(self) -> int:
        """Return how many acknowledged records VerifiableConsumer has not consumed yet."""
        if "v" not in self.topics:
            return 0
        return sum(
            len(set(self.ledger.acknowledged["v", index]) - self.ledger.consumed[index]) for index in range(PARTITIONS)
        )

    def _produce_librdkafka(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": PATIENCE_MS,
                "topic.metadata.refresh.interval.ms": 500,
                "reconnect.backoff.max.ms": 500,
                "retry.backoff.max.ms": 300,
                "socket.timeout.ms": 10_000,
                "request.timeout.ms": 5_000,
                "log_level": 7,
                "error_cb": self._on_error,
                "debug": "eos,msg",
            },
            logger=self._log_of_librdkafka(),
        )
        number = 0
        while not self._stopped.wait(PAUSE_S):
            for index in range(PARTITIONS):
                try:
                    producer.produce("c", b"%d" % number, partition=index, on_delivery=self._on_delivery)
                except BufferError:
                    producer.poll(1)
            number += 1
            producer.poll(0)
        if left := producer.flush(150):
            self.ledger.complaints.append(f"c: {left} records were not acknowledged after everything was mended")

    def _log_of_librdkafka(self) -> logging.Logger:
        """What it thinks of sequences and epochs goes to a file: what a broker has answered is seen nowhere else."""
        logger = logging.getLogger("librdkafka")
        logger.propagate = False
        logger.setLevel(logging.DEBUG)
        logger.addHandler(logging.FileHandler(self._directory / "librdkafka.log"))
        return logger

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.ledger.complaints.append(f"c: the producer ended: {error}")

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        topic, partition, offset, value = message.topic(), message.partition(), message.offset(), message.value()
        if error is not None:
            self.ledger.complaints.append(f"c: {value!r} was given up: {error}")
        elif offset is not None and offset >= 0:
            assert topic is not None
            assert partition is not None
            assert value is not None
            self.ledger.acknowledge(topic, partition, offset, int(value))

    def _produce_ottla(self) -> None:
        def note(index: int, number: int) -> None:
            delivery = producer.send("o", b"%d" % number, partition=index)
            waiting.append((index, number, delivery))

        def settle(*, is_last: bool) -> None:
            while waiting and (is_last or waiting[0][2].done()):
                index, number, delivery = waiting.pop(0)
                try:
                    told = delivery.result(150)
                except Exception as error:
                    self.ledger.complaints.append(f"o: {number} was given up: {error!r}")
                    continue
                if told.offset >= 0:
                    self.ledger.acknowledge("o", index, told.offset, number)

        waiting: list[tuple[int, int, ottla.Delivery]] = []
        with ottla.Producer(
            self._bootstrap,
            delivery_timeout_ms=PATIENCE_MS,
            max_block_ms=PATIENCE_MS,
            request_timeout_ms=5_000,
            retry_backoff_max_ms=300,
            reconnect_backoff_max_ms=500,
        ) as producer:
            number = 0
            while not self._stopped.wait(PAUSE_S):
                for index in range(PARTITIONS):
                    note(index, number)
                number += 1
                settle(is_last=False)
            settle(is_last=True)

    def _produce_verifiable(self) -> None:
        settings = self._directory / "producer.properties"
        settings.write_text(
            "enable.idempotence=true\nacks=all\nretries=2147483647\nrequest.timeout.ms=5000\nlinger.ms=5\n"
            f"delivery.timeout.ms={PATIENCE_MS}\nmax.block.ms={PATIENCE_MS}\nretry.backoff.max.ms=300\n"
            "reconnect.backoff.max.ms=500\nmetadata.max.age.ms=2000\n"
        )
        self._producer = process = kafka_tool(
            *("kafka-verifiable-producer", "--bootstrap-server", self._bootstrap, "--topic", "v", "--acks", "-1"),
            *("--throughput", str(VERIFIABLE_PER_SECOND), "--repeating-keys", "10", "--command-config", str(settings)),
            log_level="DEBUG",
        )
        threading.Thread(target=self._end_producer, args=(process,), daemon=True).start()
        assert process.stdout is not None
        with (self._directory / "verifiable-producer.log").open("w") as log:
            for line in process.stdout:
                if not line.startswith("{"):  # what it thinks, as of librdkafka
                    log.write(f"{time.time():.3f} {line}")
                    continue
                event = json.loads(line)
                if (
                    event["name"] == "producer_send_success" and event["offset"] >= 0
                ):  # -1: a duplicate, appended long ago
                    self.ledger.acknowledge("v", event["partition"], event["offset"], int(event["value"]))
                elif event["name"] == "producer_send_error":
                    self.ledger.complaints.append(f"v: {event['value']} was given up: {event.get('message')}")

    def _end_producer(self, process: subprocess.Popen[str]) -> None:
        self._stopped.wait()
        process.terminate()  # it waits for what is on its way, and says so

    def _consume_verifiable(self) -> None:
        settings = self._directory / "consumer.properties"
        settings.write_text("request.timeout.ms=8000\nsession.timeout.ms=10000\nmetadata.max.age.ms=2000\n")
        while not self._over.is_set():  # it ends on an error that its client does not retry
            self._consumer = process = kafka_tool(
                *("kafka-verifiable-consumer", "--bootstrap-server", self._bootstrap, "--topic", "v"),
                *("--group-id", GROUP, "--reset-policy", "earliest", "--verbose", "--command-config", str(settings)),
            )
            self.ledger.consumers_started += 1
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{") and (event := json.loads(line))["name"] == "record_data":
                    consumed = self.ledger.consumed[event["partition"]]
                    self.ledger.redelivered += event["offset"] in consumed
                    consumed.add(event["offset"])

    def _read(self) -> None:
        """Read everything all the time, from the high watermark's point of view: what was seen once must stay."""
        consumer = _consumer(self._bootstrap)
        consumer.assign([TopicPartition(topic, index, 0) for topic, index in self.places])
        try:
            while not self._over.is_set():
                for message in consumer.consume(500, 0.2):
                    if message.error() is None:
                        self.ledger.see(*_row(message))
        finally:
            consumer.close()


def everything(bootstrap: str, places: list[Place], *, patience_s: float = 120) -> dict[Place, list[tuple[int, int]]]:
    """Return (offset, value) of all records of each partition, in the order of its log."""
    consumer = _consumer(bootstrap)
    found: dict[Place, list[tuple[int, int]]] = {place: [] for place in places}
    try:
        consumer.assign([TopicPartition(topic, index, 0) for topic, index in places])
        ended: set[Place] = set()
        deadline = time.monotonic() + patience_s
        while len(ended) < len(places):
            assert time.monotonic() < deadline, f"not all could be read within {patience_s} s: {set(places) - ended}"
            for message in consumer.consume(5_000, 0.5):
                error = message.error()
                if error is None:
                    topic, partition, offset, value = _row(message)
                    found[topic, partition].append((offset, value))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add((str(message.topic()), int(message.partition() or 0)))
    finally:
        consumer.close()
    return found


def complaints(ledger: Ledger, found: dict[Place, list[tuple[int, int]]]) -> Counter[str]:
    """Return what is wrong, by kind."""
    wrong: Counter[str] = Counter()
    for place, rows in found.items():
        at, values = dict(rows), [value for _, value in rows]
        for offset, value in ledger.acknowledged[place].items():
            if at.get(offset) != value:
                wrong["moved" if value in values else "lost"] += 1
        wrong["duplicated"] += len(values) - len(set(values))
        wrong["out of order"] += sum(1 for one, next_one in itertools.pairwise(values) if next_one < one)
        wrong["read, then gone"] += sum(at.get(offset) != value for offset, value in ledger.seen[place].items())
        if place[0] == "v":
            wrong["not consumed"] += len(set(ledger.acknowledged[place]) - ledger.consumed[place[1]])
    return +wrong


def _consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "topic.metadata.refresh.interval.ms": 500,
            "reconnect.backoff.max.ms": 500,
            "socket.timeout.ms": 10_000,
            "log_level": 0,
        }
    )


def _row(message: Message) -> tuple[str, int, int, int]:
    topic, partition, offset, value = message.topic(), message.partition(), message.offset(), message.value()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    assert value is not None
    return topic, partition, offset, int(value)


def kafka_tool(*arguments: str, log_level: str = "WARN") -> subprocess.Popen[str]:
    """Start one of Apache Kafka's programs; what it prints, its log as well, is read from its `stdout`."""
    return subprocess.Popen(
        [str(kafka_anchor.ANCHOR / "tool"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "KAFKA_HEAP": "-Xmx96m -XX:TieredStopAtLevel=1", "LOG_LEVEL": log_level},
    )
