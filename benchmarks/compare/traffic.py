"""Cases: records in and out, at speed. Broker CPU per GB (1e9 bytes of payload), throughput, everything at once."""

from __future__ import annotations

from benchmarks.compare import librdkafka, raw
from benchmarks.compare.arena import Arena, Figures, metered, written

GB = 1e9
PARTITIONS = 4
BATCHES: dict[str, dict[str, int]] = {
    "default": {},  # 16 KiB, linger.ms=5
    "tuned": {"producer.batch.size": 262_144, "producer.linger.ms": 20},
}
#: Bytes of payload at scale 1: some seconds each.
VOLUME = {100: 200e6, 1000: 400e6, 10_000: 500e6}
#: Of the replay: a batch as a tuned client sends it.
REPLAY_RECORDS, REPLAY_SIZE = 250, 1000
REPLAY_BYTES = 1e9
FETCH_BATCHES = 4


def flow(prefix: str, records: float, size: int, seconds: float, cpu_s: float, system_s: float) -> Figures:
    """The figures of records that went one way."""
    volume = records * size
    return {
        f"{prefix}_cpu_s_per_gb": cpu_s / volume * GB,
        f"{prefix}_system_s_per_gb": system_s / volume * GB,
        f"{prefix}_mb_per_s": volume / seconds / 1e6,
        f"{prefix}_records_per_s": records / seconds,
    }


def produce_and_consume(
    arena: Arena, who: str, *, size: int, acks: str, batches: str, codec: str, share: float, read: bool
) -> Figures:
    """The Java client produces; then it and librdkafka read the same topic, one after the other."""
    broker = arena.standing(who)
    records = arena.scaled(VOLUME[size] * share / size, least=100)
    with arena.topic(broker, PARTITIONS) as topic:
        settings = {"producer.acks": acks, "producer.compression.type": codec, **BATCHES[batches]}
        with metered(broker.pid) as meter:
            done = arena.java.ask("produce", broker.port, topic, {"records": records, "size": size, **settings})
        figures = flow("produce", records, size, done["seconds"], meter.cpu_s, meter.system_s)
        figures["produce_cpu_us_per_request"] = meter.cpu_s / done["requests"] * 1e6
        if written(broker, topic, PARTITIONS) != records:
            raise RuntimeError("not all records were written")
        if read:
            with metered(broker.pid) as meter:
                done = arena.java.ask("consume", broker.port, topic, {"records": records, "partitions": PARTITIONS})
            figures |= flow("consume_java", records, size, done["seconds"], meter.cpu_s, meter.system_s)
            with metered(broker.pid) as meter:
                seconds = librdkafka.consume(broker.port, topic, PARTITIONS, records)
            figures |= flow("consume_librdkafka", records, size, seconds, meter.cpu_s, meter.system_s)
        return figures


def librdkafka_produce(arena: Arena, who: str, *, size: int) -> Figures:
    """librdkafka with its own defaults (large batches, linger.ms=5): lighter than the Java client."""
    broker = arena.standing(who)
    records = arena.scaled(VOLUME[size] / size, least=100)
    with arena.topic(broker, PARTITIONS) as topic:
        with metered(broker.pid) as meter:
            seconds = librdkafka.produce(broker.port, topic, records, size, {})
        if written(broker, topic, PARTITIONS) != records:
            raise RuntimeError("not all records were written")
        return flow("produce", records, size, seconds, meter.cpu_s, meter.system_s)


def crowd(arena: Arena, who: str, *, producers: int, consumers: int, partitions: int, size: int) -> Figures:
    """Java producers and consumers all at once; records a second, both directions added."""
    broker = arena.standing(who)
    records = arena.scaled(600_000, least=producers)
    with arena.topic(broker, partitions) as topic:
        options = {"producers": producers, "consumers": consumers, "partitions": partitions, "size": size}
        with metered(broker.pid) as meter:
            done = arena.java.ask("both", broker.port, topic, {"records": records, **options})
        return {
            "records_per_s": 2 * done["records"] / done["seconds"],
            "cpu_us_per_record": meter.cpu_s / done["records"] / 2 * 1e6,
        }


def fill(port: int, topic: str, partitions: int, volume: float) -> raw.Replayed:
    """Replay batches into a topic, partition by partition in turn."""
    batch = raw.make_batch(REPLAY_RECORDS, REPLAY_SIZE)
    frames = [raw.produce_frame(topic, index, batch) for index in range(partitions)]
    return raw.replay_produce(port, frames, int(volume))


def drain(port: int, topic: str, partitions: int, volume: float) -> raw.Replayed:
    """Read what `fill` has written."""
    batch = len(raw.make_batch(REPLAY_RECORDS, REPLAY_SIZE))
    return raw.replay_fetch(port, topic, partitions, batch, REPLAY_RECORDS, FETCH_BATCHES * batch, int(volume))


def replay(arena: Arena, who: str) -> Figures:
    """A client that costs next to nothing sends and reads batches of 250 records of 1 KB: the broker is the bottleneck."""
    broker = arena.standing(who)
    volume = arena.scaled(REPLAY_BYTES, least=20_000_000)
    with arena.topic(broker, PARTITIONS) as topic:
        with metered(broker.pid) as meter:
            done = fill(broker.port, topic, PARTITIONS, volume)
        figures = flow("produce", done.bytes, 1, done.seconds, meter.cpu_s, meter.system_s)
        with metered(broker.pid) as meter:
            done = drain(broker.port, topic, PARTITIONS, volume * 0.9)
        figures |= flow("consume", done.bytes, 1, done.seconds, meter.cpu_s, meter.system_s)
        return {name: value for name, value in figures.items() if "records" not in name}
