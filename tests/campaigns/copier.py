"""One copier: consume, transform, produce, send offsets, in transactions; it is killed and started again by `copies`.

    python -m tests.campaigns.copier CLIENT ADDRESSES SOURCE TARGET NAME

CLIENT is `ottla` or `librdkafka`. Its group and its transactional id are named after TARGET and NAME. On an error that its
client does not get over by itself the program ends, and is started again.
"""

from __future__ import annotations

import random
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer

import ottla

RECORDS_MAX = 30
#: A part of the transactions is aborted by the program.
ABORTED = 0.05
SESSION_TIMEOUT_MS = 6_000


def transform(value: bytes | None) -> bytes:
    assert value is not None
    return b"%d" % (int(value) * 2)


def copy_with_ottla(address: str, source: str, target: str, name: str, dice: random.Random) -> None:
    with (
        ottla.Producer(
            address, transactional_id=f"{target}-{name}", linger_ms=0, max_block_ms="60s", retry_backoff_max_ms=300
        ) as producer,
        ottla.Consumer(
            address,
            group_id=f"{target}-copiers",
            topics=[source],
            commit="transaction",
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=500,
        ) as consumer,
    ):
        while True:
            records = consumer.poll(max_records=RECORDS_MAX, timeout=0.5)
            if not records:
                continue
            with producer.transaction(consumer) as transaction:
                for record in records:
                    transaction.send(target, transform(record.value), key=record.key)
                if dice.random() < ABORTED:
                    raise ottla.Abort


def copy_with_librdkafka(address: str, source: str, target: str, name: str, dice: random.Random) -> None:
    common = {"bootstrap.servers": address, "reconnect.backoff.max.ms": 500, "log_level": 0}
    producer = Producer(
        {**common, "transactional.id": f"{target}-{name}", "transaction.timeout.ms": 60_000, "linger.ms": 0}
    )
    producer.init_transactions(60)
    consumer = Consumer(
        {
            **common,
            "group.id": f"{target}-copiers",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            "heartbeat.interval.ms": 500,
        }
    )
    try:
        consumer.subscribe([source])
        while True:
            messages = [m for m in consumer.consume(RECORDS_MAX, 0.5) if m.error() is None]
            if not messages:
                continue
            producer.begin_transaction()
            for message in messages:
                producer.produce(target, transform(message.value()), message.key())
            if dice.random() < ABORTED:
                producer.abort_transaction(60)
                return  # where to go on is asked anew
            offsets = consumer.position(consumer.assignment())
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 60)
            producer.commit_transaction(60)
    finally:
        consumer.close()  # or its partitions wait for the end of its session


def main() -> int:
    client, address, source, target, name = sys.argv[1:]
    copy = copy_with_ottla if client == "ottla" else copy_with_librdkafka
    dice = random.Random()
    while True:
        try:
            copy(address, source, target, name, dice)
        except (KafkaException, ottla.KafkaError, TimeoutError) as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
