"""How fast Python programs produce and consume: ottla's client beside confluent-kafka, kafka-python and aiokafka.

    python -m benchmarks.client_speed [--pairs 5] [--records 2000000] [--only consume-columns,latency] [--beside confluent]
                                      [--out FILE]

One ottla broker, one topic of one partition, records of 100 bytes without keys, batches of up to 1 MB, acks=all. Each side
of a pair is a process of its own; the sides alternate, and a ratio is the median of the pairs' ratios. A side's figures are
records a second from its first record to its last (acknowledged, for producers), the CPU time of its whole process a record,
and how busy the broker's process was meanwhile; all after a tenth more records that are not counted, so that imports and
what is made at first use are no part of it. `latency` is the time from
before `send` to the record in the consumer's hands, in one process, at 1,000 records a second; `busy` runs the consumer of
columns beside a thread of pure Python.

Writes one line of JSON for each pair to --out (build/client_speed.jsonl): a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.support.brokers import Ottla, cpu_seconds
from benchmarks.support.report import table

VALUE = b"x" * 100
OUT = Path(__file__).parents[1] / "build" / "client_speed.jsonl"

#: Case: (ours, others).
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "consume-columns": ("consume_columns", ("consume_confluent",)),
    "produce-columns": ("produce_table", ("produce_confluent",)),
    "consume-records": (
        "consume_records",
        ("consume_confluent", "consume_async", "consume_kafka_python", "consume_aiokafka"),
    ),
    "produce-records": (
        "produce_records",
        ("produce_confluent", "produce_async", "produce_kafka_python", "produce_aiokafka"),
    ),
    "latency": ("latency_ottla", ("latency_confluent",)),
    "busy": ("consume_columns_busy", ("consume_confluent_busy",)),
}
#: These are ten times as slow: fewer records.
SLOW = ("kafka_python", "aiokafka")


class Meter:
    """What one side measures."""

    def __init__(self, broker_pid: int) -> None:
        self._broker_pid = broker_pid
        self._start = self._cpu = self._broker = 0.0

    def of(self, work: Callable[[int], int], count: int) -> dict[str, Any]:
        """Return the figures of work, after a tenth of it that is not counted; it returns how many records it did."""
        work(count // 10)
        self.begin()
        return self.end(work(count))

    async def of_async(self, work: Callable[[int], Awaitable[int]], count: int) -> dict[str, Any]:
        await work(count // 10)
        self.begin()
        return self.end(await work(count))

    def begin(self) -> None:
        self._start, self._cpu, self._broker = time.perf_counter(), time.process_time(), cpu_seconds(self._broker_pid)

    def end(self, records: int) -> dict[str, Any]:
        seconds = time.perf_counter() - self._start
        return {
            "records": records,
            "records_s": records / seconds,
            "cpu_ns": 1e9 * (time.process_time() - self._cpu) / records,
            "broker_busy": (cpu_seconds(self._broker_pid) - self._broker) / seconds,
        }


# -- consuming: from the start of a filled topic ------------------------------------------------------------------------


def consume_columns(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import ottla

    with ottla.Consumer(address, topics=[topic], auto_offset_reset="earliest") as consumer:
        batches = consumer.batches()

        def take(left: int) -> int:
            taken = 0
            while taken < left:
                batch = next(batches)
                batch.__arrow_c_array__()
                taken += len(batch)
            return taken

        return meter.of(take, count)


def consume_records(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import ottla

    with ottla.Consumer(address, topics=[topic], auto_offset_reset="earliest") as consumer:

        def take(left: int) -> int:
            for record in islice(consumer, left):
                record.value  # noqa: B018
            return left

        return meter.of(take, count)


def consume_async(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import ottla.aio

    async def run() -> dict[str, Any]:
        async with ottla.aio.Consumer(address, topics=[topic], auto_offset_reset="earliest") as consumer:
            return await meter.of_async(partial(taken, consumer), count)

    return asyncio.run(run())


async def taken(consumer: Any, left: int) -> int:
    """Take so many records of an asynchronous consumer."""
    wanted = left
    async for record in consumer:
        record.value  # noqa: B018
        left -= 1
        if not left:
            break
    return wanted


def consume_confluent(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "unused", "fetch.queue.backoff.ms": 10})
    consumer.assign([TopicPartition(topic, 0, 0)])

    def take(left: int) -> int:
        taken = 0
        while taken < left:
            for message in consumer.consume(1000, 1.0):
                message.value()
                taken += 1
        return taken

    found = meter.of(take, count)
    consumer.close()
    return found


def consume_kafka_python(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", group_id=None)

    def take(left: int) -> int:
        for record in islice(consumer, left):
            record.value  # noqa: B018
        return left

    found = meter.of(take, count)
    consumer.close()
    return found


def consume_aiokafka(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from aiokafka import AIOKafkaConsumer

    async def run() -> dict[str, Any]:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", group_id=None)
        await consumer.start()
        found = await meter.of_async(partial(taken, consumer), count)
        await consumer.stop()
        return found

    return asyncio.run(run())


def busily(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a side that runs beside a thread that does nothing but Python."""

    def run(*arguments: Any) -> dict[str, Any]:
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                sum(range(1000))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            return function(*arguments)
        finally:
            ended.set()
            thread.join()

    return run


# -- producing ----------------------------------------------------------------------------------------------------------


def produce_table(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import polars

    import ottla

    frame = polars.DataFrame({"value": [VALUE] * 100_000})
    with ottla.Producer(address, batch_size=1_000_000, linger_ms=5) as producer:

        def send(left: int) -> int:
            times = -(-left // len(frame))
            for _ in range(times):
                producer.send_table(topic, frame)
            producer.flush()
            return times * len(frame)

        return meter.of(send, count)


def produce_records(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import ottla

    with ottla.Producer(address, batch_size=1_000_000, linger_ms=5) as producer:

        def send(left: int) -> int:
            for _ in range(left):
                producer.send(topic, VALUE)
            producer.flush()
            return left

        return meter.of(send, count)


def produce_async(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import ottla.aio

    async def run() -> dict[str, Any]:
        async with ottla.aio.Producer(address, batch_size=1_000_000, linger_ms=5) as producer:
            return await meter.of_async(partial(sent, producer, topic), count)

    return asyncio.run(run())


async def sent(producer: Any, topic: str, left: int) -> int:
    """Send so many records by an asynchronous producer."""
    for _ in range(left):
        await producer.send(topic, VALUE)
    await producer.flush()
    return left


def produce_confluent(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "batch.size": 1_000_000,
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.list_topics(topic)

    def send(left: int) -> int:
        produce = producer.produce
        for number in range(left):
            while True:
                try:
                    produce(topic, VALUE)
                    break
                except BufferError:
                    producer.poll(0.01)
            if not number % 10_000:
                producer.poll(0)
        producer.flush()
        return left

    return meter.of(send, count)


def produce_kafka_python(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=address, acks="all", batch_size=1_000_000, linger_ms=5)
    producer.partitions_for(topic)

    def send(left: int) -> int:
        for _ in range(left):
            producer.send(topic, VALUE)
        producer.flush()
        return left

    found = meter.of(send, count)
    producer.close()
    return found


def produce_aiokafka(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from aiokafka import AIOKafkaProducer

    async def run() -> dict[str, Any]:
        producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", max_batch_size=1_000_000, linger_ms=5)
        await producer.start()
        found = await meter.of_async(partial(sent, producer, topic), count)
        await producer.stop()
        return found

    return asyncio.run(run())


# -- latency ------------------------------------------------------------------------------------------------------------


def paced(count: int) -> Iterable[bytes]:
    """Yield the time, 1,000 times a second."""
    start = time.perf_counter()
    for number in range(count):
        due = start + number / 1000
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        yield b"%d" % time.perf_counter_ns()


def percentiles(delays: list[float]) -> dict[str, Any]:
    delays.sort()
    return {"records": len(delays), **{f"p{part}_ms": delays[int(len(delays) * part / 100)] for part in (50, 99)}}


def latency_ottla(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    import ottla

    delays: list[float] = []
    started = threading.Event()

    def read() -> None:
        with ottla.Consumer(address, topics=[topic]) as consumer:
            consumer.position(ottla.TopicPartition(topic, 0))
            started.set()
            for record in consumer:
                delays.append((time.perf_counter_ns() - int(record.value_bytes or 0)) / 1e6)
                if len(delays) == count:
                    return

    with ottla.Producer(address, linger_ms=0) as producer:
        producer.partitions_for(topic)
        thread = threading.Thread(target=read)
        thread.start()
        started.wait()
        time.sleep(1)
        for stamp in paced(count):
            producer.send(topic, stamp)
        thread.join()
    return percentiles(delays[count // 10 :])


def latency_confluent(address: str, topic: str, count: int, meter: Meter) -> dict[str, Any]:
    from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

    delays: list[float] = []
    started = threading.Event()

    def read() -> None:
        consumer = Consumer({"bootstrap.servers": address, "group.id": "unused", "fetch.queue.backoff.ms": 10})
        consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
        consumer.poll(1)
        started.set()
        while len(delays) < count:
            message = consumer.poll(1)
            if message is not None and not message.error():
                delays.append((time.perf_counter_ns() - int(message.value() or 0)) / 1e6)
        consumer.close()

    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 0})
    producer.list_topics(topic)
    thread = threading.Thread(target=read)
    thread.start()
    started.wait()
    time.sleep(1)
    for stamp in paced(count):
        producer.produce(topic, stamp)
        producer.poll(0)
    producer.flush()
    thread.join()
    return percentiles(delays[count // 10 :])


SIDES: dict[str, Callable[[str, str, int, Meter], dict[str, Any]]] = {
    name: function
    for name, function in list(globals().items())
    if name.startswith(("consume_", "produce_", "latency_"))
}
SIDES["consume_columns_busy"] = busily(consume_columns)
SIDES["consume_confluent_busy"] = busily(consume_confluent)


# -- the run ------------------------------------------------------------------------------------------------------------


def measure(name: str, broker: Ottla, topic: str, count: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.client_speed", "--side", name, str(broker.port), topic, str(count)]
    done = subprocess.run([*command, str(broker.pid)], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fill(address: str, topic: str, count: int) -> None:
    import polars

    import ottla

    with ottla.Admin(address) as admin:
        admin.create_topic(topic, partitions=1, exists_ok=True)
    frame = polars.DataFrame({"value": [VALUE] * 100_000})
    with ottla.Producer(address, batch_size=1_000_000) as producer:
        for _ in range(-(-count // 100_000)):
            producer.send_table(topic, frame)


def count_of(name: str, count: int, pairs_latency: int) -> int:
    if name.startswith("latency"):
        return pairs_latency
    return count // 10 if any(word in name for word in SLOW) else count


def run(arguments: argparse.Namespace) -> None:
    wanted = arguments.only.split(",") if arguments.only else list(CASES)
    known = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    arguments.out.parent.mkdir(exist_ok=True)
    broker = Ottla()
    broker.prepare()
    broker.spawn()
    address = f"localhost:{broker.port}"
    try:
        fill(address, "filled", arguments.records * 11 // 10 + 200_000)
        fill(address, "quiet", 0)
        for case in wanted:
            ours, others = CASES[case]
            for other in others:
                if arguments.beside and not other.endswith(tuple(arguments.beside.split(","))):
                    continue
                have = sum((row["case"], row["other"]) == (case, other) for row in known)
                for pair in range(have, arguments.pairs):
                    row: dict[str, Any] = {"case": case, "ours": ours, "other": other}
                    for side in (ours, other) if pair % 2 else (other, ours):
                        count = count_of(side, arguments.records, arguments.latency_records)
                        topic = "filled" if side.startswith("consume") else "quiet"
                        if side.startswith("produce"):
                            topic = f"{case}-{other}-{pair}-{side}"
                            fill(address, topic, 0)
                        row["our" if side == ours else "their"] = measure(side, broker, topic, count)
                    known.append(row)
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    finally:
        broker.stop()
        broker.close()
    show(known)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table of medians."""
    lines: list[list[object]] = []
    for case, other in dict.fromkeys((row["case"], row["other"]) for row in rows):
        pairs = [(row["our"], row["their"]) for row in rows if (row["case"], row["other"]) == (case, other)]

        def middle(key: str, side: int, pairs: list[Any] = pairs) -> float:
            return float(statistics.median(pair[side][key] for pair in pairs))

        def ratio(key: str, pairs: list[Any] = pairs) -> str:
            return f"{statistics.median(one[key] / two[key] for one, two in pairs):.2f}x"

        if case == "latency":
            line = [f"{middle('p99_ms', 0):.2f} ms", f"{middle('p99_ms', 1):.2f} ms", ratio("p99_ms"), "", "", "", ""]
        else:
            line = [
                f"{middle('records_s', 0):,.0f}",
                f"{middle('records_s', 1):,.0f}",
                ratio("records_s"),
                f"{middle('cpu_ns', 0):.0f} ns",
                f"{middle('cpu_ns', 1):.0f} ns",
                ratio("cpu_ns"),
                f"{middle('broker_busy', 0):.0%}",
            ]
        lines.append([case, other, len(pairs), *line])
    headings = (
        "case",
        "beside",
        "pairs",
        "ours/s or p99",
        "theirs",
        "ratio",
        "our CPU",
        "theirs",
        "ratio",
        "broker busy",
    )
    table(
        f"CPython {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
        headings,
        lines,
    )


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        name, port, topic, count, pid = sys.argv[2:]
        print(json.dumps(SIDES[name](f"localhost:{port}", topic, int(count), Meter(int(pid)))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--latency-records", type=int, default=5_000)
    parser.add_argument("--only", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--beside", help="only these others: confluent, async, kafka_python, aiokafka")
    parser.add_argument("--out", type=Path, default=OUT)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
