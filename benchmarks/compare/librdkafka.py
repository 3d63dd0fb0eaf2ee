"""librdkafka as a client, through confluent-kafka."""

from __future__ import annotations

import time

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition


def version() -> str:
    return f"{confluent_kafka.libversion()[0]} (confluent-kafka {confluent_kafka.__version__})"


def consume(port: int, topic: str, partitions: int, records: int) -> float:
    """Read the topic from its beginning; the seconds from the assignment to the last record.

    fetch.queue.backoff.ms: librdkafka by default rests a second whenever its queue is full, which at these speeds is the
    whole measurement.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{port}",
            "group.id": "benchmark",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 10,
        }
    )
    try:
        began = time.perf_counter()
        consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
        got = 0
        while got < records:
            if time.perf_counter() - began > 300:
                raise TimeoutError(f"{got} of {records} records arrived")
            for message in consumer.consume(num_messages=10_000, timeout=0.2):
                if message.error():
                    raise RuntimeError(str(message.error()))
                got += 1
        return time.perf_counter() - began
    finally:
        consumer.close()


def produce(port: int, topic: str, records: int, size: int, settings: dict[str, object]) -> float:
    """Produce and flush; the seconds."""
    producer = Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{port}",
            "queue.buffering.max.messages": 1_000_000,
            **settings,
        }
    )
    value = bytes(size)
    began = time.perf_counter()
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value)
                break
            except BufferError:
                producer.poll(0.01)
        if number % 1000 == 0:
            producer.poll(0)
    left = producer.flush(120)
    if left:
        raise RuntimeError(f"{left} records were not acknowledged")
    return time.perf_counter() - began
