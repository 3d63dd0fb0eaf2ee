"""Cases: how long one record takes. One at a time, end to end at a rate, with an fsync each, beside background work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.compare import raw
from benchmarks.compare.arena import Arena, Broker, Figures, create, data_directory, metered, written
from benchmarks.compare.java import JavaLoad
from benchmarks.support.report import percentile

NO_LINGER = {"producer.acks": "all", "producer.linger.ms": 0}
END_TO_END_S = 10.0


def percentiles(milliseconds: Sequence[float], suffix: str = "") -> Figures:
    return {
        f"p50_ms{suffix}": percentile(milliseconds, 0.5),
        f"p99_ms{suffix}": percentile(milliseconds, 0.99),
        f"p999_ms{suffix}": percentile(milliseconds, 0.999),
        f"max_ms{suffix}": max(milliseconds),
    }


def one_record_per_request(arena: Arena, who: str, *, client: str) -> Figures:
    """One record of 100 B in flight, acks=all, one partition."""
    broker = arena.standing(who)
    requests = arena.scaled(10_000, least=200)
    with arena.topic(broker, 1) as topic:
        if client == "java":
            options = {"records": requests, "size": 100, **NO_LINGER}
            with metered(broker.pid) as meter:
                done = arena.java.ask("one-by-one", broker.port, topic, options)
            sent = int(done["records"])
            figures = {name: value for name, value in done.items() if name.endswith("_ms")}
        else:
            raw.one_by_one(broker.port, topic, 500, 100)
            before = written(broker, topic, 1)
            with metered(broker.pid) as meter:
                took = raw.one_by_one(broker.port, topic, requests, 100)
            sent = requests + 1
            if written(broker, topic, 1) - before != sent:
                raise RuntimeError("not all records were written")
            figures = percentiles(took)
        return {"cpu_us_per_request": meter.cpu_s / sent * 1e6, **figures}


def end_to_end(arena: Arena, who: str, *, rate: int, size: int, partitions: int) -> Figures:
    """From when a record was due until the consumer has it, Java client, linger.ms=0; rate 0: half of the maximum."""
    broker = arena.standing(who)
    if rate == 0:
        rate = int(_half_of_the_maximum(arena, size, partitions))
    seconds = max(1.0, END_TO_END_S * arena.scale)
    with arena.topic(broker, partitions) as topic:
        options = {"rate": rate, "seconds": seconds, "size": size, "partitions": partitions, **NO_LINGER}
        with metered(broker.pid) as meter:
            done = arena.java.ask("end-to-end", broker.port, topic, options)
        figures = {name: value for name, value in done.items() if name.endswith("_ms")}
        return {"rate": done["rate"], "cpu_share": meter.cpu_s / done["seconds"], **figures}


def _half_of_the_maximum(arena: Arena, size: int, partitions: int) -> float:
    """Half of what the slower of the two brokers carries from one producer to one consumer: both get the same rate."""
    if "half" not in arena.pair:
        rates = []
        for name in arena.contestants:
            broker = arena.standing(name)
            with arena.topic(broker, partitions) as topic:
                options = {"records": arena.scaled(300_000), "size": size, "partitions": partitions, **NO_LINGER}
                done = arena.java.ask("both", broker.port, topic, options)
                rates.append(done["records"] / done["seconds"])
        arena.pair["half"] = min(rates) / 2
    return arena.pair["half"]


def flush_every_message(arena: Arena, who: str, *, producers: int, size: int) -> Figures:
    """`flush.messages=1`: producers with one record in flight each; then the Java client's batches.

    `kafka without fsync` and `ottla without fsync` are both with their default, no fsync before the acknowledgement.
    """
    name, _, rest = who.partition(" ")
    broker = arena.standing(name)
    configs = {} if rest == "without fsync" else {"flush.messages": "1"}
    with arena.topic(broker, producers, configs) as topic:
        seconds = max(0.5, 4 * arena.scale)
        with metered(broker.pid) as meter:
            count, took = raw.many_at_once(broker.port, topic, producers, producers, seconds, size)
        if written(broker, topic, producers) != count + producers:
            raise RuntimeError("not all records were written")
        batched = {"records": arena.scaled(100_000, least=producers), "producers": producers, "size": size}
        done = arena.java.ask("produce", broker.port, topic, {**batched, "producer.acks": "all"})
        return {
            "records_per_s": count / took,
            "cpu_us_per_record": meter.cpu_s / count * 1e6,
            "batched_records_per_s": done["records"] / done["seconds"],
        }


#: Small segments and hasty background work, the same for both brokers.
RESTLESS = {
    "log.cleaner.backoff.ms": "200",
    "log.retention.check.interval.ms": "200",
    "log.cleaner.min.cleanable.ratio": "0.05",
    "log.initial.task.delay.ms": "500",
}
SEGMENT = {"segment.bytes": str(4 << 20)}
BUSY = {
    "compaction": {**SEGMENT, "cleanup.policy": "compact"},
    "deletion": {**SEGMENT, "retention.bytes": str(8 << 20)},
}
BACKGROUND_RATE = 10_000  # records of 1 KB a second


def beside_background_work(arena: Arena, who: str, *, work: str) -> Figures:
    """p99.9 of one record per request while another topic, written at 10 MB/s, is compacted or deleted from.

    Without: the same load into a topic with the same segments of which nothing is removed. Turn and turn about, twice.
    """
    seconds = max(1.5, 8 * arena.scale)
    quiet: list[float] = []
    busy: list[float] = []
    with arena.fresh(who, RESTLESS) as broker, JavaLoad() as load:
        create(broker, "probe", 1)
        create(broker, "untouched", 1, SEGMENT)
        create(broker, "worked-on", 1, BUSY[work])
        raw.one_by_one(broker.port, "probe", arena.scaled(5_000, least=500), 100)
        for _ in range(2):
            quiet += _probe(broker, load, "untouched", seconds)
            busy += _probe(broker, load, "worked-on", seconds)
        # What is left of the topic says whether there was any work.
        kept, whole = (
            sum(file.stat().st_size for file in data_directory(broker).glob(f"{topic}-0/*.log"))
            for topic in ("worked-on", "untouched")
        )
    figures = percentiles(busy, "_busy") | percentiles(quiet, "_quiet")
    return {**figures, "kept_share": kept / whole}


def _probe(broker: Broker, load: JavaLoad, topic: str, seconds: float) -> list[float]:
    """Latencies of one record per request while `load` writes into a topic."""
    records = int(BACKGROUND_RATE * (seconds + 1))
    options = {"records": records, "size": 1000, "rate": BACKGROUND_RATE, "keys": 2000, "producer.acks": "1"}
    load.start("produce", broker.port, topic, options)
    time.sleep(0.7)  # the client's own start
    took: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        took += raw.one_by_one(broker.port, "probe", 200, 100)
    load.finish()
    return took
