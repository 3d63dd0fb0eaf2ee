"""What both brokers do before anything is measured.

Apache Kafka's first passes cost up to three times the later ones, until its JIT has seen the work; so both get some of every
kind of it: sizes, codecs, batches, both directions, single records.
"""

from __future__ import annotations

from benchmarks.compare import librdkafka, raw
from benchmarks.compare.arena import Arena
from benchmarks.compare.traffic import BATCHES, PARTITIONS, drain, fill

FLOWS = (
    (1000, "default", "none", 150_000),
    (1000, "tuned", "none", 200_000),
    (100, "default", "none", 700_000),
    (100, "tuned", "none", 1_000_000),
    (10_000, "default", "none", 10_000),
    (10_000, "tuned", "none", 20_000),
    (1000, "default", "lz4", 60_000),
    (100, "tuned", "lz4", 300_000),
    (1000, "default", "zstd", 60_000),
    (100, "tuned", "zstd", 300_000),
)


def warm_up(arena: Arena, who: str) -> None:
    broker = arena.standing(who)
    print(f"warming up {who}", flush=True)
    port = broker.port
    for size, batches, codec, count in FLOWS:
        with arena.topic(broker, PARTITIONS) as topic:
            records = arena.scaled(count, least=100)
            settings = {"producer.compression.type": codec, **BATCHES[batches]}
            arena.java.ask("produce", port, topic, {"records": records, "size": size, **settings})
            arena.java.ask("consume", port, topic, {"records": records, "partitions": PARTITIONS})
            if codec == "none":
                librdkafka.consume(port, topic, PARTITIONS, records)
    with arena.topic(broker, PARTITIONS) as topic:
        raw.one_by_one(port, topic, arena.scaled(10_000), 100)
    with arena.topic(broker, PARTITIONS) as topic:
        volume = arena.scaled(500e6, least=20_000_000)
        fill(port, topic, PARTITIONS, volume)
        drain(port, topic, PARTITIONS, volume * 0.9)
